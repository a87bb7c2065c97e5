"""Validating: whether what a stranger calls a program is one, said in words if not."""

from collections.abc import Sequence

from torch import Tensor

from sparse_ops.ops import _native
from sparse_ops.ops import program as programs
from sparse_ops.ops._program_code import CHANNELS, KINDS, LANES, PLANAR, Program, Step, Value
from sparse_ops.ops._program_shapes import infer
from sparse_ops.program.checks import (
    LARGEST_INT,
    check_attributes,
    check_constants,
    check_orders,
)
from sparse_ops.program.sizes import check_sizes

MOST_VALUES, MOST_HALO = 2**16, 64
# How many inputs a kind reads, beside a residual; those that are not here: one; 0: any number.
_INPUTS = {"binary": 2, "concat": 0}


def validate(program: Program, shapes: Sequence[Sequence[int]] = ()) -> None:
    """Raises ValueError unless this is a program whose every step can run.

    Args:
        program: as `decoded` read it, constants included.
        shapes: of its inputs, if it is to be asked whether it runs on them, too.
    """
    _check_head(program)
    _check_values(program)
    written: set[int] = set(range(program.inputs))
    for place, step in enumerate(program.steps):
        try:
            _check_step(program, step, written)
        except ValueError as error:
            raise ValueError(f"{_where(place, step)}: {error}") from error
        written.add(step.out)
    _check_parts(program)
    if shapes:
        _check_shapes(program, shapes)
        _check_compiled(program, shapes)


def _where(place: int, step: Step) -> str:
    return f"step {place} ({step.kind}{f' of {step.name}' if step.name else ''})"


def _check_head(program: Program) -> None:
    values, steps = len(program.values), len(program.steps)
    if program.inputs < 1 or not program.outputs or values != program.inputs + steps:
        raise ValueError(
            "a program has inputs, outputs, and a step for each value that is no input; got "
            f"{program.inputs} inputs, {len(program.outputs)} outputs, {values} values, "
            f"{steps} steps"
        )
    if max(values, len(program.outputs)) > MOST_VALUES:
        raise ValueError(f"a program has at most {MOST_VALUES} values and outputs, got {values}")
    if not 0 <= program.piece < LARGEST_INT:
        raise ValueError(f"a piece must be 0 images, for all, or more, got {program.piece}")
    for v in program.outputs:
        if not 0 <= v < values or program.values[v].order != PLANAR:
            raise ValueError(f"an output must be one of {values} values, and planar, got {v}")


def _check_values(program: Program) -> None:
    for v, value in enumerate(program.values):
        if value.order not in (0, 1, 2):
            raise ValueError(f"value {v}: its order must be 0, 1 or 2, got {value.order}")
        if not 0 <= value.halo <= MOST_HALO or (value.order == PLANAR and value.halo):
            raise ValueError(
                f"value {v}: its halo must be 0 to {MOST_HALO}, and 0 if it is planar, "
                f"got {value.halo}"
            )
        part = 0 <= value.whole < len(program.values) and 0 <= value.first < LARGEST_INT
        if not part and (value.whole, value.first) != (-1, -1):
            raise ValueError(
                f"value {v}: it must be channels from 0 on of a value, or of none, "
                f"got {value.first} of {value.whole}"
            )
        if v < program.inputs and value != Value():
            raise ValueError(f"value {v}: an input must be planar, and no part of another")


def _check_step(program: Program, step: Step, written: set[int]) -> None:
    if not program.inputs <= step.out < len(program.values) or step.out in written:
        raise ValueError(f"it must write a value that is no input, once, got {step.out}")
    check_attributes(step, KINDS[step.kind].attributes)
    wanted = _INPUTS.get(step.kind, 1)
    if step.kind in ("conv", "linear"):
        wanted += step["residual"]
    if not step.inputs or (wanted and len(step.inputs) != wanted):
        raise ValueError(f"it must read {wanted or 'some'} values, got {len(step.inputs)}")
    for v in step.inputs:
        if v not in written:
            raise ValueError(f"it reads value {v}, which no step before it has written")
    for c in step.constants:
        if not -1 <= c < len(program.constants):
            raise ValueError(f"it has constant {c} of {len(program.constants)}")
    held = [None if c == -1 else program.constants[c] for c in step.constants]
    check_constants(step, held)
    check_orders(step, [program.values[v] for v in step.inputs], program.values[step.out])


def _check_parts(program: Program) -> None:
    writers = {step.out: step for step in program.steps}
    for v, value in enumerate(program.values):
        if value.whole == -1:
            continue
        whole, writer = program.values[value.whole], writers.get(value.whole)
        if writer is None or writer.kind != "concat" or writer.inputs.count(v) != 1:
            raise ValueError(
                f"value {v}: it is a part of value {value.whole}, which must be the "
                "concatenation of it, once, and others"
            )
        if whole.whole != -1 or (value.order, value.halo) != (whole.order, whole.halo):
            raise ValueError(
                f"value {v}: it must have the order and halo of value {value.whole}, of which it "
                "is a part, and that must be whole"
            )
        if value.order == CHANNELS and value.first % LANES:
            raise ValueError(
                f"value {v}: it must begin at a multiple of {LANES} channels, got {value.first}"
            )


def _check_shapes(program: Program, given: Sequence[Sequence[int]]) -> None:
    if len(given) != program.inputs:
        raise ValueError(f"the program must have {len(given)} inputs, got {program.inputs}")
    shapes: dict[int, tuple[int, ...]] = {v: tuple(shape) for v, shape in enumerate(given)}
    for place, step in enumerate(program.steps):
        inputs = [shapes[v] for v in step.inputs]
        try:
            out = infer(step, inputs)
            check_sizes(program, step, inputs, out)
            if len(out) == 2 and program.values[step.out] != Value():
                order = program.values[step.out]
                if order.order != PLANAR:
                    raise ValueError("a value of two dimensions must be planar")
            if step.kind == "concat":
                _check_places(program, step, shapes)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{_where(place, step)}: {error}") from error
        shapes[step.out] = out


def _check_places(program: Program, step: Step, shapes: dict[int, tuple[int, ...]]) -> None:
    """Parts are where the concatenation would put them."""
    first = 0
    for v in step.inputs:
        value = program.values[v]
        if value.whole == step.out and value.first != first:
            raise ValueError(f"its part {v} must begin at channel {first}, got {value.first}")
        first += shapes[v][1]


def _check_compiled(program: Program, shapes: Sequence[Sequence[int]]) -> None:
    """The compiled code has the same questions, and others about what it has kernels for."""
    if _native.MISSING:
        return
    constants: list[Tensor] = list(program.constants)
    try:
        programs.describe(program.encoded(), constants, shapes)
    except RuntimeError as error:
        raise ValueError(str(error).split("\n")[0]) from error
