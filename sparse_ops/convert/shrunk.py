"""A shrunk copy of a model, which was compared with the masked one before anybody gets it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.convert.prepare import copied
from sparse_ops.convert.shrink import CodeReadsWidths, Shrinking, shrink_
from sparse_ops.convert.verify import Mismatch, check_model


def shrunk_copy(
    masked: nn.Module,
    example: tuple[Any, ...],
    masks: Mapping[str, Tensor],
    *,
    multiple: int = 1,
    untouched: Iterable[str] = (),
    verify: bool = True,
) -> tuple[nn.Module, Shrinking]:
    """A shrunk copy of a masked model, compared with it on the example.

    Args:
        As for `shrink_`; verify: whether the two are compared.

    Returns:
        The copy and what was done; the model itself if that is nothing.

    Raises:
        Mismatch: the shrunk model computes something else.
    """
    model = copied(masked)
    try:
        shrinking = shrink_(model, example, masks, multiple=multiple, untouched=untouched)
        if shrinking.changes:
            with torch.no_grad():
                model(*example)
    except CodeReadsWidths as error:
        return masked, Shrinking(masks=masks, note=f"no channel was removed: {error}")
    except RuntimeError as error:
        note = f"no channel was removed: the model does not run without them ({error})"
        return masked, Shrinking(masks=masks, note=note)
    if not shrinking.changes:
        return masked, replace(shrinking, masks=masks)
    if verify:
        check_shrunk(masked, model, example, shrinking)
    return model, shrinking


def check_shrunk(
    masked: nn.Module, small: nn.Module, example: tuple[Any, ...], shrinking: Shrinking
) -> None:
    """Compares a shrunk model with the masked one on the example.

    Raises:
        Mismatch: it computes something else; names the first layer that does.
    """
    try:
        check_model(masked, small, example)
    except Mismatch as error:
        name = _first_wrong(masked, small, example, shrinking)
        where = f"{name} gives something else" if name else "no layer alone gives something else"
        raise Mismatch(f"after removing channels {where}: {error}") from error


@torch.no_grad()
def _first_wrong(
    masked: nn.Module, small: nn.Module, example: tuple[Any, ...], shrinking: Shrinking
) -> str | None:
    """The first layer whose outputs are not those of its masked one, by a thousandth."""
    before, after = (_outputs(model, shrinking.cuts, example) for model in (masked, small))
    for name, y in after.items():
        layer, cut = small.get_submodule(name), shrinking.cuts[name]
        axis = 1 if len(cut.before) == 4 else -1
        kept = torch.tensor(cut.outputs, device=y.device)
        # Channels that were put back hold zeros, and nothing reads them.
        parameter = layer.get_parameter("bias" if cut.constant else "weight")
        alive = (parameter != 0).reshape(len(kept), -1).any(1)
        want = before[name].index_select(axis, kept[alive])
        got = y.index_select(axis, alive.nonzero().flatten())
        if want.numel() and float((got - want).abs().max()) > 1e-3 * float(want.abs().max()):
            return name
    return None


def _outputs(model: nn.Module, names: Iterable[str], example: tuple[Any, ...]) -> dict[str, Tensor]:
    """What the named layers give when the model runs, in the order of their first calls."""
    seen: dict[str, Tensor] = {}

    def remember(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.setdefault(name, output.clone())

    handles = [
        model.get_submodule(name).register_forward_hook(partial(remember, name)) for name in names
    ]
    try:
        with torch.random.fork_rng(devices=[]):
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    return seen
