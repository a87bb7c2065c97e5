"""Models and inputs, as a command line names them."""

import importlib
import inspect
import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from sparse_ops._files import replacing
from sparse_ops.cli.errors import UserError
from sparse_ops.masks import Masks, plain_state, save, sparsifier_masks
from sparse_ops.planning.checkpoint import read

_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError)


def build(
    spec: str,
    *,
    classes: int = 10,
    channels: int = 1,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """One of our models by its name, or what `package.module:function` gives without arguments.

    Args:
        classes, channels: of one of our models, where `options` do not say them.
        options: of its function, such as {"variant": "imagenet"}.

    Raises:
        UserError: there is no such model, or it cannot be built.
    """
    from sparse_ops.models import MODELS

    chosen = dict(options or {})
    if ":" in spec:
        if chosen:
            raise UserError(f"{spec} is called without arguments: it takes no {', '.join(chosen)}")
        return _imported(spec)
    if spec not in MODELS:
        raise UserError(
            f"there is no model {spec!r}; there are {', '.join(MODELS)}, "
            "and your own as package.module:function"
        )
    known = inspect.signature(MODELS[spec]).parameters
    if unknown := [key for key in chosen if key not in known]:
        raise UserError(f"{spec} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    chosen.setdefault("num_classes", classes)
    if "in_channels" in known:
        chosen.setdefault("in_channels", channels)
    elif channels != 1:
        raise UserError(f"{spec} takes images of 1 channel, not {channels}")
    try:
        return MODELS[spec](**chosen)
    except TypeError as error:
        raise UserError(f"{spec} cannot be built with {chosen}: {error}") from error


def _imported(spec: str) -> nn.Module:
    module_name, _, function = spec.partition(":")
    # An installed script does not look in the current folder; `python -m` does.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        model = getattr(importlib.import_module(module_name), function)()
    except Exception as error:
        raise UserError(f"{spec} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec} must give an nn.Module, got {type(model).__name__}")
    return model


def input_shape(text: str) -> tuple[int, ...]:
    """(C, H, W), or whatever one example is, of "1,28,28".

    Raises:
        UserError: it is no list of numbers above 0.
    """
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UserError(f"--input must be numbers above 0, such as 1,28,28, got {text!r}")
    return shape


def random_example(batch: int, shape: tuple[int, ...]) -> tuple[Tensor]:
    """Random numbers, the same in every run; none of them is zero."""
    if batch < 1:
        raise UserError(f"--batch must be at least 1, got {batch}")
    return (torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)),)


def read_state(path: Path) -> tuple[dict[str, Tensor], Masks]:
    """A checkpoint's tensors, and the masks that pruning tools of torch's have left among them.

    Reads what `torch.save(model.state_dict())` wrote, or that as "state_dict", "model_state_dict",
    "model" or "net" in a dict, maybe beside what a sparsifier of torch.ao.pruning has (in plain
    dicts: torch reads no other), without running anything that is in it; safetensors files; and the
    HDF5 (.hdf5, .h5) and .npz files of the GSM authors.

    Raises:
        UserError: the file holds no state dict, or something other than tensors.
        OSError: there is no such file.
    """
    masks: Masks = {}
    if path.suffix == ".safetensors":
        metadata, state = read(path)
        if "format" in metadata and metadata["format"].startswith("sparse_ops."):
            raise UserError(f"{path} holds {metadata['format']}, not a dense model's tensors")
    elif path.suffix in (".hdf5", ".h5", ".npz"):
        from sparse_ops.training import hdf5

        found = hdf5.load(path)
        state = {str(name): value for name, value in found.items() if name != hdf5.DEPS}
    else:
        state, masks = torch_load(path)
    try:
        return plain_state(state, masks)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def torch_load(path: Path) -> tuple[dict[str, Tensor], Masks]:
    """The model's tensors, and the masks of a sparsifier that was saved beside it."""
    with path.open("rb") as file:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        # A file that ends too soon is an OSError to torch.
        except (*_DAMAGE, OSError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"{path} cannot be read as tensors only: {first} "
                "(wanted: what torch.save(model.state_dict(), path) writes)"
            ) from error
    masks: Masks = {}
    if isinstance(loaded, dict):
        for beside in loaded.values():
            masks |= sparsifier_masks(beside)
        models = [loaded.get(key) for key in ("state_dict", "model_state_dict", "model", "net")]
        loaded = next((model for model in models if isinstance(model, dict)), loaded)
    if not isinstance(loaded, dict) or not loaded:
        raise UserError(f"{path} must hold a state dict, got {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {name} must be a tensor, got {type(value).__name__}")
    return dict(loaded), masks


def write(model: nn.Module, masks: Masks, folder: Path) -> None:
    """Writes a trained model's tensors, as `read_state` reads them, and its masks."""
    with replacing(folder / "model.pt") as temporary:
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, temporary)
    save(masks, folder / "masks.safetensors")


def load_dense(model: nn.Module, state: dict[str, Tensor], path: Path) -> nn.Module:
    """The model in eval mode with these weights; says so where they are named otherwise.

    Raises:
        UserError: they are not this model's.
    """
    from sparse_ops.models.names import matched

    try:
        match = matched(model, state)
        model.load_state_dict(match.state, strict=False)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not of this model: {error}") from error
    if match.renamed:
        told = [f"{theirs} → {ours}" for theirs, ours in match.renamed.items()]
        rest = f" and {len(told) - 3} more" if len(told) > 3 else ""
        typer.echo(f"{path.name}: layers matched {match.how}: {', '.join(told[:3])}{rest}")
    return model.eval()


def run_of(checkpoint: Path) -> dict[str, Any]:
    """What `train` wrote of the run that made a checkpoint; nothing if there is no such file."""
    try:
        result = json.loads((checkpoint.parent / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}
