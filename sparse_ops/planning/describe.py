"""Describing a packed layer in plain data, and building it from a description that may be hostile.

Geometry is taken from the model, never from the file: the file only has to agree.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PackedWeight, PeriodicWeight
from sparse_ops.nn import CSRConvTranspose2d, PeriodicConv2d, SparseLayer
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.nn._folded import Folded
from sparse_ops.nn._height_one import HeightOne, as_conv2d
from sparse_ops.nn._phases import Phases
from sparse_ops.ops._activation import check_activation
from sparse_ops.patterns import Periodic
from sparse_ops.planning.candidates import LAYERS, Entry, entry_of
from sparse_ops.planning.compiled import Input
from sparse_ops.planning.masked import MARK, is_plain
from sparse_ops.planning.resize import shrunk_size

TRANSPOSED = ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups")
GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode")
# A longer period than any pattern needs; a file that names one is not worth its memory.
LONGEST_PERIOD = 4096


def describe(layer: SparseLayer) -> dict[str, Any]:
    """What a file says of a packed layer, beside its tensors.

    Raises:
        ValueError: the layer is not in `LAYERS`.
    """
    about: dict[str, Any] = {
        "kind": type(layer).__name__,
        "format": entry_of(layer).format,
        "shape": list(layer.shape),
        "dtype": _dtype_name(layer.values),
        "bias": layer.bias is not None,
        "activation": layer.activation,
        "backend": layer.backend,
    }
    if isinstance(layer, SparseConv2d):
        about |= {name: _plain(getattr(layer, name)) for name in GEOMETRY}
    if isinstance(layer, CSRConvTranspose2d):
        about |= {name: _plain(getattr(layer, name)) for name in TRANSPOSED}
    if isinstance(layer, PeriodicConv2d):
        about["supports"] = [list(support) for support in layer.pattern.supports]
        about["kernel_size"] = list(layer.pattern.kernel_size)
    return about


def folded_modules(model: nn.Module) -> dict[str, dict[str, str]]:
    """Name -> into which layer, and as what, of the modules that were folded away."""
    return {
        name: {"into": module.into, "what": module.what}
        for name, module in model.named_modules()
        if isinstance(module, Folded)
    }


def shrunk_modules(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Name -> what is left, of the modules that channels were removed from."""
    return {
        name: shrunk_size(module) for name, module in model.named_modules() if hasattr(module, MARK)
    }


def described(x: Input) -> dict[str, Any]:
    """What a file says of an input that a model is compiled for."""
    return {
        "shape": list(x.shape),
        "stride": list(x.stride),
        "dtype": _dtype_name(x),
    }


def inputs_described(about: Any) -> list[Input]:
    """The inputs that a file says a model is compiled for.

    Raises:
        ValueError: that is not what it says.
    """
    if not isinstance(about, list) or not all(isinstance(each, dict) for each in about):
        raise ValueError("compiled must be a list of shapes, strides and dtypes")
    inputs = []
    for each in about:
        shape, stride = _sizes(each.get("shape")), _sizes(each.get("stride"))
        dtype = getattr(torch, str(each.get("dtype")), None)
        if shape is None or stride is None or not isinstance(dtype, torch.dtype):
            raise ValueError("compiled must be a list of shapes, strides and dtypes")
        inputs.append(Input(shape, stride, dtype))
    return inputs


def _sizes(given: Any) -> tuple[int, ...] | None:
    right = isinstance(given, list) and all(type(size) is int for size in given)
    return tuple(given) if right else None


def _dtype_name(tensor: Tensor | Input) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _weight_of(module: nn.Module) -> tuple[tuple[int, ...], Tensor]:
    """(shape of the dense weight, a tensor of its dtype and device)."""
    if isinstance(module, SparseLayer):
        return module.shape, module.values
    weight = module.get_parameter("weight")
    if isinstance(module, nn.ConvTranspose2d):
        phases = Phases.of(module)
        return (phases.count * module.out_channels, module.in_channels, *phases.window), weight
    return tuple(weight.shape), weight


def _of_height_one(module: nn.Module) -> nn.Module:
    """A module, an nn.Conv1d as what its packed layers take it for."""
    return as_conv2d(module) if isinstance(module, nn.Conv1d) else module


