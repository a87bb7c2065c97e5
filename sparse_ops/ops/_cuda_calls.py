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


def refuses_rows(weight: CSRWeight | PeriodicWeight) -> str | None:
    """Why a weight's filters and channels are not alike enough, or None if they are."""
    if isinstance(weight, CSRWeight):
        indices = weight.crow_indices, weight.col_indices
    else:
        indices = weight.class_crow_indices, weight.class_col_indices
    _, found = _found(*indices, weight.nnz, list(weight.shape))
    reason: str | None = kernels("tap_tables").refuses_alike(found)
    return reason


# kind of configurations -> where they are chosen, where tables are made for them, and what more
# they are chosen by.
FORMS: dict[str, tuple[str, str, dict[str, int]]] = {
    "tap": ("tap_choice", "tap_tables", {}),
    "wgmma": ("wgmma_choice", "wgmma_tables", {}),
    "wgmma2": ("wgmma_choice", "wgmma_tables", {"cluster": 2}),
}


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
    *names, more = FORMS[kind]
    launcher, choice, made_by = (kernels(name) for name in ("periodic_conv2d", *names))
    nnz, size = values.numel(), tuple(shape)
    geometry = kernels("_geometry").Geometry.of(shape, stride, padding, dilation)
    maps = kernels("tap_choice").Maps.of(x, geometry)
    if x.numel() == 0 or maps.pixels == 0:
        made = x.new_empty((x.shape[0], shape[0], *maps.out))
        return torch.empty_like(made, memory_format=torch.channels_last)
    properties = torch.cuda.get_device_properties(x.device)
    capability = (properties.major, properties.minor)

    def chosen() -> Any:
        _, found = _found(crow, col, nnz, shape)
        count = properties.multi_processor_count
        return choice.choose(found, maps, shape[1], capability, count, **more)

    measured = tuned(kind, x, shape, nnz, *geometry)
    config = measured and choice.Config(*measured)
    # A file of measurements may be of another version: what does not fit is not believed.
    if config is None or not config.blocks <= choice.resident(config, maps, capability):
        config = once(("cut", kind, nnz, size, maps, capability), (crow, col), chosen)
    if config is None:
        raise RuntimeError(f"no configuration fits x {tuple(x.shape)} and a weight {size}")

    def tables() -> Any:
        return made_by.tables(*_found(crow, col, nnz, shape), config, capability).to(x.device)

    own = once(("tables", nnz, size, config, capability), (crow, col), tables)
    entries = once(
        ("entries", maps.padded, geometry, config),
        (own.steps,),
        lambda: launcher.entries_for(own, config, maps),
    )
    weight = laid_out(values, own.source)
    rest = (shape[0], bias, residual, geometry, activation, capability)
    y: Tensor = launcher.periodic_conv2d(x, weight, own, entries, config, *rest)
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
# comes from. Then the same by the products of Hopper cards, and by two blocks that share weights.
cuda, wgmma, wgmma2 = (partial(_run, kind) for kind in ("tap", "wgmma", "wgmma2"))
