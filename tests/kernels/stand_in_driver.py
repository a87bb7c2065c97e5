"""A libcuda that is none: it writes down what a card would be given, and fails when told to."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

COMPILER = shutil.which("cc")
# Of a real cubin it looks for the kernel's name; "cubin" alone has periodic_conv2d.
SOURCE = r"""
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
int fail_code; char fail_call[64]; unsigned launched[7]; void* stream; unsigned char argument[4096];
int argument_size, context_set, most_shared, loads; char asked[64];
static const char* image;
static int code(const char* call) { return strcmp(call, fail_call) ? 0 : fail_code; }
static int has(const char* name) {
  if (memcmp(image, ELFMAG, SELFMAG)) return !strcmp(name, "periodic_conv2d");
  const Elf64_Ehdr* head = (const Elf64_Ehdr*)image;
  const Elf64_Shdr* sections = (const Elf64_Shdr*)(image + head->e_shoff);
  const char* names = image + sections[head->e_shstrndx].sh_offset;
  char wanted[80];
  snprintf(wanted, sizeof wanted, ".text.%s", name);
  for (int i = 0; i < head->e_shnum; i++)
    if (!strcmp(names + sections[i].sh_name, wanted)) return 1;
  return 0;
}
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
int cuModuleLoadData(void** module, const void* given) {
  *module = (void*)5, image = given, loads++;
  if (memcmp(image, "cubin", 5) && memcmp(image, ELFMAG, SELFMAG)) return 999;
  return code("cuModuleLoadData");
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = (void*)7;
  snprintf(asked, sizeof asked, "%s", name);
  return module == (void*)5 && has(name) ? 0 : 500;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  most_shared = value;
  return attribute == 8 ? 0 : 1;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* on, void** arguments, void** extra) {
  unsigned all[7] = {gx, gy, gz, bx, by, bz, shared};
  memcpy(launched, all, sizeof all);
  stream = on;
  memcpy(argument, arguments[0], argument_size);
  return function == (void*)7 ? code("cuLaunchKernel") : 400;
}
"""


class Launch(NamedTuple):
    """What the last launch was given.

    Attributes:
        kernel: the name of the function that was asked for last.
        sizes: the grid's, the block's, and bytes of shared memory.
        most_shared: how many the function was allowed.
    """

    kernel: str
    sizes: list[int]
    stream: int
    argument: bytes
    most_shared: int


def built(folder: Path) -> Path:
    (folder / "libcuda.c").write_text(SOURCE)
    path = folder / "libcuda.so.1"
    command = [COMPILER, "-shared", "-fPIC", "-o", str(path), str(folder / "libcuda.c")]
    subprocess.run(command, check=True)
    return path


class StandIn:
    """The library, as if nothing had been asked of it yet."""

    def __init__(self, path: Path, argument: type[ctypes.Structure]) -> None:
        self.path, self._library = str(path), ctypes.CDLL(str(path))
        self._bytes = ctypes.sizeof(argument)
        self.number("argument_size").value = self._bytes
        for name in ("context_set", "most_shared", "loads"):
            self.number(name).value = 0
        self.fails("", 0)

    def number(self, name: str) -> ctypes.c_int:
        return ctypes.c_int.in_dll(self._library, name)

    def fails(self, call: str, code: int) -> None:
        """From now on a call returns that number."""
        (ctypes.c_char * 64).in_dll(self._library, "fail_call").value = call.encode()
        self.number("fail_code").value = code

    def launch(self) -> Launch:
        def of(kind, name):
            return kind.in_dll(self._library, name)

        return Launch(
            of(ctypes.c_char * 64, "asked").value.decode(),
            list(of(ctypes.c_uint * 7, "launched")),
            of(ctypes.c_void_p, "stream").value or 0,
            bytes(of(ctypes.c_char * self._bytes, "argument")),
            self.number("most_shared").value,
        )
