"""Checkpoints that people have: which state dicts are in a file, and which is a model's.

A file may hold one state dict, or several under names of their own (`state_dict`, `model`, `ema`,
`generator`, ...), at any depth, beside whatever a training run keeps. A state dict is known by what
it is, names with tensors, and not by what it is called. Each has a key: the names that lead to it,
with / between them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from sparse_ops.cli import numpy_pickles
from sparse_ops.cli.errors import UserError
from sparse_ops.masks import Masks, plain_state, sparsifier_masks
from sparse_ops.models.names import Match, Several, matched

ROOT = "/"

State = dict[str, Tensor]


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        kind: of the file, in words.
        states: key → state dict.
        masks: of a sparsifier of torch.ao.pruning that was saved beside them.
        modules: key → module, of whole pickled models.
    """

    path: Path
    kind: str
    states: dict[str, State] = field(default_factory=dict)
    masks: Masks = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)

    def chosen(self, key: str = "") -> dict[str, State]:
        """The state dict of that key; all, if no key is said.

        A part of a state dict has one, too: what its names begin with, as in `state_dict/teacher`.

        Raises:
            UserError: there is none.
        """
        if not key or key in self.states:
            return {key: self.states[key]} if key else self.states
        for base, state in self.states.items():
            rest = key if base == ROOT else key.removeprefix(f"{base}/")
            inner = _within(state, f"{rest.rstrip('.')}.")
            if inner and (base == ROOT or rest != key):
                return {key: inner}
        raise UserError(f"{self.path} has no {key!r}; it has {_listed(self.states)}")

    def module(self, key: str = "") -> nn.Module | None:
        """The one whole model, if the file has some.

        Raises:
            UserError: it has several, or none of that key.
        """
        found = {k: m for k, m in self.modules.items() if k == key or not key}
        if len(found) > 1 or (key and self.modules and not found):
            raise UserError(
                f"{self.path} holds whole models {', '.join(self.modules)}: choose with --key"
            )
        model = next(iter(found.values()), None)
        while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        return model


