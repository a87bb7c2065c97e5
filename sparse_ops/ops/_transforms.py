"""Transforms: whether torch.func or forward-mode gradients are at work, which no kernel here knows.

A compiled operator under them would lose tangents without a word, so then the definition runs,
which PyTorch can differentiate and batch.
"""

from torch._C import (
    _get_function_stack_at,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext

TRANSFORMED = "torch.func's transforms and forward-mode gradients go through the definition alone"


def is_transformed() -> bool:
    """Whether vmap, jvp, grad or their like are at work, or a level of dual numbers is open."""
    return maybe_current_level() is not None or forward_ad._current_level >= 0


# Whoever traces looks once: torch.compile guards what is asked here. As by torch.compiler's
# assume_constant_result, which would import all of the compiler.
is_transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_watched() -> bool:
    """Whether a mode is on that sees each of PyTorch's operations, and may change it."""
    if _len_torch_dispatch_stack():
        return True
    modes = range(_len_torch_function_stack())
    # torch.set_default_device is a mode, too; it is about new tensors only.
    return any(type(_get_function_stack_at(n)) is not DeviceContext for n in modes)
