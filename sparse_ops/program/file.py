"""Files of programs: what a file says of a network that is one program, written and read.

The description, as JSON, has for each program the names of its steps and where its constants are;
which inputs it reads, and how its outputs are packed. Beside the model's state dict, a file has the
programs as int64 tensors and the constants that are not in the state dict. It may come from a
stranger: all of it is checked here.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.ops._program_code import decoded
from sparse_ops.ops.program import formulas
from sparse_ops.program.model import programs_of
from sparse_ops.program.network import NUMBER, ProgramModel
from sparse_ops.program.packing import check_packing, packing_of
from sparse_ops.program.parts import Network, Part
from sparse_ops.program.sources import (
    NORM_TENSORS,
    Extra,
    Held,
    Repeated,
    Source,
    as_data,
    from_data,
    norm_part,
    sources_of,
)
from sparse_ops.program.validate import validate
from sparse_ops.program.watch import PREFIX, code_name, name_of

__all__ = ["described", "kept_by", "read", "validate"]

# More than any network is made of.
MOST_CONSTANTS = 2**17
MOST_REPEATED = 2**24


def described(model: nn.Module) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """What a file says of a converted model that is one program, and the tensors that it adds.

    (None, {}) of a model that is more than that.
    """
    how = programs_of(model)
    segments = None if how is None else how.whole(model)
    if how is None or segments is None or how.sizes_fixed or not how.live.holds(model):
        return None, {}
    graph, first = how.graph, segments[0]
    inputs = [next((i for i, x in enumerate(graph.inputs) if x is v), -1) for v in first.inputs]
    try:
        packing = packing_of(graph.output, first.outputs)
    except ValueError:
        return None, {}
    state = model.state_dict(keep_vars=True)
    # A model in halves has its programs still, which wait for it to be as it was.
    kinds = {c.dtype for segment in segments for c in segment.program.constants}
    if any(name.startswith(PREFIX) for name in state) or kinds - {torch.float32, torch.int32}:
        return None, {}
    extras: list[Tensor] = []
    parts, tensors = [], {}
    for number, segment in enumerate(segments):
        sources = sources_of(segment.program, graph, state.items(), extras)
        steps = [step.name for step in segment.program.steps]
        parts.append({"steps": steps, "constants": [as_data(source) for source in sources]})
        tensors[code_name(number)] = replace(segment.program, number=0).encoded()
    tensors |= {name_of(Extra(number)): extra for number, extra in enumerate(extras)}
    about = {
        "parts": parts,
        "inputs": inputs,
        "output": packing,
        "fixed": how.is_fixed,
        "buffers": [name for name, held in state.items() if not isinstance(held, nn.Parameter)],
        "tied": _tied(state),
    }
    return about, tensors


def kept_by(model: ProgramModel) -> dict[str, Tensor]:
    """What a file of such a model has beside its state dict."""
    tensors = {}
    for name, tensor in model._buffers.items():
        if tensor is not None and name.startswith((f"{PREFIX}_code_", f"{PREFIX}_extra_")):
            tensors[name] = tensor.detach().cpu().clone()
            if name.startswith(f"{PREFIX}_code_"):
                tensors[name][NUMBER] = 0
    return tensors


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> an earlier name of the same parameter."""
    names: dict[int, str] = {}
    first = {
        name: names.setdefault(id(held), name)
        for name, held in state.items()
        if isinstance(held, nn.Parameter) and held.is_floating_point()
    }
    return {name: other for name, other in first.items() if name != other}


