"""Launching on a driver that is none: it gets what our launcher gave, and its errors are said."""

import ctypes
import shutil
import struct
import subprocess

import pytest

from sparse_ops.ops._kernels import kernels

driver = kernels("_driver")
cuda = kernels("periodic_conv2d")
COMPILER = shutil.which("cc")
# It writes down what it was told; FAIL is the call that is to fail, with that number.
STAND_IN = r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>
int fail_code; char fail_call[64]; unsigned launched[7]; void* stream; unsigned char argument[4096];
int argument_size, context_set, most_shared;
static int code(const char* call) { return strcmp(call, fail_call) ? 0 : fail_code; }
int cuGetErrorString(int number, const char** words) {
  *words = number == 700 ? "an illegal memory access was encountered" : "words of the driver";
  return 0;
}
int cuDriverGetVersion(int* version) { *version = 11040; return 0; }
int cuCtxGetCurrent(void** context) { *context = context_set ? (void*)1 : 0; return 0; }
int cuDeviceGet(int* device, int number) { *device = number; return code("cuDeviceGet"); }
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = (void*)(intptr_t)(device + 2);
  return 0;
}
int cuCtxSetCurrent(void* context) { context_set = (int)(intptr_t)context; return 0; }
int cuModuleLoadData(void** module, const void* image) {
  *module = (void*)5;
  return memcmp(image, "cubin", 5) ? 999 : code("cuModuleLoadData");
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = (void*)7;
  return strcmp(name, "periodic_conv2d") ? 500 : 0;
}
int cuFuncSetAttribute(void* function, int attribute, int value) { most_shared = value; return 0; }
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* on, void** arguments, void** extra) {
  unsigned all[7] = {gx, gy, gz, bx, by, bz, shared};
  memcpy(launched, all, sizeof all);
  stream = on;
  memcpy(argument, arguments[0], argument_size);
  return function == (void*)7 ? code("cuLaunchKernel") : 400;
}
"""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "libcuda.c").write_text(STAND_IN)
    path = folder / "libcuda.so.1"
    command = [COMPILER, "-shared", "-fPIC", "-o", str(path), str(folder / "libcuda.c")]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def stand_in(library):
    found = ctypes.CDLL(str(library))
    size = ctypes.c_int.in_dll(found, "argument_size")
    size.value = ctypes.sizeof(cuda.Problem)
    (ctypes.c_char * 64).in_dll(found, "fail_call").value = b""
    ctypes.c_int.in_dll(found, "context_set").value = 0
    return found


def fails(stand_in, call, code):
    (ctypes.c_char * 64).in_dll(stand_in, "fail_call").value = call.encode()
    ctypes.c_int.in_dll(stand_in, "fail_code").value = code


def test_a_launch_arrives_as_it_was_given(stand_in, library):
    own = driver.Driver(str(library))
    function = own.load(1, b"cubin of ours", "periodic_conv2d", 200_000)
    numbers = range(100, 100 + len(cuda.Problem.NUMBERS))
    pointers = [2**40 + 16 * i for i in range(len(cuda.Problem.POINTERS))]
    pointers[2] = None
    own.launch(1, function, 70_000, 256, 180_000, 2**44, cuda.Problem(*pointers, *numbers))
    grid = list((ctypes.c_uint * 7).in_dll(stand_in, "launched"))
    assert grid == [70_000, 1, 1, 256, 1, 1, 180_000]
    assert ctypes.c_void_p.in_dll(stand_in, "stream").value == 2**44
    size = ctypes.sizeof(cuda.Problem)
    given = bytes((ctypes.c_char * size).in_dll(stand_in, "argument"))
    layout = f"<{len(pointers)}Q{len(numbers)}i"
    found = struct.unpack_from(layout, given)
    assert list(found) == [p or 0 for p in pointers] + list(numbers)
    assert size == -(-struct.calcsize(layout) // 8) * 8
    # No context was current in this thread: that of device 1 was entered.
    assert ctypes.c_int.in_dll(stand_in, "context_set").value == 3
    assert ctypes.c_int.in_dll(stand_in, "most_shared").value == 200_000


def test_a_failing_launch_is_said_in_the_drivers_words_and_the_next_one_runs(stand_in, library):
    own = driver.Driver(str(library))
    function = own.load(0, b"cubin", "periodic_conv2d", 0)
    fails(stand_in, "cuLaunchKernel", 700)
    words = r"launching 3 blocks of 128 threads and 64 bytes: CUDA says an illegal memory access"
    with pytest.raises(driver.DriverError, match=words):
        own.launch(0, function, 3, 128, 64, 0, cuda.Problem())
    fails(stand_in, "", 0)
    own.launch(0, function, 4, 128, 64, 0, cuda.Problem())
    assert (ctypes.c_uint * 7).in_dll(stand_in, "launched")[0] == 4


def test_a_driver_that_is_too_old_is_named_with_its_version(stand_in, library):
    own = driver.Driver(str(library))
    fails(stand_in, "cuModuleLoadData", 222)
    words = r"loading periodic_conv2d into a driver for CUDA 11.4: CUDA says words .* \(222\)"
    with pytest.raises(driver.DriverError, match=words):
        own.load(0, b"cubin", "periodic_conv2d", 0)
    fails(stand_in, "", 0)
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
    assert tuple(pointers) == cuda.Problem.POINTERS and tuple(numbers) == cuda.Problem.NUMBERS
