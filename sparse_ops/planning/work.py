"""Work: what a step of a program is, and the arithmetic and traffic that it cannot do without."""

from collections.abc import Sequence

from sparse_ops.ops._activation import from_code
from sparse_ops.ops._program_code import (
    CHANNELS,
    DENSE,
    FUNCTIONS,
    FUSED_PRELU,
    IMAGES,
    KERNELS,
    LANES,
    MAX,
    OPERATORS,
    PLANAR,
    Program,
    Step,
)
from sparse_ops.ops._program_shapes import shapes as shapes_of
from sparse_ops.planning.programmed import SHORT_ORDERS

__all__ = ["kind_of", "order_of", "pieces_of", "shapes_of", "work"]

Shape = tuple[int, ...]

_FUNCTIONS = {code: name for name, code in FUNCTIONS.items()}
_OPERATORS = {code: name for name, code in OPERATORS.items()}
FLOAT = 4
# Of an image, with channels innermost: csrc/program/conv_winograd.cpp.
FEWEST_TILES, FEWEST_OF_FOUR = 16, 8
_WINOGRAD = {2: "winograd", 4: "winograd 4x4"}


def kind_of(program: Program, step: Step, out: Shape) -> str:
    """What a step does, in a few words: "conv csr + relu"."""
    words = step.kind.replace("_", " ")
    if step.kind in ("conv", "linear"):
        side = winograd_side(program, step, out)
        form = _WINOGRAD[side] if side else _form(program, step)
        words = f"{step.kind} {form}"
        words += " + residual" if step["residual"] else ""
    elif step.kind == "unary":
        words = _FUNCTIONS[step["function"]]
    elif step.kind == "binary":
        words = _OPERATORS[step["operator"]]
    elif step.kind in ("pool", "adaptive_pool"):
        words = f"{'max' if step['mode'] == MAX else 'average'} pool"
    if step.kind in ("conv", "linear", "binary", "affine") and step["activation"]:
        prelu = step["activation"] == FUSED_PRELU
        words += f" + {'prelu' if prelu else from_code(step['activation'])}"
    return words


def _form(program: Program, step: Step) -> str:
    if step["form"] == DENSE:
        grouped = step.kind == "conv" and step["groups"] > 1
        alone = grouped and step["groups"] == step["in_channels"]
        return "depthwise" if alone else "grouped" if grouped else "dense"
    classes = program.constants[step.constants[0]].numel() - 1
    if not program.constants[step.constants[1]].numel():
        return "constant"
    return "periodic" if classes < _rows(step) else "csr"


def _rows(step: Step) -> int:
    return step["out_channels"] if step.kind == "conv" else step["out_features"]


def order_of(program: Program, step: Step, shapes: Sequence[Shape]) -> str:
    """How what a step gives lies in memory; "" where there is one way only."""
    if len(shapes[step.out]) != 4:
        return ""
    order = SHORT_ORDERS[program.values[step.out].order]
    if step.kind != "convert":
        return order
    return f"{SHORT_ORDERS[program.values[step.inputs[0]].order]}→{order}"


def pieces_of(program: Program, inputs: Sequence[Shape]) -> list[tuple[int, list[Shape]]]:
    """(how many, shapes of their inputs) of the pieces that a batch runs in; those alike once."""
    batch = max(shape[0] for shape in inputs)
    piece = program.piece or batch
    if any(value.order == IMAGES for value in program.values):
        piece = -(-piece // LANES) * LANES
    piece = min(piece, batch)
    counts = [(batch // piece, piece), (1, batch % piece)]
    return [
        (count, [(n, *shape[1:]) if shape[0] == batch else shape for shape in inputs])
        for count, n in counts
        if n
    ]


def work(program: Program, step: Step, shapes: Sequence[Shape]) -> tuple[int, int]:
    """(multiply-accumulates, bytes) of a step for values of these shapes.

    Bytes are those that are read or written once at least: inputs, output, weights and indices.
    """
    out = shapes[step.out]
    held = sum(program.constants[c].nbytes for c in step.constants if c >= 0)
    if step.kind == "flatten" and _is_view(program, step):
        return 0, 0
    if step.kind == "concat":
        # Parts that were written to their places are there.
        moved = [v for v in step.inputs if program.values[v].whole != step.out]
        return 0, 2 * FLOAT * sum(_numbers(shapes[v]) for v in moved)
    if step.kind == "slice":
        return 0, 2 * FLOAT * _numbers(out)
    read = sum(_numbers(shapes[v]) for v in dict.fromkeys(step.inputs))
    return _macs(program, step, out), held + FLOAT * (read + _numbers(out))


def _is_view(program: Program, step: Step) -> bool:
    """Whether a flattened value is the same memory as what it is made of."""
    source, out = program.values[step.inputs[0]], program.values[step.out]
    return source.order == PLANAR and source.whole == out.whole == -1


def winograd_side(program: Program, step: Step, out: Shape) -> int:
    """The side of the tiles of Winograd's algorithm, 0 if a step runs without it.

    As csrc/program/conv_winograd.cpp has it.
    """
    if step.kind != "conv" or step["form"] != DENSE or len(out) != 4:
        return 0
    sizes = [step[f"{name}_{d}"] for name in ("kernel", "stride", "dilation") for d in "hw"]
    orders = {program.values[v].order for v in (step.inputs[0], step.out)}
    way = step["kernel"]
    if sizes != [3, 3, 1, 1, 1, 1] or step["groups"] != 1 or PLANAR in orders:
        return 0
    channels = min(step["in_channels"], step["out_channels"])
    asked = (KERNELS["auto"], KERNELS["4x4"])
    if way not in asked or len(orders) > 1 or channels < LANES or min(out[2:]) < 2:
        return 0
    if orders == {CHANNELS} and _tiles(out, 2) < FEWEST_TILES:
        return 0
    four = way == KERNELS["4x4"] and 36 * _tiles(out, 4) < 16 * _tiles(out, 2)
    return 4 if four and (orders == {IMAGES} or _tiles(out, 4) >= FEWEST_OF_FOUR) else 2


def _tiles(out: Shape, side: int) -> int:
    """How many tiles an image has."""
    return -(-out[2] // side) * -(-out[3] // side)


def _macs(program: Program, step: Step, out: Shape) -> int:
    if step.kind not in ("conv", "linear"):
        return 0
    positions = _numbers(out) // out[1]
    if side := winograd_side(program, step, out):
        products = (side + 2) ** 2 * out[0] * _tiles(out, side)
        return products * step["in_channels"] * step["out_channels"]
    first = program.constants[step.constants[0]]
    if step["form"] == DENSE:
        return positions * first.numel()
    # Row o keeps what class o mod classes keeps.
    lengths = first.diff()
    full, rest = divmod(_rows(step), lengths.numel())
    return positions * int(full * lengths.sum() + lengths[:rest].sum())


def _numbers(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
