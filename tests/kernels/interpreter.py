"""Triton's interpreter, mended and made strict, so that a test on a CPU is worth something.

As it comes, the interpreter multiplies the bit patterns of bfloat16 in tl.dot, and cuts where a GPU
rounds to nearest even when it narrows to bfloat16. And it runs whatever a GPU would: reads beyond
the end of a tensor, programs that overwrite each other. With `install` called,

* bfloat16 products are right, and narrowing rounds to nearest even;
* masks are truth values, also where the interpreter's arithmetic has made integers of them;
* a scalar of a kernel is a number under numpy 2.4 too, which Triton before 3.7 is too old for;
* a load or store that is not in one of the tensors the kernel was called with is an error;
* two programs, or two lanes, that store to one address are an error;
* what a kernel promises the compiler (tl.multiple_of, max_contiguous, max_constancy) is held to: on
  a GPU, a promise that does not hold reads or writes something else.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


@dataclass
class Launch:
    """What is known of the kernel that runs.

    Attributes:
        bounds: (tensors, 2), uint64: where each tensor argument starts and ends in memory.
        stored: for each store, the addresses and the number of the program.
    """

    bounds: np.ndarray
    stored: list[tuple[np.ndarray, int]] = field(default_factory=list)


def _widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    bits = handle.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(bits.view(np.float32), tl.float32)


def _rounded(handle: Any) -> Any:
    """float32 -> bfloat16, to nearest even, as torch does it."""
    wide = torch.from_numpy(np.ascontiguousarray(handle.data, dtype=np.float32))
    bits = wide.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    return interpreter.TensorHandle(bits.reshape(handle.data.shape), tl.bfloat16)


def _mask(handle: Any) -> Any:
    """A mask as truth values: arithmetic may have left integers, which Triton 3.9 refuses."""
    return interpreter.TensorHandle(handle.data.astype(bool), tl.int1)


def _hold_to(handle: Any, promise: str, values: Any) -> None:
    """Raises ValueError unless a promise holds; numbers below 0 stand for nothing, and are exempt.

    Which multiple is promised is promised of the first of each group: of a run of neighbours.
    """
    size = int(values[-1] if isinstance(values, list | tuple) else values)
    data = np.asarray(handle.data)
    if data.size == 1:
        held = promise != "tt.divisibility" or int(data.item()) < 0 or int(data.item()) % size == 0
    else:
        groups = data.reshape(-1, min(size, data.size)).astype(np.int64)
        first = groups[:, :1]
        right = {
            "tt.divisibility": first % size == 0,
            "tt.contiguity": groups - first == np.arange(groups.shape[1]),
            "tt.constancy": groups == first,
        }[promise]
        held = bool((right.all(1) | (groups < 0).all(1)).all())
    if not held:
        raise ValueError(f"{promise} of {size} is promised and does not hold: {data.ravel()[:64]}")


def _narrows(handle: Any, to: Any) -> bool:
    return handle.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


class _Strict:
    """The launch at work, and the methods that stand in for the interpreter's."""

    launch: Launch | None = None

    def checked(self, pointers: Any, mask: Any, verb: str) -> np.ndarray:
        """The addresses that are really used.

        Raises:
            IndexError: one is outside of all tensors.
        """
        chosen = np.broadcast_to(mask.data.astype(bool), pointers.data.shape)
        addresses = pointers.data[chosen].astype(np.uint64).ravel()
        if self.launch is None:
            return addresses
        size = np.uint64(pointers.get_element_ty().primitive_bitwidth // 8)
        inside = np.zeros(addresses.shape, dtype=bool)
        for start, stop in self.launch.bounds:
            inside |= (addresses >= start) & (addresses + size <= stop)
        if not inside.all():
            wrong = int(addresses[~inside][0])
            near = min(int(start) for start, _ in self.launch.bounds) if len(inside) else 0
            raise IndexError(
                f"{verb} outside of the kernel's tensors: {int((~inside).sum())} lanes, the first "
                f"{wrong - near} bytes after the lowest tensor"
            )
        return addresses

    def finish(self) -> None:
        """Raises RuntimeError if two programs stored to one address."""
        if self.launch is None or not self.launch.stored:
            return
        addresses = np.concatenate([a for a, _ in self.launch.stored])
        programs = np.concatenate([np.full(len(a), p) for a, p in self.launch.stored])
        order = np.lexsort((programs, addresses))
        addresses, programs = addresses[order], programs[order]
        race = (addresses[1:] == addresses[:-1]) & (programs[1:] != programs[:-1])
        if race.any():
            at = int(race.argmax())
            raise RuntimeError(
                f"programs {programs[at]} and {programs[at + 1]} store to one address; "
                f"{int(race.sum())} such addresses"
            )


def install() -> None:
    """Mends the interpreter for the rest of this process; once is enough."""
    builder: Any = interpreter.InterpreterBuilder
    if getattr(builder, "mended", False):
        return
    builder.mended = True
    strict = _Strict()
    dot, cast, convert = builder.create_dot, builder.cast_impl, builder.create_fp_to_fp
    load, store = builder.create_masked_load, builder.create_masked_store
    keep_attr = interpreter.TensorHandle.set_attr
    call, patch = interpreter.GridExecutor.__call__, interpreter._patch_lang_tensor

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, _widened(a), _widened(b), *rest)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        return _rounded(source) if _narrows(source, to) else cast(self, source, to)

    def create_fp_to_fp(self: Any, source: Any, to: Any, mode: Any) -> Any:
        return _rounded(source) if _narrows(source, to) else convert(self, source, to, mode)

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        strict.checked(pointers, mask, "load")
        return load(self, pointers, _mask(mask), *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        addresses = strict.checked(pointers, mask, "store")
        once = np.unique(addresses)
        if len(once) != len(addresses):
            raise RuntimeError("two lanes of one program store to one address")
        if strict.launch is not None:
            x, y, z = self.grid_idx
            program = (z * self.grid_dim[1] + y) * self.grid_dim[0] + x
            strict.launch.stored.append((once, program))
        return store(self, pointers, value, _mask(mask), *rest)

    def set_attr(self: Any, promise: str, values: Any) -> None:
        _hold_to(self, promise, values)
        keep_attr(self, promise, values)

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def no_atomics(self: Any, *arguments: Any) -> Any:
        raise RuntimeError("atomics are refused: no kernel has any, so none are checked")

    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        given = (*arguments, *named.values())
        tensors = [t for t in given if isinstance(t, torch.Tensor) and t.numel()]
        bounds = np.array([_extent(t) for t in tensors], dtype=np.uint64).reshape(-1, 2)
        strict.launch = Launch(bounds)
        try:
            result = call(self, *arguments, **named)
            strict.finish()
        finally:
            strict.launch = None
        return result

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
    builder.create_fp_ext = builder.create_fp_trunc = cast_impl
    builder.create_fp_to_fp = create_fp_to_fp
    builder.create_masked_load = create_masked_load
    builder.create_masked_store = create_masked_store
    builder.create_atomic_rmw = builder.create_atomic_cas = no_atomics
    interpreter.TensorHandle.set_attr = set_attr
    interpreter.GridExecutor.__call__ = run
    interpreter._patch_lang_tensor = patch_lang_tensor
