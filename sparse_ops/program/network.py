"""ProgramModel: a network that is one program, without the code that it was written in.

It has the tensors of the model that it was made of under their old names, so that its state dict is
that model's, and runs the program on them. What programs do not do (gradients, other dtypes and
devices, machines without compiled code) is done step by step in PyTorch, slower, on the same
tensors. `torch.compile`, `torch.export` and AOTInductor take it as one call of one operator.

What follows from weights (the encoded program's number, what BatchNorms multiply by) is made anew
by the first call after they have changed, outside of `torch.compile`; until then compiled code has
what it was compiled with. An exported model has the weights of its export.
"""

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.ops import _native, _program_reference
from sparse_ops.ops import program as programs
from sparse_ops.ops._backend import needs_gradient
from sparse_ops.ops._program_code import Program
from sparse_ops.ops._transforms import is_transformed, is_watched
from sparse_ops.program.packing import packed
from sparse_ops.program.parts import Network
from sparse_ops.program.sources import Extra, OfNorm, Repeated, found_in
from sparse_ops.program.watch import (
    Watched,
    code_name,
    hang_,
    keep_,
    name_of,
    tensor_at,
    watched,
)

_COMPILED = _native.compiled_operators("run_program").get("auto")
NUMBER = 2  # where an encoding has the program's number


@dataclass(frozen=True, eq=False)
class _Ready:
    """What the compiled code is given, and the tensors that it was made of."""

    encoded: tuple[Tensor, ...]
    numbers: tuple[int, ...]  # under which each is prepared
    constants: tuple[tuple[Tensor, ...], ...]
    watched: list[Watched]
    runs: bool  # all are where compiled code can read them

    def is_stale(self) -> bool:
        """Whether a tensor is not what it was."""
        return any(each.has_changed() for each in self.watched)


