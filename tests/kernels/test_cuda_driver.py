"""Launching on a driver that is none: it gets what our launcher gave, and its errors are said."""

import struct

import pytest

from sparse_ops.ops._kernels import kernels

driver = kernels("_driver")
cuda, wgmma_choice = kernels("periodic_conv2d"), kernels("wgmma_choice")


def test_a_launch_arrives_as_it_was_given(stand_in):
    own = driver.Driver(stand_in.path)
    function = own.load(1, b"cubin of ours", "periodic_conv2d", 200_000)
    numbers = range(100, 100 + len(cuda.Problem.NUMBERS))
    pointers = [2**40 + 16 * i for i in range(len(cuda.Problem.POINTERS))]
    pointers[2] = None
    own.launch(1, function, 70_000, 256, 180_000, 2**44, cuda.Problem(*pointers, *numbers))
    launch = stand_in.launch()
    assert launch.sizes == [70_000, 1, 1, 256, 1, 1, 180_000] and launch.stream == 2**44
    layout = f"<{len(pointers)}Q{len(numbers)}i"
    taps = 4 * wgmma_choice.MOST_TAPS
    found = struct.unpack_from(layout, launch.argument)
    assert list(found) == [p or 0 for p in pointers] + list(numbers)
    assert len(launch.argument) == -(-(struct.calcsize(layout) + taps) // 8) * 8
    # No context was current in this thread: that of device 1 was entered.
    assert stand_in.number("context_set").value == 3
    assert launch.most_shared == 200_000


def test_a_failing_launch_is_said_in_the_drivers_words_and_the_next_one_runs(stand_in):
    own = driver.Driver(stand_in.path)
    function = own.load(0, b"cubin", "periodic_conv2d", 0)
    stand_in.fails("cuLaunchKernel", 700)
    words = r"launching 3 blocks of 128 threads and 64 bytes: CUDA says an illegal memory access"
    with pytest.raises(driver.DriverError, match=words):
        own.launch(0, function, 3, 128, 64, 0, cuda.Problem())
    stand_in.fails("", 0)
    own.launch(0, function, 4, 128, 64, 0, cuda.Problem())
    assert stand_in.launch().sizes[0] == 4


def test_a_driver_that_is_too_old_is_named_with_its_version(stand_in):
    own = driver.Driver(stand_in.path)
    stand_in.fails("cuModuleLoadData", 222)
    words = r"loading periodic_conv2d into a driver for CUDA 11.4: CUDA says words .* \(222\)"
    with pytest.raises(driver.DriverError, match=words):
        own.load(0, b"cubin", "periodic_conv2d", 0)
    stand_in.fails("", 0)
    with pytest.raises(driver.DriverError, match="finding another"):
        own.load(0, b"cubin", "another", 0)


def test_without_a_driver_it_is_said(tmp_path):
    with pytest.raises(driver.DriverError, match=r"the CUDA driver is not here .*nothing\.so"):
        driver.Driver(str(tmp_path / "nothing.so"))


def test_the_structure_is_that_of_the_kernel():
    """Names and their order, read off the kernel's own text."""
    text = kernels("_nvrtc").sources()["tile.cuh"]
    body = text[text.index("struct Problem {") : text.index("};", text.index("struct Problem {"))]
    fields = [line.split("//")[0].strip() for line in body.splitlines()[1:]]
    pointers = [f.rstrip(";").split("*")[1].strip() for f in fields if "*" in f]
    numbers = [
        name.strip()
        for f in fields
        if f.startswith("int ")
        for name in f.removeprefix("int ").rstrip(";").split(",")
    ]
    assert tuple(pointers) == cuda.Problem.POINTERS
    assert tuple(numbers) == (*cuda.Problem.NUMBERS, "taps[MOST_TAPS]")
    assert f"constexpr int MOST_TAPS = {wgmma_choice.MOST_TAPS};" in text