def read(
    about: Any,
    shapes: Sequence[tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    description: str,
) -> ProgramModel:
    """The network that a file has.

    Args:
        about: what `described` said of it.
        shapes: of the inputs that it was planned for.
        tensors: all of the file's.
        description: all that the file says, as text.

    Raises:
        ValueError: it is no valid network; says what is wrong.
    """
    keys = {"parts", "inputs", "output", "fixed", "buffers", "tied"}
    if not isinstance(about, dict) or about.keys() != keys or type(about["fixed"]) is not bool:
        raise ValueError(f"a program must be described by {', '.join(sorted(keys))}")
    state = {name: t for name, t in tensors.items() if not name.startswith(PREFIX)}
    extras = _extras(tensors)
    inputs, parts = about["inputs"], about["parts"]
    if not _is_list(inputs, int) or sorted(set(inputs) & set(range(len(shapes)))) != sorted(inputs):
        raise ValueError(f"inputs must be different numbers of {len(shapes)}, got {inputs!r:.80}")
    if not _is_list(parts, dict) or len(parts) not in (1, 2):
        raise ValueError(f"parts must be one or two programs, got {parts!r:.80}")
    given = [shapes[i] for i in inputs]
    known = [
        _part(number, part, state, extras, tensors, given) for number, part in enumerate(parts)
    ]
    if len({len(part.program.outputs) for part in known}) != 1:
        raise ValueError("its programs must have the same number of outputs")
    sources = {source for part in known for source in part.sources}
    if len({name_of(source) for source in sources}) != len(sources):
        raise ValueError("its programs must have one eps for each BatchNorm")
    expected = {code_name(number) for number in range(len(known))}
    expected |= {name_of(Extra(number)) for number in range(len(extras))}
    if unknown := sorted(tensors.keys() - state.keys() - expected):
        raise ValueError(f"there is no use for the tensor {unknown[0]!r:.80}")
    check_packing(about["output"], len(known[0].program.outputs))
    buffers, tied = _names(about["buffers"], state), _checked_ties(about["tied"], state)
    if buffers & (tied.keys() | set(tied.values())):
        raise ValueError("tied tensors must be parameters")
    network = Network(
        tuple(known), tuple(shapes), tuple(inputs), about["output"], about["fixed"], description
    )
    return ProgramModel(network, state, buffers, tied, extras)


def _is_list(data: Any, kind: type) -> bool:
    return isinstance(data, list) and all(type(each) is kind for each in data)


def _extras(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    extras: list[Tensor] = []
    while (name := name_of(Extra(len(extras)))) in tensors:
        if tensors[name].dtype not in (torch.int32, torch.float32):
            raise ValueError(f"{name} must be int32 or float32, got {tensors[name].dtype}")
        extras.append(tensors[name])
    return extras


def _part(
    number: int,
    about: Mapping[str, Any],
    state: Mapping[str, Tensor],
    extras: Sequence[Tensor],
    tensors: Mapping[str, Tensor],
    shapes: Sequence[tuple[int, ...]],
) -> Part:
    steps, listed = about.get("steps"), about.get("constants")
    if about.keys() != {"steps", "constants"} or not _is_list(steps, str):
        raise ValueError("a program must have the names of its steps, and its constants")
    if not isinstance(listed, list) or len(listed) > MOST_CONSTANTS:
        raise ValueError(f"a program's constants must be a list, got {listed!r:.80}")
    if code_name(number) not in tensors:
        raise ValueError(f"tensor {code_name(number)} is missing")
    sources = tuple(from_data(each) for each in listed)
    constants = [_constant(source, state, extras) for source in sources]
    program = decoded(tensors[code_name(number)], constants, steps or ())
    if len(program.steps) != len(steps or ()):
        raise ValueError(f"{len(program.steps)} steps must have names, got {len(steps or ())}")
    if program.inputs != len(shapes):
        raise ValueError(f"a program of {program.inputs} inputs is given {len(shapes)}")
    validate(program, shapes)
    program = replace(program, constants=(), number=secrets.randbits(62))
    return Part(program, sources, formulas(program, [len(shape) for shape in shapes]))


def _constant(source: Source, state: Mapping[str, Tensor], extras: Sequence[Tensor]) -> Tensor:
    if isinstance(source, Extra):
        if source.number >= len(extras):
            raise ValueError(f"constant {source.number} is not there, there are {len(extras)}")
        return extras[source.number]
    if isinstance(source, Held | Repeated):
        if source.name not in state:
            raise ValueError(f"its constant {source.name!r:.80} is missing")
        tensor = state[source.name]
        if isinstance(source, Held):
            return tensor
        if tensor.dim() != 1 or tensor.numel() * source.times > MOST_REPEATED:
            raise ValueError(
                f"{source.name} must be a vector to be repeated {source.times} times, "
                f"got {tuple(tensor.shape)}"
            )
        return tensor.repeat(source.times)
    prefix = f"{source.module}." if source.module else ""
    own = {name: state[prefix + name] for name in NORM_TENSORS if prefix + name in state}
    for name, tensor in own.items():
        size = next(iter(own.values())).shape
        if tensor.dtype != torch.float32 or tensor.dim() != 1 or tensor.shape != size:
            raise ValueError(
                f"{prefix}{name} must be float32 {tuple(size)}, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
    return norm_part(own, source)


def _names(names: Any, state: Mapping[str, Tensor]) -> frozenset[str]:
    if not _is_list(names, str) or not set(names) <= state.keys():
        raise ValueError(f"buffers must be names of tensors, got {names!r:.80}")
    return frozenset(names)


def _checked_ties(tied: Any, state: Mapping[str, Tensor]) -> dict[str, str]:
    good = isinstance(tied, dict) and all(
        type(other) is str and {name, other} <= state.keys() and other not in tied
        for name, other in tied.items()
    )
    if not good:
        raise ValueError(f"tied must be names of tensors by others, got {tied!r:.80}")
    for name, other in tied.items():
        if not state[name].is_floating_point() or not _same(state[name], state[other]):
            raise ValueError(f"{name} must be the same as {other}, with which it is tied")
    return dict(tied)


def _same(one: Tensor, other: Tensor) -> bool:
    alike = one.dtype is other.dtype and one.shape == other.shape
    return alike and bool(((one == other) | (one.isnan() & other.isnan())).all())
