"""Launches cuda/periodic_conv2d.cuh, or its form by wgmma: compiles it where needed, and gives it
its arguments.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _ahead, _driver, _nvrtc
from ._geometry import Geometry, is_channels_last
from .configs import TapConfig, WgmmaConfig
from .tap_choice import OTHER_SHARED, SHARED, Maps, shared_bytes
from .tap_tables import Tables
from .wgmma_choice import MOST_TAPS

Config = TapConfig | WgmmaConfig


class Problem(ctypes.Structure):
    """`Problem` of periodic_conv2d.cuh."""

    POINTERS = ("x", "weight", "bias", "residual", "y", "entries", "starts", "blocks", "channels")
    POINTERS += ("columns", "eights")
    NUMBERS = ("channels_in", "filters", "chunks", "slices", "positions", "pixels")
    NUMBERS += ("height", "width", "out_height", "out_width")
    NUMBERS += ("stride_h", "stride_w", "pad_h", "pad_w", "activation", "items", "grid")
    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int) for name in NUMBERS),
        ("taps", ctypes.c_int * MOST_TAPS),
    )


class Text(NamedTuple):
    """What a kernel includes, by file name; as a key."""

    texts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, tables: Tables) -> "Text":
        return cls(tuple(sorted((tables.texts or {}).items())))


NO_TEXT = Text()
Launch = Callable[[Tensor, Config, int, int, Problem, Text], None]


@cache
def _function(
    device: int, architecture: str, config: Config, bf16: bool, shared: int, text: Text
) -> Any:
    """A compiled kernel on a device; `shared` is the most that it may be launched with."""
    cubin = compiled(architecture, config, bf16, text)
    return _driver.driver().load(device, cubin, config.kernel, shared)


def compiled(architecture: str, config: Config, bf16: bool, text: Text = NO_TEXT) -> bytes:
    """The cubin of the kernel in a configuration, for "sm_90", say."""
    defines = defines_of(config)
    compiler = _nvrtc.nvrtc(torch.version.cuda)
    folder = _nvrtc.cache_folder()
    file, architecture = f"{config.kernel}.cuh", architecture + config.feature
    defines["BF16"] = int(bf16)
    return _nvrtc.cubin(compiler, file, architecture, defines, folder, dict(text.texts))


def can_run(x: Tensor, config: Config, tables: Tables) -> bool:
    """Whether the compiler has registers enough for a configuration, on x's card."""
    major, minor = torch.cuda.get_device_capability(x.device)
    return able(f"sm_{major}{minor}", config, x.dtype == torch.bfloat16, Text.of(tables))


@cache
def able(architecture: str, config: Config, bf16: bool, text: Text) -> bool:
    """Whether the compiler has registers enough for a kernel; it is compiled for that."""
    try:
        compiled(architecture, config, bf16, text)
    except _nvrtc.RegistersError:
        return False
    return True


def defines_of(config: Config) -> dict[str, int]:
    """The macros that a configuration is to a kernel."""
    defines = {name.upper(): number for name, number in config._asdict().items()}
    if isinstance(config, WgmmaConfig):
        defines["MORE"], defines["FEWER"] = config.registers
    return defines


def on_card(
    x: Tensor, config: Config, blocks: int, shared: int, problem: Problem, text: Text
) -> None:
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
        function = _function(device, architecture, config, bf16, most, text)
        _driver.driver().launch(device, function, blocks, config.threads, shared, stream, problem)


def entries_for(tables: Tables, config: Config, maps: Maps) -> Tensor:
    """int32: the kernel's entries, offsets and sets of groups in one."""
    at = tables.steps * 32 + maps.shift(tables.taps) * config.pitch
    return torch.where(tables.steps >= 0, at * 256 + tables.sets, 0).int()


def taps_of(geometry: Geometry) -> tuple[int, ...]:
    """How far down, times 2^16, and right each tap is from the first."""
    (kernel_h, kernel_w), (down, right) = geometry.kernel, geometry.dilation
    columns = range(kernel_w)
    return tuple(y * down << 16 | x * right for y in range(kernel_h) for x in columns)


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
    processors: int = 1,
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
        processors: multiprocessors of the card.

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
        items = blocks = slices * -(-maps.pixels // config.tile)
        taps: tuple[int, ...] = ()
        if isinstance(config, WgmmaConfig):
            # A block for each multiprocessor, which goes from one to the next.
            blocks, chunks = min(items, processors), -(-x.shape[1] // config.chunk)
            taps = taps_of(geometry)
            positions = maps._replace(unpadded=True).positions(config.tile)
        numbers = (x.shape[1], filters, chunks, slices, positions, maps.pixels)
        numbers += (*maps.size, *maps.out, *geometry.stride, *geometry.padding, activation)
        numbers += (items, blocks)
        problem = Problem(*(None if t is None else t.data_ptr() for t in tensors), *numbers)
        problem.taps[: len(taps)] = taps
        text = Text.of(tables)
        shared = shared_bytes(config, positions, capability)
        (launch or on_card)(x, config, blocks, shared, problem, text)
    return y if last else y.contiguous()
