"""Preparing: a plain, masked copy of a model, and what its layers are given when it runs.

The model itself is never touched.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_leaves, tree_map_only

from sparse_ops import masks as masks_
from sparse_ops.graph.inputs import Inputs, bound
from sparse_ops.graph.running import first_run
from sparse_ops.graph.spelling import FORWARDS, exchanged, runs_as
from sparse_ops.nn import SplitTransformerEncoder
from sparse_ops.planning.copies import copied
from sparse_ops.planning.plain import make_plain_

# What is smaller slows a dense CPU down and changes no result: it counts as zero.
DENORMAL = torch.finfo(torch.float32).tiny
# The layers that there are packed ones for.
PACKED = (*masks_.PRUNABLE, nn.Conv1d, nn.ConvTranspose2d)
# On modules that were shrunk: the size of what they were, (O, I / groups, ...) or (channels).
MARK = "shrunk_from"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, autocast is off, as kernels are compared with float64, and so is inference mode.

    What is made in inference mode could neither be trained nor looked after.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def example_tuple(
    example: Any, kwargs: Mapping[str, Any] | None = None, model: nn.Module | None = None
) -> tuple[Any, ...]:
    """The arguments of a model, from a tensor, a tuple or list of them, or a dict by keyword.

    Tensors are copied: a model may write to its input.

    Args:
        kwargs: more of them, by keyword.
        model: whose they are; without, none may be given by keyword.

    Raises:
        ValueError: it holds no tensor, or one without elements, or is not what the model takes.
    """
    named = dict(kwargs or {})
    if isinstance(example, Mapping):
        named, example = {**example, **named}, ()
    inputs: tuple[Any, ...] = tuple(example) if isinstance(example, tuple | list) else (example,)
    if model is None and named:
        raise ValueError("example must be a tensor or a tuple with tensors, got a dict")
    content = [*inputs, *named.values()]
    # Also those in lists and dicts.
    tensors = [x for x in tree_leaves(content) if isinstance(x, Tensor)]
    if not tensors:
        kinds = ", ".join(type(x).__name__ for x in content)
        raise ValueError(f"example must be a tensor or a tuple with tensors, got ({kinds})")
    for x in tensors:
        if x.numel() == 0:
            raise ValueError(f"example must not be empty, got a tensor {tuple(x.shape)}")
    if model is not None:
        inputs = bound(model, inputs, named)
    own: tuple[Any, ...] = tree_map_only(Tensor, lambda x: x.detach().clone(), tuple(inputs))
    return inputs.like(own) if isinstance(inputs, Inputs) else own


def find_masks(model: nn.Module, threshold: float = 0.0) -> masks_.Masks:
    """The masks of a model's zeros; what is denormal in float32 counts as zero."""
    if threshold < 0:
        raise ValueError(f"threshold must be 0 or more, got {threshold}")
    kinds = (*PACKED, nn.MultiheadAttention)
    return masks_.from_zeros(model, max(threshold, DENORMAL), kinds)


def check_initialised(model: nn.Module) -> None:
    """Raises ValueError if a lazy layer has not seen its first input yet."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"{name} is not initialised yet: run the model once")


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a plain model that there are packed ones for, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, PACKED) and isinstance(module._parameters.get("weight"), Tensor)
    }


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A plain copy of the model with its masks applied, and no denormal weights.

    Raises:
        ValueError: a mask is for no weight of the model, or of another shape, or not bool.
    """
    masks_.check(model, masks)
    copy_ = copied(model)
    make_plain_(copy_)
    _mask_(copy_, masks)
    return copy_