def check_layer_fits(module: nn.Module, about: Mapping[str, Any]) -> Entry:
    """The line of `LAYERS` that a description names.

    Raises:
        ValueError: there is none, or the description is not of a layer like the model's.
    """
    entries = {entry.layer.__name__: entry for entry in LAYERS}
    kind = about.get("kind")
    if not isinstance(kind, str) or kind not in entries:
        raise ValueError(f"kind must be one of {', '.join(entries)}, got {kind!r}")
    entry = entries[kind]
    if type(module) is not entry.layer and not is_plain(module, entry.layer.DENSE):
        raise ValueError(f"{kind} cannot stand for the model's {type(module).__name__}")
    module = _of_height_one(module)
    shape, weight = _weight_of(module)
    wanted: dict[str, Any] = {
        "format": entry.format,
        "shape": list(shape),
        "dtype": _dtype_name(weight),
    }
    if issubclass(entry.layer, SparseConv2d):
        wanted |= {name: _plain(getattr(module, name)) for name in GEOMETRY}
    if issubclass(entry.layer, CSRConvTranspose2d):
        wanted |= {name: _plain(getattr(module, name)) for name in TRANSPOSED}
    if isinstance(module, SparseLayer):
        wanted["activation"] = module.activation
    for name, value in wanted.items():
        if about.get(name) != value:
            raise ValueError(f"{name} must be {value!r}, as in the model, got {about.get(name)!r}")
    if "activation" not in about:
        raise ValueError("activation must be a name or none, and is not there")
    activation = about["activation"]
    if activation is not None and not isinstance(activation, str):
        raise ValueError(f"activation must be a name or none, got {activation!r}")
    check_activation(activation)
    backends = ("auto", *(backend.name for backend in entry.backends))
    if about.get("backend") not in backends:
        raise ValueError(
            f"backend must be one of {', '.join(backends)}, got {about.get('backend')!r}"
        )
    if type(about.get("bias")) is not bool:
        raise ValueError(f"bias must be true or false, got {about.get('bias')!r}")
    return entry


def packed_from(
    module: nn.Module, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> SparseLayer:
    """The packed layer in the place of `module`.

    Args:
        module: the model's layer there.
        about: what the file says of it.
        tensors: those of the layer, by their names in it.

    Raises:
        ValueError: description or tensors are not of a layer like the model's, or of no valid one.
    """
    entry = check_layer_fits(module, about)
    module = _of_height_one(module)
    shape, weight = _weight_of(module)
    packed = _unpack(entry.format, shape, about, tensors)
    packed.validate()
    if packed.values.dtype != weight.dtype:
        raise ValueError(f"values must be {weight.dtype}, got {packed.values.dtype}")
    bias = _take(tensors, "bias") if about["bias"] else None
    outputs = module.out_channels if entry.layer is CSRConvTranspose2d else shape[0]
    if bias is not None and (tuple(bias.shape) != (outputs,) or bias.dtype != weight.dtype):
        raise ValueError(
            f"bias must be {weight.dtype} ({outputs}), got {bias.dtype} {tuple(bias.shape)}"
        )
    options = {"activation": about["activation"], "backend": about["backend"]}
    like = (module,) if issubclass(entry.layer, SparseConv2d | CSRConvTranspose2d) else ()
    layer: SparseLayer = entry.layer.from_packed(packed, bias, *like, **options)
    layer.requires_grad_(weight.requires_grad)
    return layer.to(weight.device)


def _take(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"tensor {name} is missing")
    return tensors[name]


def _unpack(
    format_: str, shape: tuple[int, ...], about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> PackedWeight:
    values = _take(tensors, "values")
    if format_ == "csr":
        crow, col = _take(tensors, "crow_indices"), _take(tensors, "col_indices")
        return CSRWeight(crow, col, values, shape)
    if format_ == "channel_pruned":
        if about["groups"] != 1:
            raise ValueError(f"groups must be 1 to be channel-pruned, got {about['groups']}")
        out = _take(tensors, "kept_out_channels")
        return ChannelPrunedWeight(values, out, _take(tensors, "kept_in_channels"), shape)
    return PeriodicWeight.on_pattern(values, _pattern(about, shape), shape)


def _pattern(about: Mapping[str, Any], shape: tuple[int, ...]) -> Periodic:
    supports, kernel_size = about.get("supports"), about.get("kernel_size")
    if kernel_size != list(shape[2:]):
        raise ValueError(f"kernel_size must be {list(shape[2:])}, got {kernel_size!r}")
    if not isinstance(supports, list) or not 1 <= len(supports) <= LONGEST_PERIOD:
        raise ValueError(f"supports must be 1 to {LONGEST_PERIOD} lists of taps")
    for support in supports:
        if not isinstance(support, list) or any(type(tap) is not int for tap in support):
            raise ValueError(f"a support must be a list of taps, got {support!r:.80}")
    return Periodic(tuple(tuple(s) for s in supports), (shape[2], shape[3]))


def smallest_input(layer: SparseLayer) -> Tensor:
    """The smallest input that the layer takes, to ask a backend whether it runs such layers."""
    if isinstance(layer, SparseConv2d):
        size = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        size = size[1:] if isinstance(layer, HeightOne) else size
        return layer.values.new_ones(1, layer.in_channels, *size, requires_grad=False).detach()
    if isinstance(layer, CSRConvTranspose2d):
        size = [axis.least for axis in layer.phases.axes]
        return layer.values.new_ones(1, layer.in_channels, *size, requires_grad=False).detach()
    return torch.ones(1, layer.shape[1], dtype=layer.values.dtype, device=layer.values.device)
