"""From an operator's arguments to the driver: our launcher's whole way, on a driver that is none.

NVRTC is a real one (extra `nvrtc`), and what it compiled says how a kernel is to be launched.
"""

import ctypes
import struct
from types import SimpleNamespace

import pytest
import torch

from benchmarks._gpu_packs import side_by_side
from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import _cuda_calls
from sparse_ops.patterns import PSD2_P8
from tests.kernels.cubin import instructions, signature
from tests.kernels.on_host import choice, cuda, nvrtc, wgmma_choice

STREAM = 2**44
SHAPE, STEPS = (64, 32, 3, 3), [[1, 1]] * 3


@pytest.fixture
def card(monkeypatch, tmp_path, stand_in):
    """Makes the machine one with a card of some capability; (config, x's bytes) of each launch."""
    try:
        nvrtc.nvrtc(torch.version.cuda)
    except nvrtc.CompilerError as error:
        pytest.skip(f"{error}: pip install nvidia-cuda-nvrtc")
    driver = cuda._driver.Driver(stand_in.path)
    launches, on_card = [], cuda.on_card

    def noted(x, config, blocks, shared, problem, text):
        # What is sorted for the launch is gone after it.
        launches.append((config, ctypes.string_at(problem.x, x.nbytes)))
        on_card(x, config, blocks, shared, problem, text)

    def made(major, minor):
        properties = SimpleNamespace(major=major, minor=minor, multi_processor_count=2)
        for name, value in (
            ("get_device_properties", properties),
            ("get_device_capability", (major, minor)),
            ("current_stream", SimpleNamespace(cuda_stream=STREAM)),
        ):
            monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
        return launches

    monkeypatch.setenv("SPARSE_OPS_CACHE", str(tmp_path))
    monkeypatch.setattr(cuda._driver, "driver", lambda: driver)
    monkeypatch.setattr(cuda._ahead, "library", lambda: None)
    monkeypatch.setattr(cuda, "on_card", noted)
    for kept in (cuda._function, cuda.able):
        kept.cache_clear()
    yield made
    for kept in (cuda._function, cuda.able):
        kept.cache_clear()


def arguments(dtype, sort=False):
    """(x, crow, col, values, bias, residual, and so on); `sort`: eight filters each are alike."""
    torch.manual_seed(0)
    x, residual = (
        torch.randn(5, n, 9, 7).to(dtype).contiguous(memory_format=torch.channels_last)
        for n in (SHAPE[1], SHAPE[0])
    )
    dense, mask = torch.randn(SHAPE).to(dtype), PSD2_P8.mask(SHAPE)
    if sort:
        weight = CSRWeight.pack(dense, side_by_side(mask, 8))
        indices = weight.crow_indices, weight.col_indices
    else:
        weight = PeriodicWeight.pack(dense, mask, PSD2_P8)
        indices = weight.class_crow_indices, weight.class_col_indices
    bias = torch.randn(SHAPE[0]).to(dtype)
    return (x, *indices, weight.values, bias, residual, list(SHAPE), *STEPS, 1, 1)