class ProgramModel(nn.Module):
    """A network that is one program; see the module.

    It is always in eval mode: a program has neither dropout nor statistics of batches.
    """

    def __init__(
        self,
        network: Network,
        tensors: Mapping[str, Tensor],
        buffers: frozenset[str],
        tied: Mapping[str, str],
        extras: Sequence[Tensor],
    ) -> None:
        """
        Args:
            tensors: its state dict.
            buffers: which of them are no parameters.
            tied: name -> another name, whose parameter it is.
            extras: constants that are not among them.

        Raises:
            ValueError: a name cannot be that of a tensor in a module.
        """
        super().__init__()
        self._network = network
        self._extras = len(extras)
        self._ready: _Ready | None = None
        self._lock = threading.Lock()
        held: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name in buffers or not tensor.is_floating_point():
                held[name] = tensor
            elif name not in tied:
                held[name] = nn.Parameter(tensor)
        for name in tensors:
            hang_(self, name, held[tied.get(name, name)])
        for number, tensor in enumerate(extras):
            keep_(self, name_of(Extra(number)), tensor)
        for number, part in enumerate(network.parts):
            keep_(self, code_name(number), part.program.encoded())
        self._derive()
        super().train(False)

    @property
    def network(self) -> Network:
        """What it does."""
        return self._network

    def constants(self, number: int) -> list[Tensor]:
        """Those of the part of this number, differentiable in the model's parameters."""
        extras = [tensor_at(self, name_of(Extra(i))) for i in range(self._extras)]
        return [found_in(self, source, extras) for source in self._network.parts[number].sources]

    @property
    def description(self) -> str:
        """What its file says of it, as text."""
        return self._network.description

    def train(self, mode: bool = True) -> "ProgramModel":
        """Raises ValueError for `mode=True`."""
        if mode:
            raise ValueError(
                "a program is always in eval mode: it has neither dropout nor statistics of "
                "batches. Its weights get gradients in this mode; to train on as before, load the "
                "file with model="
            )
        return super().train(False)

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        """What the network gives.

        Raises:
            ValueError: the inputs are not like those that it was planned for.
        """
        network, given = self._network, (x, *more)
        self._check(given)
        inputs = [given[i] for i in network.inputs]
        number = network.part_for(x.shape[0])
        if not self._runs_compiled(given):
            return packed(network.output, self._by_steps(number, inputs))
        if torch.compiler.is_compiling():
            return packed(network.output, self._traced(number, inputs))
        ready = self._prepared()
        if not ready.runs:
            return packed(network.output, self._by_steps(number, inputs))
        inputs = [each if each.dim() == 4 else each.contiguous() for each in inputs]
        outputs = _COMPILED(inputs, ready.encoded[number], ready.constants[number], ())  # type: ignore[misc]
        return packed(network.output, outputs)

    def refuses(self, given: Sequence[Tensor]) -> str | None:
        """Why a call does not run as one compiled program, or None if it does."""
        try:
            self._check(given)
        except ValueError as error:
            return str(error)
        if self._runs_compiled(given) and self._prepared().runs:
            return None
        return (
            "inputs and weights must be float32 on the CPU, the kernels compiled, and autocast off"
        )

    def compiled(self, number: int) -> tuple[Program, Tensor]:
        """The part of this number with the constants that it has now, and encoded."""
        ready = self._prepared()
        program = replace(self._network.parts[number].program, constants=ready.constants[number])
        return program, ready.encoded[number]

    def _check(self, given: Sequence[Tensor]) -> None:
        shapes = self._network.shapes
        if len(given) != len(shapes):
            raise ValueError(f"the network has {len(shapes)} inputs, got {len(given)}")
        for i, (x, shape) in enumerate(zip(given, shapes, strict=True)):
            wanted = shape if self._network.is_fixed or len(shape) == 2 else shape[:2]
            if x.dim() != len(shape) or tuple(x.shape[1 : len(wanted)]) != wanted[1:]:
                sizes = [str(size) for size in wanted[1:]] + ["H", "W"][: len(shape) - len(wanted)]
                raise ValueError(f"input {i} must be (N, {', '.join(sizes)}), got {tuple(x.shape)}")
            if x.shape[0] != given[0].shape[0]:
                raise ValueError(
                    f"inputs must be of one batch, got {given[0].shape[0]} and {x.shape[0]} images"
                )

    def _runs_compiled(self, given: Sequence[Tensor]) -> bool:
        if _COMPILED is None or torch.is_autocast_enabled("cpu") or torch.jit.is_tracing():
            return False
        if is_transformed() or (not torch.compiler.is_compiling() and is_watched()):
            return False
        if any(
            x.dtype is not torch.float32 or x.device.type != "cpu" or x.numel() == 0 for x in given
        ):
            return False
        return not (torch.is_grad_enabled() and needs_gradient(*given, *self.parameters()))

    def _by_steps(self, number: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        constants = self.constants(number)
        floats = next((c for c in constants if c.is_floating_point() and c.numel()), None)
        for x in inputs:
            cast = torch.is_autocast_enabled(x.device.type)
            if floats is not None and (x.device != floats.device or x.dtype != floats.dtype):
                if x.device == floats.device and cast:
                    continue
                raise ValueError(
                    f"inputs must be {floats.dtype} on {floats.device}, as the weights, "
                    f"got {x.dtype} on {x.device}"
                )
        program = replace(self._network.parts[number].program, constants=tuple(constants))
        return _program_reference.run(program, inputs)

    def _traced(self, number: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        part = self._network.parts[number]
        constants = [tensor_at(self, name_of(source)) for source in part.sources]
        encoded = getattr(self, code_name(number))
        return programs.run(inputs, encoded, constants, shapes=part.formulas)

    def _prepared(self) -> _Ready:
        ready = self._ready
        if ready is not None and not ready.is_stale():
            return ready
        with self._lock:
            ready = self._ready
            if ready is not None and not ready.is_stale():
                return ready
            self._ready = self._made_ready()
        if ready is not None:
            _release(ready)
        return self._ready

    def _made_ready(self) -> _Ready:
        now = watched(self.modules())
        self._derive()
        constants = tuple(
            tuple(tensor_at(self, name_of(source)).detach() for source in part.sources)
            for part in self._network.parts
        )
        encoded = []
        numbers = tuple(secrets.randbits(62) for _ in constants)
        for part, number in enumerate(numbers):
            code = tensor_at(self, code_name(part)).clone()
            code[NUMBER] = number
            keep_(self, code_name(part), code)
            encoded.append(code)
        every = [c for each in constants for c in each]
        runs = {(c.device.type, c.dtype) for c in every} <= {
            ("cpu", torch.float32),
            ("cpu", torch.int32),
        }
        # Subclasses of tensors may do something else in each operation.
        runs = runs and {type(c) for c in every} <= {Tensor, nn.Parameter}
        return _Ready(tuple(encoded), numbers, constants, now, runs)

    def _derive(self) -> None:
        """Keeps what follows from the model's tensors as they are now."""
        with torch.no_grad():
            for part in self._network.parts:
                for source in part.sources:
                    if isinstance(source, OfNorm | Repeated):
                        keep_(self, name_of(source), found_in(self, source, ()).detach())

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"} | {
            "_ready": None
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()

    def __del__(self) -> None:
        ready = self.__dict__.get("_ready")
        if ready is not None:
            _release(ready)

    def extra_repr(self) -> str:
        steps = len(self._network.parts[0].program.steps)
        return f"{steps} steps, inputs {', '.join(map(str, self._network.shapes))}"


def _release(ready: _Ready) -> None:
    for number in ready.numbers:
        programs.release(number)
