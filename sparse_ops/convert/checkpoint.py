"""Packed checkpoints: one safetensors file, tensors and a description of every packed layer.

The tensors are the converted model's `state_dict()`. The metadata holds `format`, `version` and, as
JSON, what `describe.py` says of the packed layers, of the modules that were folded away, and of
those that channels were removed from. Nothing in a file is run, and everything in it is checked
before a kernel sees it.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparse_ops._files import replacing
from sparse_ops.convert import fuse
from sparse_ops.convert.candidates import REFERENCE, backend_refuses
from sparse_ops.convert.describe import (
    check_layer_fits,
    describe,
    folded_modules,
    packed_from,
    shrunk_modules,
    smallest_input,
)
from sparse_ops.convert.fold import (
    ACTIVATION,
    BATCH_NORM,
    Folded,
    activation_name,
    is_norm,
    without_norm,
)
from sparse_ops.convert.layout import CHANNELS_LAST, is_channels_last, take_channels_last_
from sparse_ops.convert.prepare import copied, make_plain_, replaced
from sparse_ops.convert.resize import resize_
from sparse_ops.convert.shrink import MARK
from sparse_ops.nn import SparseLayer
from sparse_ops.ops._activation import ACTIVATIONS

FORMAT, VERSION = "sparse_ops.packed", "1"


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a converted model to one safetensors file, which is whole or not there.

    Raises:
        ValueError: a packed layer of the model is not in `LAYERS`, or its state holds no tensor.
        OSError: the file cannot be written; one that was there stays as it was.
    """
    layers = {
        name: describe(module)
        for name, module in model.named_modules()
        if isinstance(module, SparseLayer)
    }
    about: dict[str, Any] = {
        "layers": layers,
        "folded": folded_modules(model),
        "shrunk": shrunk_modules(model),
    }
    if is_channels_last(model):
        about["layout"] = CHANNELS_LAST
    if fusions := fuse.fusions_of(model):
        about["fused"] = {
            each.layer: {"activation": each.activation, "residual": each.residual}
            for each in fusions
        }
    description = json.dumps(about)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is {type(tensor).__name__}: only tensors can be saved")
        # A copy: weights that share memory are written under each of their names.
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    metadata = {"format": FORMAT, "version": VERSION, "model": description}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Reads a converted model that `save` wrote.

    Args:
        path: the file; it may come from a stranger.
        model: a dense model of the same architecture and dtype, as it was built. It is not
            changed.

    Returns:
        The converted model, in `model`'s mode. A backend that cannot run here becomes "auto".

    Raises:
        ValueError: the file is damaged, of a newer version, or not for this model; says what is
            wrong.
        OSError: there is no such file, or it cannot be read.
    """
    metadata, tensors = read(path)
    try:
        about = parse(metadata)
        layers, folded, fusions = about.layers, about.folded, about.fusions
        fast = copied(model)
        make_plain_(fast)
        resize_(fast, about.shrunk, layers.keys())
        _check_folding(fast, layers, folded, fusions)
        fast = _pack(fast, layers, tensors)
        fast = _fold_away(fast, folded)
        fast = _fuse(fast, fusions)
        _load_state(fast, tensors)
        if about.layout == CHANNELS_LAST:
            take_channels_last_(fast)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    return fast


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


@dataclass(frozen=True)
class Description:
    """What a file's metadata says; whether it is all of a given model is checked later.

    Attributes:
        layers: the packed layers, by name.
        folded: the modules that were folded away.
        shrunk: the modules that channels were removed from.
        fusions: what packed layers do beside, in a traced model.
        layout: "channels_last", or None.
    """

    layers: dict[str, Any]
    folded: dict[str, Any]
    shrunk: dict[str, Any]
    fusions: list[fuse.Fusion]
    layout: str | None


def parse(metadata: dict[str, str]) -> Description:
    """What the metadata says.

    Raises:
        ValueError: it is not the metadata of a packed model, or is of a newer version.
    """
    if metadata.get("format") != FORMAT:
        raise ValueError(f"it holds {metadata.get('format', 'plain tensors')!r}, not {FORMAT}")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"it is of version {metadata.get('version')!r}; this library reads version {VERSION}"
        )
    try:
        description = json.loads(metadata.get("model", ""))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its description is not JSON: {error}") from error
    parts = []
    for key in ("layers", "folded", "shrunk", "fused"):
        # Files of models in which nothing was shrunk or fused need not say so.
        missing: Any = {} if key in ("shrunk", "fused") else None
        part = description.get(key, missing) if isinstance(description, dict) else None
        if not isinstance(part, dict) or not all(isinstance(v, dict) for v in part.values()):
            raise ValueError(f"its description must have {key!r}, a table by module name")
        parts.append(part)
    for name, meta in parts[0].items():
        # First of all: what a later version can do must not look like damage.
        activation = meta.get("activation")
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            raise ValueError(
                f"layer {name!r} applies the activation {activation!r:.80}, which this version "
                "does not know: a newer one may have written the file"
            )
    layout = description.get("layout")
    if layout not in (None, CHANNELS_LAST):
        raise ValueError(f"layout must be {CHANNELS_LAST} or not there, got {layout!r:.80}")
    fusions = []
    for name, meta in parts[3].items():
        activation, residual = meta.get("activation"), meta.get("residual")
        if not isinstance(activation, str | None) or type(residual) is not bool:
            raise ValueError(f"what is fused into {name!r} must be a name and true or false")
        fusions.append(fuse.Fusion(name, activation, residual))
    return Description(parts[0], parts[1], parts[2], fusions, layout)


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


def _check_folding(
    model: nn.Module, layers: dict[str, Any], folded: dict[str, Any], fusions: list[fuse.Fusion]
) -> None:
    """Raises ValueError unless each folded module may be, and accounts for what its layer does."""
    modules = dict(model.named_modules())
    does: dict[str, set[str]] = {BATCH_NORM: set(), ACTIVATION: set()}
    for name, meta in folded.items():
        into, what = meta.get("into"), meta.get("what")
        if name not in modules or not isinstance(into, str) or into not in modules:
            raise ValueError(f"it folds {name!r} into {into!r}, but the model has not both")
        module, layer = modules[name], modules[into]
        if what == BATCH_NORM:
            _check_norm(name, module, layer)
        elif what != ACTIVATION or into not in layers:
            raise ValueError(f"it folds {name!r} into {into!r} as {what!r}, which cannot be")
        elif activation_name(module) != layers[into].get("activation"):
            raise ValueError(
                f"it folds {name!r}, a {type(module).__name__}, into {into!r}, "
                f"which applies {layers[into].get('activation')!r}"
            )
        does[what].add(into)
    in_graph = {fusion.layer: fusion for fusion in fusions}
    for name in in_graph:
        if name not in layers or name not in modules or name in does[ACTIVATION]:
            raise ValueError(f"it fuses something into {name!r}, which cannot be")
        if isinstance(modules[name], SparseLayer):
            raise ValueError(f"it fuses something into {name!r}, which the model has packed itself")
        if layers[name].get("activation") != in_graph[name].activation:
            raise ValueError(f"layer {name!r} applies another activation than is fused into it")
    for name, meta in layers.items():
        layer = modules.get(name, model)
        fused = name in in_graph or name in does[ACTIVATION] or isinstance(layer, SparseLayer)
        if meta.get("activation") is not None and not fused:
            raise ValueError(f"layer {name!r} applies an activation that the model does not have")
        biased = getattr(layer, "bias", None) is not None or name in does[BATCH_NORM]
        if bool(meta.get("bias")) != biased:
            raise ValueError(f"layer {name!r} must {'' if biased else 'not '}have a bias")


def _check_norm(name: str, norm: nn.Module, layer: nn.Module) -> None:
    if isinstance(layer, SparseLayer):
        width = layer.shape[0]
    elif type(layer) in (nn.Conv2d, nn.Linear):
        # A BatchNorm that is folded away is as wide as its layer was before it was shrunk.
        width = getattr(layer, MARK, layer.get_parameter("weight").shape)[0]
    else:
        raise ValueError(f"it folds {name!r} into a {type(layer).__name__}, which cannot be")
    known = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and is_norm(norm)
    if not known or norm.num_features != width:
        raise ValueError(f"it folds {name!r}, which is no BatchNorm of {width} channels")


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