@pytest.mark.parametrize(
    ("kind", "capability", "dtype", "kernel"),
    [
        ("cuda", (7, 5), torch.float16, "periodic_conv2d"),
        ("cuda", (9, 0), torch.bfloat16, "periodic_conv2d"),
        ("wgmma", (9, 0), torch.float16, "periodic_conv2d_wgmma"),
        ("wgmma", (9, 0), torch.bfloat16, "periodic_conv2d_wgmma"),
    ],
)
def test_a_card_is_given_what_the_kernel_was_compiled_for(
    card, stand_in, tmp_path, kind, capability, dtype, kernel
):
    wgmma = kind == "wgmma"
    launches, given = card(*capability), arguments(dtype, sort=wgmma)
    with torch.no_grad():
        y = getattr(_cuda_calls, kind)(*given)
    ((config, pixels_given),) = launches
    launch = stand_in.launch()
    assert launch.kernel == config.kernel == kernel and launch.stream == STREAM

    # The kernel: for this card, and for its features where it uses them.
    (file,) = (tmp_path / "cubin").iterdir()
    own = f"{kernel}-sm_{capability[0]}{capability[1]}"
    assert file.name.startswith(f"{own}a-" if wgmma else f"{own}-")
    cubin = nvrtc.read(file)
    found = signature(cubin, kernel)
    assert found.architecture == 10 * capability[0] + capability[1]
    products = instructions(cubin, kernel)
    assert bool(products["HGMMA"]) == wgmma != bool(products["HMMA"])
    assert found.threads == config.threads and found.argument_bytes == len(launch.argument)

    # Grid, block and shared memory.
    x, *_, bias, residual, _, _, _, _, _, activation = given
    pixels, tiles = 5 * 9 * 7, -(-5 * 9 * 7 // config.tile)
    slices = -(-SHAPE[0] // config.slice)
    items, blocks = slices * tiles, min(slices * tiles, 2) if wgmma else slices * tiles
    geometry = cuda.Geometry.of(list(SHAPE), *STEPS)
    maps = choice.Maps.of(x, geometry)._replace(unpadded=wgmma)
    shared = choice.shared_bytes(config, maps.positions(config.tile), capability)
    assert launch.sizes == [blocks, 1, 1, config.threads, 1, 1, shared]
    assert launch.most_shared == choice.SHARED[capability] >= shared

    # The argument, by its names.
    layout = f"<{len(cuda.Problem.POINTERS)}Q{len(cuda.Problem.NUMBERS)}i"
    names = (*cuda.Problem.POINTERS, *cuda.Problem.NUMBERS)
    told = dict(zip(names, struct.unpack_from(layout, launch.argument), strict=True))
    for name, tensor in (("bias", bias), ("residual", residual), ("y", y)):
        assert told[name] == tensor.data_ptr(), name
    order = _cuda_calls._found(given[1], given[2], given[3].numel(), list(SHAPE))[1].order
    laid = x.permute(0, 2, 3, 1)
    laid = laid.contiguous() if order is None else laid[..., order].contiguous()
    assert pixels_given == bytes(laid.view(torch.uint8).numpy())
    assert all(told[name] % 16 == 0 and told[name] for name in cuda.Problem.POINTERS)
    assert (told["channels_in"], told["filters"]) == (SHAPE[1], SHAPE[0])
    assert (told["slices"], told["pixels"]) == (slices, pixels)
    assert (told["items"], told["grid"]) == (items, blocks)
    assert told["chunks"] == -(-SHAPE[1] // config.chunk)
    sizes = [told[name] for name in ("height", "width", "out_height", "out_width")]
    assert sizes == [9, 7, 9, 7] and told["activation"] == activation == 1
    steps = [told[name] for name in ("stride_h", "stride_w", "pad_h", "pad_w")]
    assert steps == [1] * 4 and told["positions"] == maps.positions(config.tile)
    taps = struct.unpack_from("<25i", launch.argument, struct.calcsize(layout))
    rows = [down << 16 | right for down in range(3) for right in range(3)] if wgmma else [0] * 9
    assert list(taps) == rows + [0] * 16


def test_a_kernel_is_compiled_and_loaded_once_and_a_failing_launch_is_said(
    card, stand_in, tmp_path
):
    card(9, 0)
    given = arguments(torch.bfloat16, sort=True)
    with torch.no_grad():
        _cuda_calls.wgmma(*given)
        _cuda_calls.wgmma(*given)
        assert stand_in.number("loads").value == 1
        stand_in.fails("cuLaunchKernel", 700)
        with pytest.raises(RuntimeError, match="CUDA says an illegal memory access"):
            _cuda_calls.wgmma(*given)
        stand_in.fails("", 0)
        _cuda_calls.wgmma(*given)
        # Another process: what was compiled is taken from the disk.
        cuda._function.cache_clear()
        _cuda_calls.wgmma(*given)
    assert stand_in.number("loads").value == 2 and len(list((tmp_path / "cubin").iterdir())) == 1


def test_what_has_too_few_registers_is_left_for_the_next_best(card, stand_in, monkeypatch):
    launches, given = card(9, 0), arguments(torch.bfloat16, sort=True)
    x, crow, col, values = given[:4]
    _, found = _cuda_calls._found(crow, col, values.numel(), list(SHAPE))
    maps = choice.Maps.of(x, cuda.Geometry.of(list(SHAPE), *STEPS))
    first, second, *_ = wgmma_choice.ranked(found, maps, SHAPE[1], (9, 0), 2)
    compiled, tried = nvrtc.cubin, []

    def cubin(compiler, name, architecture, defines, *rest):
        tried.append(defines)
        if len(tried) == 1:
            raise nvrtc.RegistersError("too few registers")
        return compiled(compiler, name, architecture, defines, *rest)

    monkeypatch.setattr(nvrtc, "cubin", cubin)
    with torch.no_grad():
        for _ in range(2):
            _cuda_calls.wgmma(*given)
    assert [config for config, _ in launches] == [second, second]
    assert tried[0] == cuda.defines_of(first) | {"BF16": 1} and stand_in.number("loads").value == 1
    # Once to see whether it can be, once for the launch; the second call asks no more.
    assert tried[1:] == [cuda.defines_of(second) | {"BF16": 1}] * 2


def test_where_all_have_too_few_registers_it_is_said(card, monkeypatch):
    card(9, 0)

    def cubin(*_):
        raise nvrtc.RegistersError("too few registers")

    monkeypatch.setattr(nvrtc, "cubin", cubin)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"no configuration fits x \(5, 32, 9"):
        _cuda_calls.wgmma(*arguments(torch.bfloat16, sort=True))
