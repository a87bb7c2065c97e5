"""Running programs, whole networks as one call of one operator; see _program_code.py."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparse_ops.ops import _native, _program_reference
from sparse_ops.ops._backend import needs_gradient
from sparse_ops.ops._program_code import decoded
from sparse_ops.ops._program_shapes import formulas
from sparse_ops.ops._transforms import TRANSFORMED, is_transformed

__all__ = ["BACKENDS", "Description", "describe", "formulas", "profile", "release", "run"]

_RUN = _native.compiled_operators("run_program", auto=False)
_PROFILE = _native.compiled_operators("profile_program", auto=False)
# Held here: at the interpreter's end torch.ops may be gone before the last program is.
_RELEASE = None if _native.MISSING else torch.ops.sparse_ops.release_program.default


@dataclass(frozen=True)
class Backend:
    """One way of running programs.

    Attributes:
        name: what a caller writes as `backend=`.
        run: (inputs, program, constants, shapes) -> outputs.
        profile: (inputs, program, constants, repeats) -> (repeats, steps) ms.
        refuses: (inputs, constants) -> why these cannot be run here, or None if they can.
    """

    name: str
    run: Callable[[Sequence[Tensor], Tensor, Sequence[Tensor], Sequence[int]], list[Tensor]]
    profile: Callable[[Sequence[Tensor], Tensor, Sequence[Tensor], int], Tensor]
    refuses: Callable[[Sequence[Tensor], Sequence[Tensor]], str | None]


def reference(
    inputs: Sequence[Tensor],
    program: Tensor,
    constants: Sequence[Tensor],
    shapes: Sequence[int] = (),
) -> list[Tensor]:
    """The definition, in PyTorch: any device and float dtype, differentiable; slow."""
    return _program_reference.run(decoded(program, constants), inputs)


def _reference_profile(
    inputs: Sequence[Tensor], program: Tensor, constants: Sequence[Tensor], repeats: int
) -> Tensor:
    steps = decoded(program, constants)
    times = torch.zeros(repeats, len(steps.steps), dtype=torch.float64)
    for line in times:
        values = dict(enumerate(inputs))
        for s, step in enumerate(steps.steps):
            begin = perf_counter()
            _program_reference.run_step(steps, step, values)
            line[s] = (perf_counter() - begin) * 1e3
    return times


def _compiled(isa: str) -> Backend:
    def refuses(inputs: Sequence[Tensor], constants: Sequence[Tensor]) -> str | None:
        if _native.REFUSES[isa] is not None:
            return _native.REFUSES[isa]
        for x in inputs:
            if x.device.type != "cpu" or x.dtype != torch.float32:
                return f"an input is {x.dtype} on {x.device.type}, not float32 on cpu"
        if torch.is_grad_enabled() and needs_gradient(*inputs, *constants):
            return "an input or a weight wants a gradient, which programs do not have"
        if is_transformed():
            return TRANSFORMED
        return None

    def run(
        inputs: Sequence[Tensor],
        program: Tensor,
        constants: Sequence[Tensor],
        shapes: Sequence[int],
    ) -> list[Tensor]:
        outputs: list[Tensor] = _RUN[isa](inputs, program, constants, shapes)
        return outputs

    def profile(
        inputs: Sequence[Tensor], program: Tensor, constants: Sequence[Tensor], repeats: int
    ) -> Tensor:
        times: Tensor = _PROFILE[isa](inputs, program, constants, repeats)
        return times

    return Backend(isa, run, profile, refuses)


# The order in which "auto" tries them.
BACKENDS = [
    *(_compiled(isa) for isa in _native.ISAS),
    Backend("reference", reference, _reference_profile, lambda inputs, constants: None),
]


def _chosen(name: str, inputs: Sequence[Tensor], constants: Sequence[Tensor]) -> Backend:
    reasons = []
    for backend in BACKENDS:
        if name in ("auto", backend.name):
            reason = backend.refuses(inputs, constants)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
    if not reasons:
        have = ", ".join(backend.name for backend in BACKENDS)
        raise ValueError(f"unknown backend {name!r}; have {have}")
    raise RuntimeError("no backend for these arguments; " + "; ".join(reasons))


def run(
    inputs: Sequence[Tensor],
    program: Tensor,
    constants: Sequence[Tensor],
    backend: str = "auto",
    shapes: Sequence[int] = (),
) -> list[Tensor]:
    """Runs a program.

    What is prepared for a program is kept by its number, its constants and the sizes of its inputs.
    A constant that was changed in place is noticed by some of its values only: who changes weights
    gives the program another number, or calls `release`.

    Args:
        inputs: (N, C, H, W) or (N, C), float32. Those of one image are the same for all N.
        program: int64, `Program.encoded()`.
        constants: the program's; float32 weights, int32 indices.
        backend: a name in `BACKENDS`, or "auto" for the first that runs these arguments.
        shapes: `formulas` of the program; only torch.compile and torch.export need them.

    Raises:
        ValueError: there is no such backend.
        RuntimeError: the backend asked for refuses these arguments, or this is no program for them;
            the message says what is wrong.
    """
    chosen = _chosen(backend, inputs, constants)
    # Where nothing is traced, the formulas would only be one list more to unpack.
    traced = shapes if torch.compiler.is_compiling() else ()
    return chosen.run(inputs, program, constants, traced)


def profile(
    inputs: Sequence[Tensor],
    program: Tensor,
    constants: Sequence[Tensor],
    repeats: int = 10,
    backend: str = "auto",
) -> Tensor:
    """(repeats, steps), float64: how many ms each step took, all pieces of the batch together."""
    return _chosen(backend, inputs, constants).profile(inputs, program, constants, repeats)


class ValueInfo(NamedTuple):
    """A value in a piece of the batch.

    Attributes:
        shape: (N, C, H, W) or (N, C).
        bytes: with halo and lanes that stand for nothing.
        offset: in the arena, in bytes; -1: in an input or an output.
        readers: how often steps read it.
    """

    shape: tuple[int, ...]
    bytes: int
    offset: int
    readers: int


@dataclass(frozen=True)
class Description:
    """What running a program takes.

    Attributes:
        arena: bytes of the memory that all values share.
        pieces: in how many parts the batch runs.
        piece: images in each, but maybe the last.
        last: images in the last.
        code: bytes of machine code that is made of weights for images of this size.
        values: in a piece.
    """

    arena: int
    pieces: int
    piece: int
    last: int
    code: int
    values: tuple[ValueInfo, ...]


def describe(
    program: Tensor,
    constants: Sequence[Tensor],
    shapes: Sequence[Sequence[int]],
    isa: str | None = None,
) -> Description:
    """Where the values of a program would lie, for inputs of these shapes.

    Args:
        isa: by which kernels, a name in `ISAS`; None: the best that run here.

    Raises:
        RuntimeError: nothing is compiled here, or this is no program for such inputs.
    """
    if _native.MISSING:
        raise RuntimeError(_native.MISSING)
    sizes = [n for shape in shapes for n in (len(shape), *shape, *[1] * (4 - len(shape)))]
    operator = getattr(torch.ops.sparse_ops, f"describe_program_{isa or _native.BEST}")
    table: list[Any] = operator(program, constants, sizes).tolist()
    arena, pieces, piece, last, _, code = table[0][:6]
    values = tuple(
        ValueInfo(tuple(row[1 : 1 + row[0]]), row[5], row[6], row[7]) for row in table[1:]
    )
    return Description(arena, pieces, piece, last, code, values)


def release(number: int) -> None:
    """Forgets what is prepared of the program of this number."""
    # At the interpreter's end there may be nothing left that could be told.
    if _RELEASE is None or sys.is_finalizing():
        return
    # A model may be collected while another is traced, whose graph must not hear of it.
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
        _RELEASE(number)
