"""From an operator's arguments to the launch of its CUDA kernel."""

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


def refuses_rows(weight: CSRWeight | PeriodicWeight) -> str | None:
    """Why a weight's filters and channels are not alike enough, or None if they are."""
    if isinstance(weight, CSRWeight):
        indices = weight.crow_indices, weight.col_indices
    else:
        indices = weight.class_crow_indices, weight.class_col_indices
    _, found = _found(*indices, weight.nnz, list(weight.shape))
    reason: str | None = kernels("tap_tables").refuses_alike(found)
    return reason


def _run(
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
    launcher, choice, tap_tables = (
        kernels(name) for name in ("periodic_conv2d", "tap_choice", "tap_tables")
    )
    nnz, size = values.numel(), tuple(shape)
    geometry = kernels("_geometry").Geometry.of(shape, stride, padding, dilation)
    maps = choice.Maps.of(x, geometry)
    if x.numel() == 0 or maps.pixels == 0:
        made = x.new_empty((x.shape[0], shape[0], *maps.out))
        return torch.empty_like(made, memory_format=torch.channels_last)
    properties = torch.cuda.get_device_properties(x.device)
    capability = (properties.major, properties.minor)

    def chosen() -> Any:
        _, found = _found(crow, col, nnz, shape)
        count = properties.multi_processor_count
        return choice.choose(found, maps, shape[1], capability, count)

    measured = tuned("tap", x, shape, nnz, *geometry)
    config = measured and kernels("configs").TapConfig(*measured)
    # A file of measurements may be of another version: what does not fit is not believed.
    if config is None or not config.blocks <= choice.resident(config, maps, capability):
        config = once(("cut", nnz, size, maps, capability), (crow, col), chosen)
    if config is None:
        raise RuntimeError(f"no configuration fits x {tuple(x.shape)} and a weight {size}")

    def tables() -> Any:
        return tap_tables.tables(*_found(crow, col, nnz, shape), config, capability).to(x.device)

    own = once(("tables", nnz, size, config, capability), (crow, col), tables)
    entries = once(
        ("entries", maps.padded, geometry, config),
        (own.steps,),
        lambda: launcher.entries_for(own, config, maps),
    )
    weight = laid_out(values, own.source)
    more = (shape[0], bias, residual, geometry, activation, capability)
    y: Tensor = launcher.periodic_conv2d(x, weight, own, entries, config, *more)
    return y


def laid_out(values: Tensor, source: Tensor) -> Tensor:
    """The values where a table wants them, and zeros; kept while neither changes."""

    def work() -> Tensor:
        padded = torch.nn.functional.pad(values.detach(), (0, 1))
        return padded[source.long()]

    if torch.is_grad_enabled() or recorded(values) or values.is_inference():
        return work()
    return once("blocks", (values, source), work)


# One kernel for both: what it is told of a weight says nothing of where its structure comes from.
periodic_conv2d = csr_conv2d = _run
