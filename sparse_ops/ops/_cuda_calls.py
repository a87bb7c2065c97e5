"""From an operator's arguments to the launch of its CUDA kernel."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops._kernels import kernels
from sparse_ops.ops._once import once, recorded
from sparse_ops.ops._tuned import config as tuned


def _found(crow: Tensor, col: Tensor, nnz: int, shape: list[int]) -> tuple[Tensor, Any]:
    """(the values' places, what is alike) of a weight; on the CPU."""

    def work() -> tuple[Tensor, Any]:
        filters, channels, *kernel = shape
        taps = kernel[0] * kernel[1]
        table = kernels("sets").positions(crow, col, filters, channels * taps, nnz)
        return table, kernels("tap_tables").alike(table, taps)

    return once(("alike", nnz, tuple(shape)), (crow, col), work)


def _refused(module: str, weight: CSRWeight | PeriodicWeight) -> str | None:
    """Why a kernel has no use for what is alike in a weight, by a module's word."""
    if isinstance(weight, CSRWeight):
        indices = weight.crow_indices, weight.col_indices
    else:
        indices = weight.class_crow_indices, weight.class_col_indices
    nnz, shape = weight.nnz, list(weight.shape)

    def work() -> str | None:
        reason: str | None = kernels(module).refuses_alike(_found(*indices, nnz, shape)[1])
        return reason

    return once(("refused", module, nnz, tuple(shape)), indices, work)


def refuses_rows(weight: CSRWeight | PeriodicWeight) -> str | None:
    """Why a weight's filters and channels are not alike enough, or None if they are."""
    return _refused("tap_tables", weight)


def refuses_order(weight: CSRWeight | PeriodicWeight) -> str | None:
    """Why the form by wgmma has no use for a weight's order, or None if it has."""
    return _refused("wgmma_choice", weight)


# Of the numbers of activations (`_activation`), the last that is a bound: relu6.
LAST_BOUND = 2
# kind of configurations -> where they are chosen, and where tables are made for them.
FORMS = {"tap": ("tap_choice", "tap_tables"), "wgmma": ("wgmma_choice", "wgmma_tables")}


def _run(
    kind: str,
    x: Tensor,
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int,
) -> Tensor:
    launcher, choice, made_by = (kernels(name) for name in ("periodic_conv2d", *FORMS[kind]))
    nnz, size = values.numel(), tuple(shape)
    geometry = kernels("_geometry").Geometry.of(shape, stride, padding, dilation)
    maps = kernels("tap_choice").Maps.of(x, geometry)
    if x.numel() == 0 or maps.pixels == 0:
        made = x.new_empty((x.shape[0], shape[0], *maps.out))
        return torch.empty_like(made, memory_format=torch.channels_last)
    # Whoever calls the operator by torch.ops has asked nobody what is refused.
    if kind == "wgmma" and activation > LAST_BOUND:
        raise RuntimeError(f"wgmma: activation {activation} is left to the other kernels")
    properties = torch.cuda.get_device_properties(x.device)
    capability = (properties.major, properties.minor)
    count = properties.multi_processor_count
    about = (kind, nnz, size, maps, x.dtype, capability)

    def tables_of(config: Any) -> Any:
        return made_by.tables(*_found(crow, col, nnz, shape), config, capability)

    def able(config: Any) -> bool:
        # Tables for wgmma are text, of which a compiler may want more registers than there are.
        return kind == "tap" or launcher.can_run(x, config, tables_of(config))

    def barred() -> str | None:
        reason: str | None = choice.refuses_maps(maps)
        return reason or choice.refuses_alike(_found(crow, col, nnz, shape)[1])

    def chosen() -> Any:
        _, found = _found(crow, col, nnz, shape)
        best = choice.ranked(found, maps, shape[1], capability, count)
        return next(filter(able, best), None)

    def believed() -> Any:
        """What was measured; a file of that may be of another version: only if it fits."""
        config = choice.made(measured, _found(crow, col, nnz, shape)[1])
        fits = config.blocks <= choice.resident(config, maps, capability)
        return config if fits and able(config) else None

    if kind == "wgmma" and (reason := once(("barred", about), (crow, col), barred)):
        raise RuntimeError(f"wgmma: {reason}")
    config = None
    if (measured := tuned(kind, x, shape, nnz, *geometry)) is not None:
        config = once(("believed", about, tuple(measured)), (crow, col), believed)
    # Nothing is compiled to choose by where something was measured.
    config = config or once(("cut", about), (crow, col), chosen)
    if config is None:
        raise RuntimeError(f"no configuration fits x {tuple(x.shape)} and a weight {size}")
    own = once(
        ("tables", nnz, size, config, capability),
        (crow, col),
        lambda: tables_of(config).to(x.device),
    )
    entries = once(
        ("entries", maps.padded, geometry, config),
        (own.steps,),
        lambda: launcher.entries_for(own, config, maps),
    )
    weight = laid_out(values, own.source)
    rest = (shape[0], bias, residual, geometry, activation, capability)
    y: Tensor = launcher.periodic_conv2d(x, weight, own, entries, config, *rest, processors=count)
    return y


def laid_out(values: Tensor, source: Tensor) -> Tensor:
    """The values where a table wants them, and zeros; kept while neither changes."""

    def work() -> Tensor:
        padded = torch.nn.functional.pad(values.detach(), (0, 1))
        return padded[source.long()]

    if torch.is_grad_enabled() or recorded(values) or values.is_inference():
        return work()
    return once("blocks", (values, source), work)


# One kernel for both operators: what it is told of a weight says nothing of where its structure
# comes from. Then the same by the products of Hopper cards.
cuda, wgmma = (partial(_run, kind) for kind in ("tap", "wgmma"))
