"""Packed checkpoints: one safetensors file, tensors and a description of every packed layer.

The tensors are the converted model's `state_dict()`; `metadata.py` has what is said of them. If the
whole network is one program, the program is in the file, too (`program/file.py`), which then needs
no code of the model's.
Nothing in a file is run, and everything in it is checked before a kernel sees it.
"""

import os
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from sparse_ops._files import write_tensors
from sparse_ops.nn import SparseLayer
from sparse_ops.nn._folded import ACTIVATION, BATCH_NORM, Folded
from sparse_ops.planning import concat, fuse
from sparse_ops.planning.attention import split_
from sparse_ops.planning.candidates import REFERENCE, backend_refuses
from sparse_ops.planning.compiled import route_
from sparse_ops.planning.copies import copied
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.describe import check_layer_fits, packed_from, smallest_input
from sparse_ops.planning.fold import without_norm
from sparse_ops.planning.layout import CHANNELS_LAST, take_channels_last_
from sparse_ops.planning.masked import MARK, replaced, undisturbed
from sparse_ops.planning.metadata import (
    Description,
    check_folding,
    metadata_again,
    metadata_of,
    parse,
)
from sparse_ops.planning.plain import make_plain_
from sparse_ops.planning.programmed import with_programs_
from sparse_ops.planning.resize import resize_
from sparse_ops.program.file import described, kept_by
from sparse_ops.program.file import read as network_of
from sparse_ops.program.network import ProgramModel
from sparse_ops.program.watch import PREFIX


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a converted model to one safetensors file, which is whole or not there.

    Raises:
        ValueError: a packed layer of the model is not in `LAYERS`, or its state holds no tensor.
        OSError: the file cannot be written; one that was there stays as it was.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is {type(tensor).__name__}: only tensors can be saved")
        # A copy: weights that share memory are written under each of their names.
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    if isinstance(model, ProgramModel):
        metadata, more = metadata_again(model.description), kept_by(model)
    else:
        whole, more = described(model)
        metadata = metadata_of(model, whole)
    for name, tensor in more.items():
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    write_tensors(tensors, path, metadata)


class NeedsModel(ValueError):
    """A file whose network is no single program is loaded without a model."""


@undisturbed()
def load(
    path: str | os.PathLike[str], model: nn.Module | None = None, *, compile: bool = True
) -> nn.Module:
    """Reads a converted model that `save` wrote.

    Args:
        path: the file; it may come from a stranger.
        model: a dense model of the same architecture and dtype, as it was built. It is not
            changed. Default: none, if the file's network is one program.
        compile: whether a model that was saved compiled is compiled again, when it is first called
            with inputs like those that it was compiled for (`convert.compile_`).

    Returns:
        The converted model, in `model`'s mode. A backend that cannot run here becomes "auto".
        Without `model`, a `sparse_ops.program.network.ProgramModel`: its tensors have the names
        that they had, and it is always in eval mode.

    Raises:
        ValueError: the file is damaged, of another version, or not for this model; or there is no
            model and the file's network is no single program; says what is wrong.
        OSError: there is no such file, or it cannot be read.
    """
    metadata, tensors = read(path)
    try:
        about = parse(metadata)
        if model is None:
            return _without_model(about, metadata, tensors)
        if about.whole is not None:
            tensors = {name: t for name, t in tensors.items() if not name.startswith(PREFIX)}
        layers, folded, fusions = about.layers, about.folded, about.fusions
        fast = copied(model)
        make_plain_(fast)
        fast = split_(fast, about.split)
        resize_(fast, about.shrunk, layers.keys())
        check_folding(fast, about)
        fast = _pack(fast, layers, tensors)
        fast = _fold_away(fast, folded)
        fast = _fuse(fast, fusions)
        if about.concatenations:
            fast = concat.joined(fast, about.concatenations)
        _load_state(fast, tensors)
        if about.layout == CHANNELS_LAST:
            take_channels_last_(fast)
        for name, (decisions, shapes) in about.pieces.items():
            if name not in dict(fast.named_modules()):
                raise ValueError(f"it has a piece {name!r}, which the model does not have")
            _run_as_programs_(fast.get_submodule(name), decisions, shapes)
        if about.decisions is not None:
            _run_as_programs_(fast, about.decisions, about.shapes)
        if about.compiled and compile:
            route_(fast, about.compiled)
    except ValueError as error:
        kind = NeedsModel if isinstance(error, NeedsModel) else ValueError
        raise kind(f"{os.fspath(path)}: {error}") from error
    return fast


