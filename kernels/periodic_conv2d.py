"""Launches cuda/periodic_conv2d.cuh, or its form by wgmma: compiles it where needed, and gives it
its arguments.

None of this has run on a card.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import _ahead, _driver, _nvrtc
from ._geometry import Geometry, is_channels_last
from .configs import TapConfig, WgmmaConfig
from .tap_choice import OTHER_SHARED, SHARED, Maps, shared_bytes
from .tap_tables import Tables

Config = TapConfig | WgmmaConfig


class Problem(ctypes.Structure):
    """`Problem` of periodic_conv2d.cuh."""

    POINTERS = ("x", "weight", "bias", "residual", "y", "entries", "starts", "blocks", "channels")
    POINTERS += ("columns", "eights")
    NUMBERS = ("channels_in", "filters", "chunks", "stages", "slices", "positions", "pixels")
    NUMBERS += ("height", "width", "out_height", "out_width")
    NUMBERS += ("stride_h", "stride_w", "pad_h", "pad_w", "activation")
    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int) for name in NUMBERS),
    )


Launch = Callable[[Tensor, Config, int, int, Problem], None]


@cache
def _function(device: int, architecture: str, config: Config, bf16: bool, shared: int) -> Any:
    """A compiled kernel on a device; `shared` is the most that it may be launched with."""
    cubin = compiled(architecture, config, bf16)
    return _driver.driver().load(device, cubin, config.kernel, shared)


def compiled(architecture: str, config: Config, bf16: bool) -> bytes:
    """The cubin of the kernel in a configuration, for "sm_90", say."""
    defines = {name.upper(): number for name, number in config._asdict().items()}
    compiler = _nvrtc.nvrtc(torch.version.cuda)
    folder = _nvrtc.cache_folder()
    file, architecture = f"{config.kernel}.cuh", architecture + config.feature
    return _nvrtc.cubin(compiler, file, architecture, defines | {"BF16": int(bf16)}, folder)


def on_card(x: Tensor, config: Config, blocks: int, shared: int, problem: Problem) -> None:
    """Queues the kernel on x's device, in torch's current stream of it."""
    capability = torch.cuda.get_device_capability(x.device)
    most = SHARED.get(capability, OTHER_SHARED)
    architecture = f"sm_{capability[0]}{capability[1]}"
    device = x.device.index
    bf16, built = x.dtype == torch.bfloat16, _ahead.library()
    with torch.cuda.device_of(x):
        stream = torch.cuda.current_stream(x.device).cuda_stream
        if built is not None and isinstance(config, TapConfig):
            more = bf16, blocks, shared, stream, problem
            if built.launch(device, config, *more):
                return
        function = _function(device, architecture, config, bf16, most)
        _driver.driver().launch(device, function, blocks, config.threads, shared, stream, problem)


def entries_for(tables: Tables, config: Config, maps: Maps) -> Tensor:
    """int32: the kernel's entries, offsets and sets of groups in one."""
    at = tables.steps * 32 + maps.shift(tables.taps) * config.pitch
    return torch.where(tables.steps >= 0, at * 256 + tables.sets, 0).int()


def whole(x: Tensor) -> Tensor:
    """x (N, C, H, W) as the kernel reads it: channels last, aligned to 16 bytes."""
    x = x.permute(0, 2, 3, 1).contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def periodic_conv2d(
    x: Tensor,
    weight: Tensor,
    tables: Tables,
    entries: Tensor,
    config: Config,
    filters: int,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: Geometry,
    activation: int,
    capability: tuple[int, int],
    launch: Launch | None = None,
) -> Tensor:
    """y = activation(conv(x) + bias + residual).

    Args:
        x: (N, I, H, W), float16 or bfloat16.
        weight: the values where `tables.source` wants them.
        entries: `entries_for` x.
        bias: (O), or None.
        residual: of y's shape, any strides, or None.
        activation: see `_device.activated`.
        launch: what queues the kernel: `on_card`, but for tests.

    Returns:
        (N, O, H', W'), all of it written; channels_last if x is.
    """
    maps = Maps.of(x, geometry)
    made = torch.empty((x.shape[0], *maps.out, filters), dtype=x.dtype, device=x.device)
    y = made.permute(0, 3, 1, 2)
    last = is_channels_last(x)
    if y.numel():
        given = whole(x)
        if tables.order is not None:
            given = given.index_select(3, tables.order)
        more = None if residual is None else whole(residual)
        if bias is not None and (bias.data_ptr() % 16 or not bias.is_contiguous()):
            bias = bias.clone(memory_format=torch.contiguous_format)
        positions = maps.positions(config.tile)
        tensors = (given, weight, bias, more, made, entries, tables.starts, tables.blocks)
        tensors += (tables.channels, tables.columns, tables.eights)
        slices, chunks = len(tables.eights), 8 * len(tables.channels) // config.chunk
        # Of wgmma's list, without the two of nothing that end it.
        stages = tables.starts.shape[1] - 2 if isinstance(config, WgmmaConfig) else 0
        numbers = (x.shape[1], filters, chunks, stages, slices, positions, maps.pixels)
        numbers += (*maps.size, *maps.out, *geometry.stride, *geometry.padding, activation)
        problem = Problem(*(None if t is None else t.data_ptr() for t in tensors), *numbers)
        tiles = -(-maps.pixels // config.tile)
        blocks = slices * -(-tiles // config.cluster) * config.cluster
        launch = launch or on_card
        launch(x, config, blocks, shared_bytes(config, positions, capability), problem)
    return y if last else y.contiguous()
