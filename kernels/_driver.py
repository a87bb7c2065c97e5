"""The CUDA driver, as much of it as launching a compiled kernel takes; by ctypes."""

import ctypes
from functools import cache
from typing import Any

# The driver's name for "the most dynamic shared memory of a function".
MOST_SHARED = 8


class DriverError(RuntimeError):
    """The driver refuses; the message has its words. The stream can be used afterwards."""


class Driver:
    """libcuda, loaded.

    Raises:
        DriverError: it cannot be loaded.
    """

    def __init__(self, path: str = "libcuda.so.1") -> None:
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise DriverError(f"the CUDA driver is not here ({error})") from error

    def _check(self, code: int, doing: str) -> None:
        if not code:
            return
        words = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(words))
        said = (words.value or b"an error without words").decode()
        raise DriverError(f"{doing}: CUDA says {said} ({code})")

    def version(self) -> tuple[int, int]:
        """The newest CUDA that this driver is for."""
        number = ctypes.c_int()
        self._check(self._library.cuDriverGetVersion(ctypes.byref(number)), "asking for a version")
        return number.value // 1000, number.value % 1000 // 10

    def _enter(self, device: int) -> None:
        """Makes torch's context of a device current in this thread, if none is yet."""
        context, ordinal = ctypes.c_void_p(), ctypes.c_int()
        self._check(self._library.cuCtxGetCurrent(ctypes.byref(context)), "asking for a context")
        if context.value:
            return
        self._check(self._library.cuDeviceGet(ctypes.byref(ordinal), device), "finding the device")
        retain = self._library.cuDevicePrimaryCtxRetain
        self._check(retain(ctypes.byref(context), ordinal), "finding the device's context")
        self._check(self._library.cuCtxSetCurrent(context), "entering the device's context")

    def load(self, device: int, cubin: bytes, name: str, shared: int) -> ctypes.c_void_p:
        """A function of a cubin, which may take so many bytes of dynamic shared memory.

        It stays loaded as long as the process. `device` is the current one.
        """
        self._enter(device)
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        code = self._library.cuModuleLoadData(ctypes.byref(module), cubin)
        if code:
            driver = ".".join(map(str, self.version()))
            self._check(code, f"loading {name} into a driver for CUDA {driver}")
        get = self._library.cuModuleGetFunction
        self._check(get(ctypes.byref(function), module, name.encode()), f"finding {name}")
        if shared > 48 << 10:
            allow = self._library.cuFuncSetAttribute
            self._check(allow(function, MOST_SHARED, shared), f"{shared} bytes of shared memory")
        return function

    def launch(
        self,
        device: int,
        function: ctypes.c_void_p,
        blocks: int,
        threads: int,
        shared: int,
        stream: int,
        argument: ctypes.Structure,
    ) -> None:
        """Queues a kernel that takes one structure by value."""
        self._enter(device)
        arguments: Any = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        grid = (ctypes.c_uint(n) for n in (blocks, 1, 1, threads, 1, 1, shared))
        launch = self._library.cuLaunchKernel
        self._check(
            launch(function, *grid, ctypes.c_void_p(stream), arguments, None),
            f"launching {blocks} blocks of {threads} threads and {shared} bytes",
        )


@cache
def driver() -> Driver:
    return Driver()