def _without_model(
    about: Description, metadata: dict[str, str], tensors: dict[str, Tensor]
) -> ProgramModel:
    if about.whole is None:
        raise NeedsModel(
            "its network is no single program, so that model= is needed: a dense model of the same "
            "architecture"
        )
    return network_of(about.whole, about.shapes, tensors, metadata["model"])


def read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file.

    Raises:
        ValueError: it is not a whole safetensors file.
        OSError: there is no such file, or it cannot be read.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder, a file was wanted")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return dict(file.metadata() or {}), tensors
    except OSError:
        raise
    # A damaged header can make the reader fail in any way, down to a dtype torch does not have.
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} is not a whole safetensors file: {error}") from error


def _pack(model: nn.Module, layers: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    modules = dict(model.named_modules())
    for name, meta in layers.items():
        if name not in modules:
            raise ValueError(f"it packs a layer {name!r}, which the model does not have")
        module = modules[name]
        try:
            check_layer_fits(module, meta)
            prefix = f"{name}." if name else ""
            own = {k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)}
            packed = packed_from(module, meta, own)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        packed.train(module.training)
        if hasattr(module, MARK):
            setattr(packed, MARK, getattr(module, MARK))
        if packed.backend not in ("auto", REFERENCE):
            x = smallest_input(packed)
            if backend_refuses(packed, packed.backend, x) is not None:
                packed.backend = "auto"
        model = replaced(model, name, packed)
    return model


def _fuse(model: nn.Module, fusions: list[fuse.Fusion]) -> nn.Module:
    """The model with what the file says is fused, if that is what the model does."""
    if not fusions:
        return model
    for fusion in fusions:
        layer = model.get_submodule(fusion.layer)
        assert isinstance(layer, SparseLayer)
        layer.activation = None
    return fuse.fused(model, fusions)


def _fold_away(model: nn.Module, folded: dict[str, Any]) -> nn.Module:
    for name, meta in folded.items():
        layer = model.get_submodule(meta["into"])
        if meta["what"] == BATCH_NORM and layer.bias is None:
            weight = layer.get_parameter("weight")
            layer.bias = nn.Parameter(weight.new_zeros(len(weight)), weight.requires_grad)
        norm = meta["what"] == BATCH_NORM
        left = without_norm(model.get_submodule(name), meta["into"]) if norm else None
        model = replaced(model, name, left or Folded(meta["into"], ACTIVATION))
    return model


def _run_as_programs_(
    fast: nn.Module, decisions: Decisions, shapes: tuple[tuple[int, ...], ...]
) -> None:
    """Has a loaded model run as the file says, if its graph is one that can.

    Raises:
        ValueError: the file is for another graph.
    """
    # One image is enough to see what follows what.
    example = tuple(torch.zeros(1, *shape[1:]) for shape in shapes)
    modes = {name: module.training for name, module in fast.named_modules()}
    try:
        with_programs_(fast.eval(), decisions, example, shapes, given_out=True)
    except RuntimeError as error:
        # Of torch: the model cannot be called so.
        sizes = [tuple(x.shape) for x in example]
        raise ValueError(
            f"the model does not run on inputs {sizes}, as the file has them: {error}"
        ) from error
    for name, module in fast.named_modules():
        module.training = modes[name]


def _load_state(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise ValueError(f"tensors are missing: {', '.join(missing[:5])}")
    if unexpected := sorted(tensors.keys() - wanted.keys()):
        raise ValueError(f"the model has no place for tensors {', '.join(unexpected[:5])}")
    for name, tensor in tensors.items():
        want = wanted[name]
        if want.is_meta:
            raise ValueError(f"the model's {name} is on the meta device: build it with memory")
        if want.shape != tensor.shape or want.dtype != tensor.dtype:
            raise ValueError(
                f"{name} must be {want.dtype} {tuple(want.shape)}, as in the model, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
