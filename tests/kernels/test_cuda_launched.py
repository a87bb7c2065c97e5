"""From an operator's arguments to the driver: our launcher's whole way, on a driver that is none.

NVRTC is a real one (extra `nvrtc`), and what it compiled says how a kernel is to be launched.
"""

import ctypes
import struct
from types import SimpleNamespace

import pytest
import torch

from sparse_ops.formats import PeriodicWeight
from sparse_ops.ops import _cuda_calls
from sparse_ops.patterns import PSD2_P8
from tests.kernels.cubin import instructions, signature
from tests.kernels.on_host import choice, cuda, nvrtc

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

    def noted(x, config, blocks, shared, problem):
        # What is sorted for the launch is gone after it.
        launches.append((config, ctypes.string_at(problem.x, x.nbytes)))
        on_card(x, config, blocks, shared, problem)

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
    cuda._function.cache_clear()
    yield made
    cuda._function.cache_clear()


def arguments(dtype):
    """(x, crow, col, values, bias, residual, and so on); an odd number of tiles."""
    torch.manual_seed(0)
    x, residual = (
        torch.randn(5, n, 9, 7).to(dtype).contiguous(memory_format=torch.channels_last)
        for n in (SHAPE[1], SHAPE[0])
    )
    weight = PeriodicWeight.pack(torch.randn(SHAPE).to(dtype), PSD2_P8.mask(SHAPE), PSD2_P8)
    indices = weight.class_crow_indices, weight.class_col_indices
    bias = torch.randn(SHAPE[0]).to(dtype)
    return (x, *indices, weight.values, bias, residual, list(SHAPE), *STEPS, 1, 1)


@pytest.mark.parametrize(
    ("kind", "capability", "dtype", "kernel", "cluster"),
    [
        ("cuda", (7, 5), torch.float16, "periodic_conv2d", 1),
        ("cuda", (9, 0), torch.bfloat16, "periodic_conv2d", 1),
        ("wgmma", (9, 0), torch.float16, "periodic_conv2d_wgmma", 1),
        ("wgmma2", (9, 0), torch.bfloat16, "periodic_conv2d_wgmma", 2),
    ],
)
def test_a_card_is_given_what_the_kernel_was_compiled_for(
    card, stand_in, tmp_path, kind, capability, dtype, kernel, cluster
):
    launches, given = card(*capability), arguments(dtype)
    with torch.no_grad():
        y = getattr(_cuda_calls, kind)(*given)
    ((config, pixels_given),) = launches
    launch = stand_in.launch()
    assert launch.kernel == config.kernel == kernel and config.cluster == cluster
    assert launch.stream == STREAM

    # The kernel: for this card, and for its features where it uses them.
    (file,) = (tmp_path / "cubin").iterdir()
    own = f"{kernel}-sm_{capability[0]}{capability[1]}"
    assert file.name.startswith(f"{own}a-" if kernel.endswith("wgmma") else f"{own}-")
    cubin = nvrtc.read(file)
    found = signature(cubin, kernel)
    assert found.architecture == 10 * capability[0] + capability[1]
    products = instructions(cubin, kernel)
    assert bool(products["HGMMA"]) == kernel.endswith("wgmma") != bool(products["HMMA"])
    assert (found.threads, found.cluster) == (config.threads, cluster)
    assert found.argument_bytes == len(launch.argument)

    # Grid, block and shared memory.
    x, *_, bias, residual, _, _, _, _, _, activation = given
    pixels, tiles = 5 * 9 * 7, -(-5 * 9 * 7 // config.tile)
    slices = -(-SHAPE[0] // config.slice)
    blocks = slices * tiles
    if cluster == 2:
        assert tiles % 2, "a tile of no pixels is wanted"
        blocks = slices * (tiles + 1)
    maps = choice.Maps.of(x, cuda.Geometry.of(list(SHAPE), *STEPS))
    shared = choice.shared_bytes(config, maps.positions(config.tile), capability)
    assert launch.sizes == [blocks, 1, 1, config.threads, 1, 1, shared]
    assert launch.most_shared == choice.SHARED[capability] >= shared

    # The argument, by its names.
    layout = f"<{len(cuda.Problem.POINTERS)}Q{len(cuda.Problem.NUMBERS)}i"
    names = (*cuda.Problem.POINTERS, *cuda.Problem.NUMBERS)
    told = dict(zip(names, struct.unpack(layout, launch.argument), strict=True))
    for name, tensor in (("bias", bias), ("residual", residual), ("y", y)):
        assert told[name] == tensor.data_ptr(), name
    order = _cuda_calls._found(given[1], given[2], given[3].numel(), list(SHAPE))[1].order
    sorted_ = x.permute(0, 2, 3, 1)[..., order].contiguous()
    assert pixels_given == bytes(sorted_.view(torch.uint8).numpy())
    assert all(told[name] % 16 == 0 and told[name] for name in cuda.Problem.POINTERS)
    assert (told["channels_in"], told["filters"]) == (SHAPE[1], SHAPE[0])
    assert (told["slices"], told["pixels"]) == (slices, pixels)
    assert told["chunks"] == -(-SHAPE[1] // config.chunk)
    assert bool(told["stages"]) == kernel.endswith("wgmma")
    sizes = [told[name] for name in ("height", "width", "out_height", "out_width")]
    assert sizes == [9, 7, 9, 7] and told["activation"] == activation == 1
    steps = [told[name] for name in ("stride_h", "stride_w", "pad_h", "pad_w")]
    assert steps == [1] * 4 and told["positions"] == maps.positions(config.tile)


def test_a_kernel_is_compiled_and_loaded_once_and_a_failing_launch_is_said(
    card, stand_in, tmp_path
):
    card(9, 0)
    given = arguments(torch.bfloat16)
    with torch.no_grad():
        _cuda_calls.wgmma2(*given)
        _cuda_calls.wgmma2(*given)
        assert stand_in.number("loads").value == 1
        stand_in.fails("cuLaunchKernel", 700)
        with pytest.raises(RuntimeError, match="CUDA says an illegal memory access"):
            _cuda_calls.wgmma2(*given)
        stand_in.fails("", 0)
        _cuda_calls.wgmma2(*given)
        # Another process: what was compiled is taken from the disk.
        cuda._function.cache_clear()
        _cuda_calls.wgmma2(*given)
    assert stand_in.number("loads").value == 2 and len(list((tmp_path / "cubin").iterdir())) == 1
