"""Parts: what a network that is one program does, as plain data beside its tensors."""

from dataclasses import dataclass
from typing import Any

import torch

from sparse_ops.ops._program_code import LANES, Program
from sparse_ops.passes.layout import ROOM
from sparse_ops.program.sources import Source


@dataclass(frozen=True, eq=False)
class Part:
    """One program of a network, for batches of some sizes.

    Attributes:
        program: without its constants.
        sources: where these are.
        formulas: what torch.compile has to know of its outputs.
    """

    program: Program
    sources: tuple[Source, ...]
    formulas: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """What a `ProgramModel` does.

    Attributes:
        parts: for batches that fill blocks of images, or all; and, if there is one, for others.
        shapes: of the inputs that it was planned for.
        inputs: which of them the programs read, in their order.
        output: how outputs are packed, see `packing`.
        is_fixed: whether images have to be as large as planned.
        description: what the file says of the model, as text.
    """

    parts: tuple[Part, ...]
    shapes: tuple[tuple[int, ...], ...]
    inputs: tuple[int, ...]
    output: Any
    is_fixed: bool
    description: str

    def part_for(self, batch: Any) -> int:
        """Which part runs so many images."""
        if len(self.parts) == 1 or isinstance(batch, torch.SymInt):
            return 0
        return 0 if -(-batch // LANES) * LANES <= ROOM * batch else 1