def masked_view(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """As `masked_copy`, but weights that masks do not change are the model's own tensors.

    For what only runs it in eval mode; buffers are copied, which a forward may write to.

    Raises:
        As `masked_copy`.
    """
    masks_.check(model, masks)
    view = copied(model, model.parameters())
    make_plain_(view)
    _mask_(view, masks)
    return view


@torch.no_grad()
def _mask_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets to zero what masks remove, and denormal weights; tensors that change are new ones."""
    for name in dict.fromkeys((*masks_.weights(model), *masks)):
        owner, _, key = name.rpartition(".")
        weight = model.get_submodule(owner)._parameters[key]
        if weight is None or not weight.is_floating_point():
            continue
        removed = weight.abs() < DENORMAL
        if name in masks:
            removed |= ~masks[name].to(weight.device)
        if not bool((removed & (weight != 0)).any()):
            continue
        new = nn.Parameter(weight.masked_fill(removed, 0), weight.requires_grad)
        for module in model.modules():
            for other, held in module._parameters.items():
                if held is weight:
                    module._parameters[other] = new


@dataclass(eq=False)
class Call:
    """What a layer was given when the model ran.

    Attributes:
        x: its input at the first call.
        outputs: how many numbers it gave, over all calls.
        calls: how often it was called.
    """

    x: Tensor
    outputs: int = 0
    calls: int = 0

    def macs(self, weight: Tensor, transposed: bool) -> int:
        """Multiply-accumulates of a layer with this weight, over all calls.

        Args:
            transposed: whether its inputs are the weight's first dimension.
        """
        if transposed:
            return self.calls * self.x.numel() // weight.shape[0] * weight.numel()
        return self.outputs * (weight.numel() // weight.shape[0])


def watch(
    model: nn.Module, names: Mapping[str, nn.Module], example: tuple[Any, ...]
) -> dict[str, Call]:
    """Runs the model once and returns what the named layers were given; those never called lack.

    Random numbers that the model draws are not taken from the caller.
    """
    seen: dict[str, Call] = {}

    def hook_for(name: str) -> Any:
        def hook(
            module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor
        ) -> None:
            call = seen.get(name)
            if call is None:
                x = inputs[0] if inputs else next(iter(named.values()))
                # Under autocast in the model's own code, say, it has another dtype.
                held = next(module.parameters(recurse=False), x)
                dtype = held.dtype if x.is_floating_point() else x.dtype
                call = seen[name] = Call(x.detach().to(dtype, copy=True))
            call.calls += 1
            call.outputs += output.numel()

        return hook

    handles = [
        module.register_forward_hook(hook_for(name), with_kwargs=True)
        for name, module in names.items()
    ]
    try:
        first_run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def replaced(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """The model with the module of that name exchanged; the new one itself if the name is ""."""
    if not name:
        return new
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    return model


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of a kind, or of a subclass that only says how it is made."""
    if type(module) is kind:
        return True
    if not runs_as(module, kind):
        return False
    own = {
        name for c in type(module).__mro__[: type(module).__mro__.index(kind)] for name in vars(c)
    }
    # Forwards are known to compute nothing else.
    own.difference_update(FORWARDS)
    return all(name.startswith("__") for name in own) and vars(module).keys() <= _HELD[kind]


# The attributes of ordinary layers.
_HELD = {
    nn.Conv1d: vars(nn.Conv1d(1, 1, 1)).keys() | {MARK},
    nn.Conv2d: vars(nn.Conv2d(1, 1, 1)).keys() | {MARK},
    nn.ConvTranspose2d: vars(nn.ConvTranspose2d(1, 1, 1)).keys() | {MARK},
    nn.Linear: vars(nn.Linear(1, 1)).keys() | {MARK},
}


NESTED = (
    "{encoder} makes nested tensors of padded batches, which only PyTorch's own layers take: give "
    "it enable_nested_tensor=False"
)


def makes_nested(model: nn.Module, name: str) -> str | None:
    """Which nn.TransformerEncoder around a module gives zeros where padding is, as long as all its
    layers are PyTorch's own; None if there is none, or it does so with other layers, too.
    """
    while name:
        name = name.rpartition(".")[0]
        outer: Any = model.get_submodule(name)
        nested = getattr(outer, "use_nested_tensor", False)
        if isinstance(outer, nn.TransformerEncoder) and nested:
            return None if isinstance(outer, SplitTransformerEncoder) else name or "the model"
    return None


def keeps_dense(model: nn.Module, name: str) -> str | None:
    """Why the layer of that name must stay as it is, or None if it may be replaced."""
    module = model.get_submodule(name)
    if (encoder := makes_nested(model, name)) is not None:
        return NESTED.format(encoder=encoder)
    if (method := exchanged(module)) is not None:
        return f"its {method} was exchanged on this very layer"
    if not any(is_plain(module, kind) for kind in PACKED):
        return (
            f"it is a {type(module).__name__}: only Conv2d, Conv1d, ConvTranspose2d, Linear and "
            "subclasses that compute and hold nothing else, are replaced"
        )
    places = [n for n, m in model.named_modules(remove_duplicate=False) if m is module]
    if len(places) > 1:
        return f"it stands in the model {len(places)} times: as {', '.join(places)}"
    for other_name, other in model.named_modules():
        if other is module:
            continue
        held = [p for p in other._parameters.values() if p is not None]
        if any(p is q for p in module._parameters.values() if p is not None for q in held):
            return f"it shares its weight or bias with {other_name}"
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    if any(hooks):
        return "it has hooks, which a packed layer would lose"
    return None
