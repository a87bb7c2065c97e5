"""Sources: where the constants of a program are, or come from, in the model that it is of.

A constant is a tensor of the model's, or that several times over; or what a BatchNorm multiplies
by, or adds, which follows from its tensors; or it is nowhere in the model: indices that follow from
a pattern, a layer without weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.ir import Graph, Node
from sparse_ops.graph.layers import scale_and_shift_of
from sparse_ops.ops._program_code import Program, Step

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
PARTS = ("scale", "shift")


@dataclass(frozen=True)
class Held:
    """A tensor of the model.

    Attributes:
        name: in its state dict, or among its buffers.
    """

    name: str


@dataclass(frozen=True)
class OfNorm:
    """What follows from a BatchNorm's tensors.

    Attributes:
        module: its name.
        part: one of `PARTS`.
        eps: as the BatchNorm has it.
    """

    module: str
    part: str
    eps: float


@dataclass(frozen=True)
class Repeated:
    """A vector of the model several times, one after the other.

    Attributes:
        name: in its state dict.
        times: how often.
    """

    name: str
    times: int


@dataclass(frozen=True)
class Extra:
    """A tensor that the model has not.

    Attributes:
        number: among those.
    """

    number: int


Source = Held | OfNorm | Repeated | Extra
# More phases than any network has.
MOST_TIMES = 2**12


def tensor_named(root: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer of that dotted name, or None."""
    found: Any = root
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, Tensor) else None


def norm_tensors(root: nn.Module, module: str) -> dict[str, Tensor]:
    """A BatchNorm's tensors, by their names in it."""
    prefix = f"{module}." if module else ""
    found = {name: tensor_named(root, prefix + name) for name in NORM_TENSORS}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def found_in(root: nn.Module, source: Source, extras: Sequence[Tensor]) -> Tensor:
    """The constant that a source says.

    Raises:
        ValueError: the model has it not.
    """
    if isinstance(source, Extra):
        return extras[source.number]
    if isinstance(source, Held | Repeated):
        tensor = tensor_named(root, source.name)
        if tensor is None:
            raise ValueError(f"the model has no tensor {source.name!r}")
        return tensor if isinstance(source, Held) else tensor.repeat(source.times)
    return norm_part(norm_tensors(root, source.module), source)


def norm_part(tensors: Mapping[str, Tensor], source: OfNorm) -> Tensor:
    """What a source says of a BatchNorm's tensors.

    Raises:
        ValueError: they are not all there.
    """
    if missing := sorted({"running_mean", "running_var"} - tensors.keys()):
        raise ValueError(f"the BatchNorm {source.module!r:.80} has no {missing[0]}")
    both = scale_and_shift_of(tensors, source.eps)
    return both[PARTS.index(source.part)].to(tensors["running_var"].dtype)


def sources_of(
    program: Program, graph: Graph, tensors: Iterable[tuple[str, Tensor]], extras: list[Tensor]
) -> tuple[Source, ...]:
    """Where the constants of a program are, in order.

    Args:
        graph: that it is made of.
        tensors: the model's, which the graph has; by name.
        extras: those that are not among them; more are appended.
    """
    names: dict[int, str] = {}
    for name, tensor in tensors:
        names.setdefault(id(tensor), name)
    derived: dict[int, Source] = {}
    for step in program.steps:
        if step.kind not in ("affine", "conv"):
            continue
        node = graph.named(step.name)
        if step.kind == "conv":
            derived |= _repeated(step, node)
        elif node.op == "batch_norm" and node.module is not None:
            for number, part in zip(step.constants, PARTS, strict=True):
                derived[number] = OfNorm(node.module, part, float(node.attributes["eps"]))
    found: list[Source] = []
    for number, constant in enumerate(program.constants):
        if number in derived:
            found.append(derived[number])
        elif id(constant) in names:
            found.append(Held(names[id(constant)]))
        else:
            found.append(Extra(_number_of(constant, extras)))
    return tuple(found)


def _repeated(step: Step, node: Node) -> dict[int, Source]:
    """The bias of a transposed convolution's phases."""
    own = node.parameters.get("bias")
    if node.op != "conv_transpose2d" or own is None or node.module is None:
        return {}
    name = f"{node.module}.bias" if node.module else "bias"
    return {step.constants[-1]: Repeated(name, step["out_channels"] // len(own))}


def _number_of(constant: Tensor, extras: list[Tensor]) -> int:
    """Which of the extras this is; it is appended if it is none."""
    for number, known in enumerate(extras):
        same = known.dtype is constant.dtype and known.shape == constant.shape
        if same and bool((known == constant).all()):
            return number
    extras.append(constant.detach())
    return len(extras) - 1


def as_data(source: Source) -> Any:
    """A source as JSON has it: a name, a number, or a table."""
    if isinstance(source, Held):
        return source.name
    if isinstance(source, Extra):
        return source.number
    if isinstance(source, Repeated):
        return {"repeated": source.name, "times": source.times}
    return {"norm": source.module, "part": source.part, "eps": source.eps}


def from_data(data: Any) -> Source:
    """The inverse.

    Raises:
        ValueError: this is no source.
    """
    if type(data) is str:
        return Held(data)
    if type(data) is int and data >= 0:
        return Extra(data)
    if isinstance(data, Mapping) and data.keys() == {"repeated", "times"}:
        name, times = data["repeated"], data["times"]
        if type(name) is str and type(times) is int and 1 <= times <= MOST_TIMES:
            return Repeated(name, times)
    if isinstance(data, Mapping) and data.keys() == {"norm", "part", "eps"}:
        module, part, eps = data["norm"], data["part"], data["eps"]
        if type(module) is str and part in PARTS and type(eps) is float and 0 <= eps < 1e6:
            return OfNorm(module, part, eps)
    raise ValueError(
        "a constant must be a tensor's name, a number, what is made of a BatchNorm, or a tensor "
        f"repeated, got {data!r:.80}"
    )
