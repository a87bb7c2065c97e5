"""The way back: a network that is one program, with dense weights, step by step in PyTorch."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sparse_ops.ops import _program_reference
from sparse_ops.ops._program_code import DENSE, KINDS, ROWS, Program
from sparse_ops.program.checks import columns_of, rows_of
from sparse_ops.program.network import ProgramModel
from sparse_ops.program.packing import packed
from sparse_ops.program.parts import Network


class DenseSteps(nn.Module):
    """What a `ProgramModel` computes, with dense weights: one PyTorch function after the other."""

    def __init__(self, network: Network, program: Program) -> None:
        """
        Args:
            program: of the network, with its constants.
        """
        super().__init__()
        self.network, self.program = network, replace(program, constants=())
        self._count = len(program.constants)
        for number, constant in enumerate(program.constants):
            if constant.is_floating_point():
                setattr(self, f"constant_{number}", nn.Parameter(constant.detach().clone()))
            else:
                self.register_buffer(f"constant_{number}", constant.clone())
        self.train(False)

    @property
    def constants(self) -> list[Tensor]:
        """Those of the program."""
        return [getattr(self, f"constant_{number}") for number in range(self._count)]

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        given = (x, *more)
        program = replace(self.program, constants=tuple(self.constants))
        outputs = _program_reference.run(program, [given[i] for i in self.network.inputs])
        return packed(self.network.output, outputs)


def to_dense(model: ProgramModel) -> DenseSteps:
    """A dense model of the same outputs."""
    network = model.network
    given = model.constants(0)
    program = network.parts[0].program
    constants: list[Tensor] = []

    def kept(constant: Tensor | None) -> int:
        if constant is None:
            return -1
        constants.append(constant)
        return len(constants) - 1

    steps = []
    for step in program.steps:
        held = [None if c == -1 else given[c] for c in step.constants]
        if step.kind in ("conv", "linear") and step["form"] == ROWS:
            like = next(constant for constant in given if constant.is_floating_point())
            rows, columns = rows_of(step), columns_of(step)
            weight = _program_reference.rows_to_dense(held, rows, columns, like)
            if step.kind == "conv":
                weight = weight.reshape(rows, -1, step["kernel_h"], step["kernel_w"])
            held = [weight, *held[3:]]
            assert KINDS[step.kind].attributes[0] == "form"
            step = replace(step, attributes=(DENSE, *step.attributes[1:]))
        steps.append(replace(step, constants=tuple(map(kept, held))))
    whole = replace(program, steps=tuple(steps), constants=tuple(constants))
    return DenseSteps(network, whole)
