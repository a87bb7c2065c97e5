"""Resizing: a model as it was built gets the widths that a file of a shrunk one names.

The file may be hostile: it may make layers narrower than the model's, give them a bias, or put
their bias in their place; make other tensors narrower, and the numbers that go with them smaller;
nothing else.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from sparse_ops.nn import CSRConvTranspose2d, SparseLayer
from sparse_ops.nn._constant import Constant
from sparse_ops.nn._height_one import HeightOne
from sparse_ops.planning.masked import MARK, replaced

KEYS = ("shape", "groups", "bias", "constant")
# What other modules say of their sizes beside their tensors.
NUMBERS = (
    "in_channels", "out_channels", "groups", "num_features", "num_channels", "num_groups",
    "num_parameters",
)  # fmt: skip


def own_sizes(module: Any) -> dict[str, Any]:
    """The sizes of a module's own tensors, and what it says of them."""
    tensors: dict[str, Any] = {**module._parameters, **module._buffers}
    kept = tensors.keys() - module._non_persistent_buffers_set
    shapes = {n: list(t.shape) for n, t in tensors.items() if t is not None and n in kept}
    numbers = {name: vars(module)[name] for name in NUMBERS if name in vars(module)}
    return {"tensors": shapes, "numbers": numbers}


def shrunk_size(module: Any) -> dict[str, Any]:
    """What a file says of a module that channels were removed from."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return {"shape": [module.num_features]}
    if isinstance(module, HeightOne | CSRConvTranspose2d):
        return own_sizes(module.without_activation())
    if not isinstance(module, Constant | SparseLayer | nn.Conv2d | nn.Linear):
        return own_sizes(module)
    whole = isinstance(module, Constant | SparseLayer)
    shape: Any = module.shape if whole else module.weight.shape
    return {
        "shape": list(shape),
        "groups": getattr(module, "groups", 1),
        "bias": module.bias is not None,
        "constant": isinstance(module, Constant),
    }


def resize_(
    model: nn.Module, shrunk: Mapping[str, Mapping[str, Any]], packed: Collection[str]
) -> None:
    """Gives modules the sizes that a file names, in place; what they hold is not set.

    Args:
        model: plain.
        shrunk: module name -> what `shrunk_size` said.
        packed: the layers that will be packed, which cannot be constants.

    Raises:
        ValueError: a size is none that shrinking this model can give.
    """
    modules = dict(model.named_modules())
    made: dict[int, tuple[Any, Any]] = {}
    for name, about in shrunk.items():
        if name not in modules:
            raise ValueError(f"it shrinks a module {name!r}, which the model does not have")
        module: Any = modules[name]
        try:
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                _resize_norm_(module, about)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                _resize_layer_(module, about, made)
                if about["constant"]:
                    if name in packed or not name:
                        raise ValueError("it cannot be packed and a constant")
                    replaced(model, name, emptied(module))
            else:
                _resize_other_(module, about)
        except ValueError as error:
            raise ValueError(f"shrunk module {name!r}: {error}") from error


def _resize_other_(module: nn.Module, about: Mapping[str, Any]) -> None:
    """Narrows the tensors of a module that is no layer or BatchNorm, and its numbers."""
    whole = own_sizes(module)
    if about.keys() != whole.keys() or any(
        not isinstance(about[key], dict) or about[key].keys() != whole[key].keys() for key in whole
    ):
        raise ValueError(f"it must have the sizes of {', '.join(whole['tensors']) or 'nothing'}")
    for name, most in whole["numbers"].items():
        number = about["numbers"][name]
        if type(number) is not int or not 1 <= number <= most:
            raise ValueError(f"{name} must be 1 to {most}, got {number!r:.80}")
    for name, sizes in whole["tensors"].items():
        _smaller(name, about["tensors"][name], sizes)
    tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
    for table in tables:
        for name, tensor in table.items():
            sizes = about["tensors"].get(name)
            if tensor is not None and sizes not in (None, list(tensor.shape)):
                new = tensor.detach().new_zeros(sizes)
                own = isinstance(tensor, nn.Parameter)
                table[name] = nn.Parameter(new, tensor.requires_grad) if own else new
    vars(module).update(about["numbers"])
    setattr(module, MARK, whole)


def _smaller(name: str, sizes: Any, most: list[int]) -> None:
    """Raises ValueError unless sizes are as many as those that there were, and no larger."""
    good = isinstance(sizes, list) and len(sizes) == len(most)
    if not good or not all(
        type(n) is int and min(1, largest) <= n <= largest
        for n, largest in zip(sizes, most, strict=True)
    ):
        raise ValueError(f"{name} must be at most {most}, as in the model, got {sizes!r:.80}")


def _shape(about: Mapping[str, Any], whole: tuple[int, ...]) -> tuple[int, ...]:
    shape: Any = about.get("shape")
    good = (
        isinstance(shape, list)
        and len(shape) == len(whole)
        and all(type(n) is int for n in shape)
        and all(1 <= n <= most for n, most in zip(shape, whole, strict=True))
        and shape[2:] == list(whole[2:])
    )
    if not good:
        raise ValueError(f"shape must be at most {list(whole)}, as in the model, got {shape!r:.80}")
    return tuple(shape)


def _resize_norm_(norm: Any, about: Mapping[str, Any]) -> None:
    if about.keys() != {"shape"} or norm.running_mean is None:
        raise ValueError("a BatchNorm must have a shape, statistics, and nothing else")
    whole = (norm.num_features,)
    shape = _shape(about, whole)
    _narrow_norm_(norm, shape[0])
    setattr(norm, MARK, whole)


def _zeros(old: Any, shape: tuple[int, ...], made: dict[int, tuple[Any, Any]]) -> Any:
    """What takes a parameter's place; the same for layers that share it."""
    new = nn.Parameter(old.new_zeros(shape), old.requires_grad)
    # The old one is kept, too: only so its id stays its own.
    _, new = made.setdefault(id(old), (old, new))
    if tuple(new.shape) != shape:
        raise ValueError(f"it shares a weight that is {tuple(new.shape)} elsewhere, not {shape}")
    return new


