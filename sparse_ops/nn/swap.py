"""Exchanging the convolutions of a model for periodic ones, in place."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from sparse_ops.formats import PeriodicWeight
from sparse_ops.nn.periodic_conv2d import PeriodicConv2d
from sparse_ops.patterns import NAMED, Periodic, default_pattern

Skip = str | Iterable[str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Swap:
    """What was done with one convolution.

    Attributes:
        name: in `model.named_modules()`.
        shape: of its weight, (O, I / groups, kH, kW).
        pattern: of the layer that took its place; None if it stays.
        nnz: how many weights it has now.
        reason: why it stays; "" if it does not.
    """

    name: str
    shape: tuple[int, ...]
    pattern: Periodic | None
    nnz: int
    reason: str

    def __str__(self) -> str:
        shape = "×".join(str(size) for size in self.shape)
        if self.pattern is None:
            return f"{self.name} {shape}: stays, {self.reason}"
        named = [name for name, pattern in NAMED.items() if pattern == self.pattern]
        kind = named[0] if named else f"period {self.pattern.period}"
        weights = self.shape[0] * self.shape[1] * self.shape[2] * self.shape[3]
        return f"{self.name} {shape}: PeriodicConv2d, {kind}, keeps {self.nnz / weights:.1%}"


@dataclass(frozen=True)
class Swaps:
    """What `swap_` did, convolution by convolution, in order of definition; printed line by line.

    Attributes:
        layers: one entry each.
    """

    layers: tuple[Swap, ...]

    @property
    def swapped(self) -> tuple[str, ...]:
        """The names of the layers that are periodic now."""
        return tuple(each.name for each in self.layers if each.pattern is not None)

    def __str__(self) -> str:
        lines = [str(each) for each in self.layers]
        return "\n".join([*lines, f"{len(self.swapped)} of {len(lines)} convolutions exchanged"])


def swap_(
    model: nn.Module,
    pattern: Periodic | None = None,
    *,
    skip: Skip = (),
    first: bool = False,
    keep_weights: bool = True,
) -> Swaps:
    """Exchanges the nn.Conv2d of a model for `PeriodicConv2d`, in place, and says what it did.

    What stays: the first convolution, in order of definition; kernels of 1×1; grouped and depthwise
    convolutions; kernels of another size than the pattern's; what `skip` names; subclasses of
    Conv2d, and layers with hooks, with a weight that is computed (`torch.nn.utils.prune`,
    parametrizations) or shared with another layer. The result says which rule it was.

    Build the optimizer afterwards: one built before still has the old weights.

    Args:
        model: any module but a convolution alone. Devices, dtypes, modes, requires_grad stay.
        pattern: for all layers; default: `patterns.default_pattern` of each one's kernel.
        skip: names of layers to leave, with * and ? as in file names ("encoder.*"); or a function
            of (name, layer) that says whether to leave it.
        first: whether the first convolution is exchanged, too.
        keep_weights: whether the new layers begin with the weights there are, trained or not, as
            far as the pattern keeps them; else they are drawn as nn.Conv2d draws them.

    Raises:
        ValueError: a name to skip is no convolution's, or the model is itself a convolution. The
            model is then as it was.
    """
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    if model in convs.values():
        raise ValueError(
            "model must hold convolutions, got one alone: PeriodicConv2d.from_dense exchanges it"
        )
    leave = _left(convs, skip)
    shared = _shared(model)
    new: dict[nn.Module | None, nn.Module] = {}
    done = []
    for number, (name, conv) in enumerate(convs.items()):
        reason = "it is the first convolution" if number == 0 and not first else None
        reason = reason or ("skip names it" if name in leave else None)
        reason = reason or _refuses(conv, pattern, shared)
        if reason is None:
            layer = _periodic(conv, pattern, keep_weights)
            new[conv] = layer
            done.append(Swap(name, layer.shape, layer.pattern, layer.nnz, ""))
        else:
            shape = tuple(getattr(conv.weight, "shape", ()))
            done.append(Swap(name, shape, None, conv.weight.numel(), reason))
    for parent in list(model.modules()):
        for place, child in parent._modules.items():
            if child in new:
                parent._modules[place] = new[child]
    return Swaps(tuple(done))


def _left(convs: dict[str, nn.Conv2d], skip: Skip) -> set[str]:
    """The names of the convolutions that `skip` means."""
    if callable(skip):
        return {name for name, conv in convs.items() if skip(name, conv)}
    found: set[str] = set()
    for wanted in [skip] if isinstance(skip, str) else skip:
        matching = {name for name in convs if fnmatchcase(name, wanted)}
        if not matching:
            near = get_close_matches(wanted, convs, 3, 0.3) or list(convs)[:3]
            raise ValueError(
                f"skip names {wanted!r}, which is no Conv2d of the model; "
                f"it has {', '.join(near) or 'none'}"
            )
        found |= matching
    return found


def _shared(model: nn.Module) -> set[int]:
    """The identities of the parameters that more than one module holds."""
    holders: dict[int, int] = {}
    for module in model.modules():
        for own in {id(p) for p in module._parameters.values() if p is not None}:
            holders[own] = holders.get(own, 0) + 1
    return {own for own, count in holders.items() if count > 1}


def _refuses(conv: nn.Conv2d, pattern: Periodic | None, shared: set[int]) -> str | None:
    """Why this convolution stays, or None."""
    kH, kW = conv.kernel_size
    if type(conv) is not nn.Conv2d:
        kind = f"{type(conv).__module__}.{type(conv).__qualname__}"
        computed = parametrize.is_parametrized(conv, "weight")
        return "its weight is computed" if computed else f"it is a {kind}, not a Conv2d"
    if "weight" not in conv._parameters:
        return "its weight is computed"
    if kH * kW == 1:
        return "its kernels are 1×1"
    if conv.groups > 1:
        depthwise = conv.groups == conv.in_channels
        return "it is depthwise" if depthwise else f"it has {conv.groups} groups"
    if pattern is not None and pattern.kernel_size != (kH, kW):
        wanted = "×".join(str(size) for size in pattern.kernel_size)
        return f"its kernels are {kH}×{kW}, the pattern's {wanted}"
    if any(id(p) in shared for p in (conv.weight, conv.bias) if p is not None):
        return "another layer has the same weight or bias"
    hooks = (conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks)
    return "it has hooks, which would be lost" if any(hooks) else None


def _periodic(conv: nn.Conv2d, pattern: Periodic | None, keep_weights: bool) -> PeriodicConv2d:
    """The layer that takes the place of a convolution, in its mode."""
    kH, kW = conv.kernel_size
    pattern = default_pattern((kH, kW)) if pattern is None else pattern
    trains = conv.weight.requires_grad, conv.bias is not None and conv.bias.requires_grad
    if not keep_weights:
        conv = copy.deepcopy(conv)
        conv.reset_parameters()
    mask = pattern.mask(tuple(conv.weight.shape)).to(conv.weight.device)
    packed = PeriodicWeight.pack(conv.weight, mask, pattern)
    layer = PeriodicConv2d.from_packed(packed, conv.bias, conv)
    layer.values.requires_grad_(trains[0])
    if layer.bias is not None:
        layer.bias.requires_grad_(trains[1])
    return layer.train(conv.training)
