"""Whether a copy of a model is the model: all that planning compares are copies."""

import time
from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.running import Run, first_run, same_outputs
from sparse_ops.planning.images import few_images
from sparse_ops.planning.masked import masked_view


def check_copy(model: nn.Module, view: nn.Module, inputs: tuple[Any, ...]) -> tuple[Run, float]:
    """A run of a masked view of a model, in the model's modes, and the seconds that it took.

    Raises:
        ValueError: its code calls layers of the model that it was copied from: a function, say,
            that was made with the model and holds it; or a copy computes something else.
    """
    called: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if name
    ]
    begun = time.perf_counter()
    try:
        run = first_run(view, inputs)
    finally:
        seconds = time.perf_counter() - begun
        for handle in handles:
            handle.remove()
    if called:
        raise ValueError(
            f"a copy of the model calls {called[0]} of the model itself, so that a converted one "
            "would, too: its code holds on to its modules, in a lambda or a stored method, say"
        )
    few = few_images(view, inputs)
    same = few is inputs and all(p is own for p, own in _pairs(view, model))
    alike = run if same else first_run(masked_view(model, {}), few)
    if not same_outputs(alike.output, first_run(model, few).output):
        # It may count its calls, or draw from a generator of its own.
        first, second = (first_run(model, few).output for _ in range(2))
        if same_outputs(first, second):
            raise ValueError(
                "a copy of the model computes something else than the model itself, so that a "
                "converted one would, too: its class copies itself in a way of its own, say"
            )
    return run, seconds


def _pairs(view: nn.Module, model: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    """The parameters of a view, and the model's of the same names."""
    own = dict(model.named_parameters())
    return [(parameter, own.get(name)) for name, parameter in view.named_parameters()]
