"""Memory: what a dense model and the one that it is made into take."""

from dataclasses import dataclass

from torch import nn

from sparse_ops.graph.ir import Value
from sparse_ops.ops import program as programs
from sparse_ops.planning.columns import size
from sparse_ops.program.model import programs_of
from sparse_ops.program.segments import Segment
from sparse_ops.program.watch import PREFIX


@dataclass(frozen=True)
class Memory:
    """What two models take, in bytes. What PyTorch and kernels need beside is not counted:
    activations outside of programs, and the copies of weights that kernels read faster.

    Attributes:
        dense: weights and buffers of the dense model.
        packed: those of the converted one, indices among them; of the dense one if nothing is
            replaced.
        arena: what the values inside of the converted one's programs share, at the example's size;
            every call that runs at the same time has its own.
        largest: the largest of these values, for one piece of the batch.
        piece: images that run at a time in the program of the largest arena.
        programs: how many there are; 0: the model does not run as programs.
        code: machine code that is made of weights, at the example's size.
    """

    dense: int = 0
    packed: int = 0
    arena: int = 0
    largest: int = 0
    piece: int = 0
    programs: int = 0
    code: int = 0

    def __str__(self) -> str:
        text = f"weights {size(self.dense)} dense, {size(self.packed)} packed"
        if not self.programs:
            return text
        images = f"{self.piece} image" + "s" * (self.piece != 1)
        return (
            f"{text}; values inside {size(self.arena)} a call, {images} at a time, "
            f"the largest {size(self.largest)}" + f"; code {size(self.code)}" * (self.code > 0)
        )


def memory_of(dense: nn.Module, fast: nn.Module) -> Memory:
    """What a dense model and a converted one take."""
    weights = _bytes(dense), _bytes(fast)
    own = programs_of(fast)
    if own is None:
        return Memory(*weights)
    batch, found = own.shapes[0][0], []
    # The graph may have been traced with fewer images.
    traced = (own.graph.inputs[0].shape or (batch,))[0]
    for item in own.items(fast, batch):
        if isinstance(item, Segment):
            shapes = [_shape_of(value, batch, traced) for value in item.inputs]
            found.append(programs.describe(item.encoded, item.program.constants, shapes))
    if not found:
        return Memory(*weights)
    biggest = max(found, key=lambda each: each.arena)
    arena = sum(each.arena for each in found)
    inside = [value for each in found for value in each.values if value.offset >= 0]
    largest = max((value.bytes for value in inside), default=0)
    code = sum(each.code for each in found)
    return Memory(*weights, arena, largest, biggest.piece, len(found), code)


def _shape_of(value: Value, batch: int, traced: int) -> tuple[int, ...]:
    """The shape of a value of so many images, where it is known for others."""
    shape = value.shape or ()
    if not shape or not value.of_batch or shape[0] % traced:
        return shape
    return shape[0] // traced * batch, *shape[1:]


def _bytes(model: nn.Module) -> int:
    held = (*model.named_parameters(), *model.named_buffers())
    return sum(tensor.nbytes for name, tensor in held if not name.startswith(PREFIX))