def contents(path: Path, trust_pickle: bool = False) -> Contents:
    """Reads a file, by its ending or by what is in it, without running anything that is in it.

    Args:
        path: safetensors, the HDF5 (.hdf5, .h5) or .npz files of the GSM authors, TorchScript, or
            what torch.save writes.
        trust_pickle: whether what is in the last kind of file may be run.

    Raises:
        UserError: it is none of these, or damaged, or holds no tensors; says what is in it.
        OSError: there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        kind, loaded = _safetensors(path)
    elif path.suffix in (".hdf5", ".h5", ".npz"):
        from sparse_ops.training import hdf5

        kind = "NumPy arrays" if path.suffix == ".npz" else "HDF5"
        found = hdf5.load(path)
        loaded = {str(name): value for name, value in found.items() if name != hdf5.DEPS}
    else:
        from sparse_ops.cli import torch_files

        kind, loaded = torch_files.load(path, trust_pickle)
    held = Contents(path, kind)
    _find_(held, loaded, ROOT, set())
    # A count or a loss in a tensor is no state dict, if there is something that is more like one.
    networks = {key: s for key, s in held.states.items() if any(t.dim() > 1 for t in s.values())}
    states = networks or held.states
    if not states:
        raise UserError(f"{path} holds no names with tensors, but {_said(loaded)}")
    return Contents(path, kind, states, held.masks, held.modules)


def load_(model: nn.Module, held: Contents, key: str = "") -> Masks:
    """Loads the state dict that is the model's, in place, and says so where that is not plain.

    Returns:
        The masks that pruning tools of torch's have left in the file, by the model's names.

    Raises:
        UserError: none of them is this model's, or several are.
    """
    if "format sparse_ops." in held.kind:
        raise UserError(f"{held.path} holds {held.kind}: a dense model's tensors were wanted")
    fits: dict[str, tuple[Match, Masks] | None] = {}
    reasons: dict[str, str] = {}
    candidates = held.chosen(key)
    for name, state in candidates.items():
        try:
            plain, masks = plain_state(state, held.masks)
            fits[name] = matched(model, plain), masks
        except Several as several:
            start = "" if name == ROOT else f"{name}/"
            fits |= {f"{start}{prefix.rstrip('.')}": None for prefix in several.prefixes}
        except ValueError as error:
            reasons[name] = str(error)
    if not fits:
        told = [f"{name}: {reason}" for name, reason in reasons.items()]
        words = "; ".join(told if len(told) > 1 else reasons.values())
        raise UserError(f"{held.path} is not of this model: {words}")
    if len(fits) > 1:
        listed = _listed({name: next(iter(held.chosen(name).values())) for name in fits})
        raise UserError(
            f"{held.path} holds several state dicts of this model: {listed}; choose one, such as "
            f"--key {next(iter(fits))}"
        )
    ((name, fit),) = fits.items()
    assert fit is not None
    match, masks = fit
    model.load_state_dict(match.state, strict=False)
    _tell(held.path, name if len(candidates) > 1 else "", match)
    return {ours: masks[theirs] for ours, theirs in match.sources.items() if theirs in masks}


def _tell(path: Path, key: str, match: Match) -> None:
    if key:
        typer.echo(f"{path.name}: {key} is this model's")
    if match.renamed:
        told = [f"{theirs} → {ours}" for theirs, ours in match.renamed.items()]
        typer.echo(f"{path.name}: layers matched {match.how}: {_first(told)}")
    if match.left:
        typer.echo(f"{path.name}: not the model's, and left out: {_first(match.left)}")


def _find_(held: Contents, value: Any, key: str, seen: set[int]) -> None:
    """Adds what is in a value to what is held; `seen` are the ids of what has been looked into."""
    if id(value) in seen:
        return
    if isinstance(value, (nn.Module, Mapping, list, tuple)):
        seen.add(id(value))
    inside = "" if key == ROOT else f"{key}/"
    if isinstance(value, nn.Module):
        # Masks of torch.ao.pruning are buffers that its modules leave out of their state.
        left = {n: b for n, b in value.named_buffers() if f".{n}".find(".parametrizations.") >= 0}
        held.modules[key] = value
        held.states[key] = _tensors(dict(value.state_dict()) | left)
    elif isinstance(value, Mapping):
        masks = sparsifier_masks(value)
        held.masks.update(masks)
        # What an optimizer keeps is named like weights, too.
        if masks or "param_groups" in value:
            return
        tensors = _tensors(value)
        if any(tensor.dim() > 0 for tensor in tensors.values()):
            held.states[key] = tensors
        for name, inner in value.items():
            _find_(held, inner, f"{inside}{name}", seen)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            _find_(held, inner, f"{inside}{number}", seen)


def _tensors(values: Mapping[Any, Any]) -> State:
    """What is named and has numbers; lists, counts and settings beside it are left."""
    found = {}
    for name, value in values.items():
        if not isinstance(value, Tensor):
            value = numpy_pickles.tensor(value)
        if not isinstance(name, str) or value is None:
            continue
        value = value.detach()
        if value.is_quantized:
            value = value.dequantize()
        found[name] = value if value.layout == torch.strided else value.to_dense()
    return found


def _safetensors(path: Path) -> tuple[str, State]:
    from sparse_ops.planning.checkpoint import read

    metadata, tensors = read(path)
    kinds = {"sparse_ops.masks": "masks, zero means removed", "sparse_ops.packed": "packed"}
    found = metadata.get("format", "")
    kind = next((words for start, words in kinds.items() if found.startswith(start)), "tensors")
    version = f", format {found} {metadata.get('version', '')}".rstrip() if found else ""
    return kind + version, tensors


def _within(state: State, prefix: str) -> State:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _first(names: Iterable[str], count: int = 3) -> str:
    every = list(names)
    rest = f" and {len(every) - count} more" if len(every) > count else ""
    return f"{', '.join(every[:count])}{rest}"


def _listed(states: Mapping[str, State]) -> str:
    return _first(
        [
            f"{key} ({len(state)} tensors, {sum(t.numel() for t in state.values()):,} numbers)"
            for key, state in states.items()
        ],
        10,
    )


def _said(value: Any) -> str:
    """What a file holds in place of tensors."""
    if isinstance(value, Mapping):
        return f"a dict with {_first([str(name) for name in value], 6) or 'nothing'}"
    return type(value).__name__
