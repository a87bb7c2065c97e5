"""Launches every kernel through Triton's own launcher, on a driver that is none.

`python -m tests.kernels.launched`, with libcuda.so.1 (`STAND_IN`, compiled) where the loader looks.
That library writes down each launch: grid, threads, and the parameters a card would have been
given. Here they are compared with the arguments that our launchers gave.
"""

import json
import os
import sys
from typing import Any

import torch
from torch import Tensor

# What a launcher of Triton asks of a driver. LAUNCH_SIZES says how wide each parameter is.
STAND_IN = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef struct {
  unsigned grid[3], block[3], shared;
  void *stream, *attributes;
  unsigned n;
} Config;
int cuGetErrorString(int code, const char** words) { *words = "no device"; return 0; }
int cuCtxGetCurrent(void** context) { *context = (void*)1; return 0; }
int cuDeviceGet(int* device, int number) { *device = 0; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = (void*)1; return 0; }
int cuCtxSetCurrent(void* context) { return 0; }
int cuFuncSetAttribute(void* function, int attribute, int value) { return 0; }
int cuPointerGetAttribute(uint64_t* to, int attribute, uint64_t from) { *to = from; return 0; }
int cuLaunchKernelEx(Config* config, void* function, void** parameters, void** extra) {
  FILE* file = fopen(getenv("LAUNCH_FILE"), "w");
  fprintf(file, "%u %u", config->grid[0], config->block[0]);
  for (const char* size = getenv("LAUNCH_SIZES"); *size; size++, parameters++) {
    long long number = *size == '8' ? *(int64_t*)*parameters : *(int32_t*)*parameters;
    fprintf(file, " %lld", number);
  }
  fclose(file);
  return 0;
}
"""


def flat(value: Any, specialised: bool) -> list[tuple[int, str]]:
    """(number, how wide) of what is left of an argument in a compiled kernel."""
    if isinstance(value, tuple):
        return [found for part in value for found in flat(part, specialised)]
    if isinstance(value, Tensor):
        return [(value.data_ptr(), "8")]
    if value is None or (specialised and value == 1):
        return []
    return [(value, "8" if abs(value) >= 2**31 else "4")]


def expected(kernel: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
    names = {param.name: param for param in kernel.params}
    own = {name: value for name, value in named.items() if name in names}
    bound = kernel.signature.bind(*arguments, **own).arguments
    found = []
    for name, param in names.items():
        if not param.is_constexpr:
            found += flat(bound[name], not param.do_not_specialize)
    return found


def main() -> None:
    """Prints a line of JSON for each launch: [kernel, grid, threads, given, taken]."""
    # The rest of what Triton's driver links to is not there, and never called.
    sys.setdlopenflags(os.RTLD_LAZY)
    from triton.backends.nvidia import driver as nvidia
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    from tests.kernels import test_compiled as own
    from tests.kernels.compile_only import _Driver

    real = nvidia.CudaUtils()

    class Utils:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def load_binary(self, *_: Any) -> tuple[int, ...]:
            return 1, 2, 32, 0, 1024

        def get_device_properties(self, _: int) -> dict[str, int]:
            return {"max_shared_mem": 227 << 10}

        def unload_module(self, _: int) -> None:
            pass

    class Driver(_Driver):
        utils, launcher_cls = Utils(), nvidia.CudaLauncher

    run = JITFunction.run

    def noted(self: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        given = expected(self, arguments, named)
        os.environ["LAUNCH_SIZES"] = "".join(size for _, size in given)
        kernel = run(self, *arguments, grid=grid, warmup=False, **named)
        with open(os.environ["LAUNCH_FILE"]) as file:
            blocks, threads, *taken = (int(number) for number in file.read().split())
        row = [self.__name__, blocks, threads, [number for number, _ in given], taken]
        print(json.dumps([*row, grid[0], 32 * named.get("num_warps", 4)]))
        return kernel

    driver.set_active(Driver(90))
    JITFunction.run = noted
    own.configs.capability = lambda device: (9, 0)
    launch_all(own)


def launch_all(own: Any) -> None:
    """Every kernel, with strides, a stride of 2, a residual, and a stride over 2^31."""
    sets, nnz = own.class_by_class(128)
    some = sets._replace(others=torch.arange(3, dtype=torch.int32))
    x = torch.zeros(3, 128, 7, 9, dtype=torch.bfloat16)
    residual = torch.zeros(3, 128, 4, 5, dtype=torch.bfloat16)
    strided = own.launch.Geometry((3, 3), (2, 2), (1, 1), (1, 1))
    laid = own.set_conv2d.packed(torch.zeros(nnz, dtype=x.dtype), sets)
    last = x.contiguous(memory_format=torch.channels_last)
    # Its second image is far away: memory that nobody touches is not taken.
    far = torch.empty(2**31 + 10_000, dtype=x.dtype)
    far = far.as_strided((2, 128, 7, 9), (2**31 + 16, 63, 9, 1))
    for given, more in ((x, residual), (last, residual), (far, None)):
        own.set_conv2d.set_conv2d(given, laid, some._replace(run=1), 128, None, more, strided, 1)
    own.set_conv2d.set_conv2d(last, laid, some, 128, None, residual, strided, 1)
    own.set_weight.set_conv2d_weight(residual, x, sets, strided)
    conv = own.CSRWeight.pack(torch.ones(12, 16, 3, 3), torch.ones(12, 16, 3, 3).bool())
    indices, order = (conv.crow_indices, conv.col_indices), torch.arange(12, dtype=torch.int32)
    image, shape = torch.zeros(2, 16, 8, 6), list(conv.shape)
    y = own.csr_conv2d.csr_conv2d(
        image, *indices, conv.values, order, None, None, shape, own.GEOMETRY, 1, 3
    )
    rows = conv.rows().int()
    own.csr_weight.csr_conv2d_weight(y, image, rows, conv.col_indices, own.GEOMETRY, 1)
    line = own.CSRWeight.pack(torch.ones(8, 4096), torch.ones(8, 4096).bool())
    parts = own.configs.LinearConfig(1, 128, 4, 4, 2)
    for config in (None, parts):
        own.csr_linear.csr_linear(
            torch.zeros(3, 4096),
            line.crow_indices,
            line.col_indices,
            line.values,
            order[:8],
            torch.zeros(8),
            None,
            0,
            config,
        )


if __name__ == "__main__":
    main()
