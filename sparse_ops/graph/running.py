"""Runs of a model that leave nothing behind, and whether two outputs are the same."""

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparse_ops.graph.inputs import Inputs, calling

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]


# What programs keep in a model: buffers that are not in its state dict.
OF_PROGRAMS = "_program"


@dataclass(frozen=True, eq=False)
class Run:
    """One call of a model.

    Attributes:
        output: what it gave.
        kept: what it has kept of the call: names of attributes and buffers that were others then.
    """

    output: Any
    kept: tuple[str, ...]


def first_run(model: nn.Module, example: Sequence[Any], seed: int = 0) -> Run:
    """A call of a model that it does not remember; of one seed, random numbers are the same."""
    with kept_as_it_is(model) as kept, on_other_buffers(model) as written, seeded(seed):
        output = calling(model, copied_example(example))()
    return Run(output, (*kept, *written))


@contextmanager
def on_other_buffers(model: nn.Module) -> Iterator[list[str]]:
    """Lets a model run on copies of its buffers; gives the names of those that it writes to."""
    own = [(name, module._buffers, dict(module._buffers)) for name, module in model.named_modules()]
    copies: dict[int, Tensor] = {}
    written: list[str] = []
    for _, table, buffers in own:
        for key, buffer in buffers.items():
            if buffer is not None and not key.startswith(OF_PROGRAMS):
                table[key] = copies.setdefault(id(buffer), buffer.detach().clone())
    versions = {id(each): _version(each) for each in copies.values()}
    try:
        yield written
    finally:
        for name, table, buffers in own:
            for key in table.keys() | buffers.keys():
                if key.startswith(OF_PROGRAMS):
                    continue
                now, before = table.get(key), buffers.get(key)
                copy_ = None if before is None else copies[id(before)]
                if now is not copy_ or (now is not None and _version(now) != versions[id(now)]):
                    written.append(f"{name}.{key}" if name else key)
            own_programs = {k: b for k, b in table.items() if k.startswith(OF_PROGRAMS)}
            table.clear()
            table.update(buffers | own_programs)


def _version(tensor: Tensor) -> int:
    """How often it was written to; what was made under inference_mode does not count that."""
    return -1 if tensor.is_inference() else tensor._version


def copied_example(example: Sequence[Any]) -> Any:
    """Arguments that a model may write to."""
    own = tree_map_only(Tensor, lambda x: x.clone(), tuple(example))
    return example.like(own) if isinstance(example, Inputs) else own


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Inside, no gradients, and random numbers that do not come from the caller's generators."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), drawing():
        # torch.manual_seed would note it for every kind of device that there might be.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        random.seed(seed)
        if numpy is not None:
            numpy.random.seed(seed)
        yield


@contextmanager
def drawing() -> Iterator[Callable[[], bool]]:
    """Gives what tells whether random numbers were drawn inside; puts generators back."""
    states = torch.get_rng_state(), random.getstate(), _numpy_state()

    def drawn() -> bool:
        other = random.getstate() != states[1] or _numpy_state() != states[2]
        return other or not torch.equal(torch.get_rng_state(), states[0])

    try:
        yield drawn
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        if numpy is not None:
            numpy.random.set_state(states[2])


def _numpy_state() -> Any:
    if numpy is None:
        return None
    name, keys, *rest = numpy.random.get_state()
    return name, bytes(memoryview(keys)), *rest  # type: ignore[arg-type]


@contextmanager
def kept_as_it_is(model: nn.Module) -> Iterator[list[str]]:
    """Puts back what a forward hangs on modules: stand-ins of torch.fx, say; gives its names."""
    before = [
        (name, module, {key: _held(key, value) for key, value in vars(module).items()})
        for name, module in model.named_modules()
    ]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, module, attributes in before:
            now = vars(module)
            for key in now.keys() | attributes.keys():
                if not _is_same(now.get(key, _NOTHING), attributes.get(key, _NOTHING)):
                    changed.append(f"{name}.{key}" if name else key)
            now.clear()
            now.update(attributes)


def _is_same(one: Any, other: Any) -> bool:
    """Whether an attribute is what it was; lists and tables by what they hold."""
    if type(one) in (list, set) and type(one) is type(other):
        return list(map(id, one)) == list(map(id, other))
    if type(one) is dict and type(other) is dict:
        return {k: id(v) for k, v in one.items()} == {k: id(v) for k, v in other.items()}
    plain = isinstance(one, int | float | str | bool) and type(one) is type(other)
    return one is other or (plain and one == other)


def _held(name: str, value: Any) -> Any:
    """An attribute, copied where a forward may add to it."""
    own = name not in _OF_MODULES and type(value) in (list, dict, set)
    return copy.copy(value) if own else value


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors in what a model returns, whatever it packs them in."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in tensors_in(value)]
    if isinstance(output, Iterable) and not isinstance(output, str | bytes):
        return [t for value in output for t in tensors_in(value)]
    if dataclasses.is_dataclass(output):
        return tensors_in([getattr(output, field.name) for field in dataclasses.fields(output)])
    return []


def same_outputs(given: Any, expected: Any) -> bool:
    """Whether two outputs have equal tensors, but for roundings."""
    ours, theirs = tensors_in(given), tensors_in(expected)
    return len(ours) == len(theirs) and all(map(_close, ours, theirs))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    known = a.isfinite() & b.isfinite()
    if not torch.equal(a.isnan(), b.isnan()) or not bool(known.any()):
        return torch.equal(a.isnan(), b.isnan())
    off = float((a - b)[known].abs().max())
    return off <= math.sqrt(torch.finfo(a.dtype).eps) * float(b[known].abs().max())


# What an attribute is that is not there.
_NOTHING = object()
# The attributes that all modules have.
_OF_MODULES = frozenset(vars(nn.Module()))