def _resize_layer_(layer: Any, about: Mapping[str, Any], made: dict[int, tuple[Any, Any]]) -> None:
    conv = isinstance(layer, nn.Conv2d)
    groups, whole = getattr(layer, "groups", 1), tuple(layer.weight.shape)
    if about.keys() != set(KEYS):
        raise ValueError(f"it must have {', '.join(KEYS)}, got {', '.join(map(str, about))}"[:200])
    shape = _shape(about, whole)
    left = about["groups"]
    if type(left) is not int or not 1 <= left <= groups or shape[0] % left:
        raise ValueError(f"groups must be 1 to {groups} and divide {shape[0]}, got {left!r:.80}")
    if shape[0] // left > whole[0] // groups:
        raise ValueError(f"{left} groups of {shape[0] // left} outputs are more than the model has")
    for key in ("bias", "constant"):
        if type(about[key]) is not bool:
            raise ValueError(f"{key} must be true or false, got {about[key]!r:.80}")
    if layer.bias is not None and not about["bias"]:
        raise ValueError("its bias must stay")
    layer.weight = _zeros(layer.weight, shape, made)
    if layer.bias is not None:
        layer.bias = _zeros(layer.bias, shape[:1], made)
    elif about["bias"]:
        layer.bias = nn.Parameter(layer.weight.new_zeros(shape[0]), layer.weight.requires_grad)
    if conv:
        layer.out_channels, layer.in_channels, layer.groups = shape[0], shape[1] * left, left
    else:
        layer.out_features, layer.in_features = shape[0], shape[1]
    setattr(layer, MARK, whole)


def emptied(layer: Any) -> Constant:
    """What takes the place of a layer without weights; marked as it was."""
    constant = Constant(layer)
    setattr(constant, MARK, getattr(layer, MARK, tuple(layer.weight.shape)))
    return constant.train(layer.training)


def _narrow_norm_(norm: Any, channels: int) -> None:
    """Leaves a BatchNorm its first channels."""
    for table in (norm._parameters, norm._buffers):
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = table.get(name)
            if tensor is not None:
                rows = tensor.detach()[:channels].clone()
                learns = tensor.requires_grad
                table[name] = nn.Parameter(rows, learns) if table is norm._parameters else rows
    norm.num_features = channels
