"""Whether a copy of a model is the model: all that planning compares are copies."""

from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.running import Run, first_run, same_outputs
from sparse_ops.planning.masked import masked_view


def check_copy(model: nn.Module, view: nn.Module, inputs: tuple[Any, ...]) -> Run:
    """A run of a masked view of a model, in the model's modes.

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
    try:
        run = first_run(view, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if called:
        raise ValueError(
            f"a copy of the model calls {called[0]} of the model itself, so that a converted one "
            "would, too: its code holds on to its modules, in a lambda or a stored method, say"
        )
    masks_change = any(p is not own for p, own in _pairs(view, model))
    alike = first_run(masked_view(model, {}), inputs) if masks_change else run
    if not same_outputs(alike.output, first_run(model, inputs).output):
        # It may count its calls, or draw from a generator of its own.
        first, second = (first_run(model, inputs).output for _ in range(2))
        if same_outputs(first, second):
            raise ValueError(
                "a copy of the model computes something else than the model itself, so that a "
                "converted one would, too: its class copies itself in a way of its own, say"
            )
    return run


def _pairs(view: nn.Module, model: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    """The parameters of a view, and the model's of the same names."""
    own = dict(model.named_parameters())
    return [(parameter, own.get(name)) for name, parameter in view.named_parameters()]
