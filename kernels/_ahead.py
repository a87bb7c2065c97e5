"""Kernels that were compiled when the package was built (SPARSE_OPS_CUDA=1), in a library.

With it the first call of a layer does not wait for NVRTC; what it does not have is compiled by
NVRTC, as all is without it. csrc/cuda/library.cu is the other side.
"""

import ctypes
import hashlib
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from ._driver import DriverError
from ._nvrtc import sources
from .configs import TapConfig

LIBRARY = Path(__file__).parent / "_C_cuda.so"
# CUDA's numbers for what NVRTC may still be able to: there is no code for this card, or the driver
# is older than the nvcc was.
NOT_FOR_THIS_CARD = (209, 98, 35)


def digest() -> str:
    """A name for the texts that the kernels are made of."""
    return hashlib.sha256(repr(sources()).encode()).hexdigest()[:32]


class Ahead:
    """The library, loaded.

    Raises:
        OSError: it cannot be loaded.
        ValueError: it was built of other texts than are there now.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name in ("digest", "words"):
            getattr(self._library, f"sparse_ops_cuda_{name}").restype = ctypes.c_char_p
        built = self._library.sparse_ops_cuda_digest().decode()
        if built != digest():
            raise ValueError(f"{path} is of other sources: build the package again")
        # (device, numbers) that are not for that card.
        self._missing: set[tuple[int, tuple[int, ...]]] = set()

    def has(self, config: TapConfig, bf16: bool) -> bool:
        return bool(self._library.sparse_ops_cuda_has(_numbers(config, bf16)))

    def launch(
        self,
        device: int,
        config: TapConfig,
        bf16: bool,
        blocks: int,
        shared: int,
        stream: int,
        problem: ctypes.Structure,
    ) -> bool:
        """Queues a kernel, or says that there is none for this card.

        Raises:
            DriverError: the launch fails; the message has CUDA's words.
        """
        key = device, (*config, int(bf16))
        if key in self._missing or not self.has(config, bf16):
            return False
        code = self._library.sparse_ops_cuda_launch(
            _numbers(config, bf16),
            ctypes.c_int(device),
            ctypes.c_uint(blocks),
            ctypes.c_uint(config.threads),
            ctypes.c_uint(shared),
            ctypes.byref(problem),
            ctypes.c_void_p(stream),
        )
        if code in NOT_FOR_THIS_CARD:
            self._missing.add(key)
            return False
        if code:
            said = self._library.sparse_ops_cuda_words(code).decode()
            raise DriverError(f"launching {blocks} blocks: CUDA says {said} ({code})")
        return True


def _numbers(config: TapConfig, bf16: bool) -> Any:
    return (ctypes.c_int * 7)(*config, int(bf16))


@cache
def library() -> Ahead | None:
    """The library, or None: it was not built, or not of these sources."""
    if not LIBRARY.exists():
        return None
    try:
        return Ahead(LIBRARY)
    except (OSError, ValueError, AttributeError) as error:
        warnings.warn(f"kernels are compiled as they are called: {error}", stacklevel=2)
        return None
