"""Watching: whether tensors of modules are what they were; and what programs keep in models."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparse_ops.graph.running import OF_PROGRAMS
from sparse_ops.program.sources import Extra, Held, Repeated, Source

PREFIX = OF_PROGRAMS


class Watched(NamedTuple):
    """A tensor of a model, where it hangs, and how often it had been changed by then."""

    table: Mapping[str, Tensor | None]
    name: str
    tensor: Tensor
    version: int

    def has_changed(self) -> bool:
        """Whether it was exchanged, or written to; changes through `.data` are not seen here."""
        return self.table.get(self.name) is not self.tensor or self.tensor._version != self.version


def watched(modules: Iterable[nn.Module]) -> list[Watched]:
    """The tensors that these modules have now."""
    found = []
    for module in modules:
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None or name.startswith(PREFIX) or tensor.is_inference():
                    continue
                found.append(Watched(table, name, tensor, tensor._version))
    return found


def keep_(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a tensor among a model's buffers, outside of its state dict."""
    root._buffers[name] = tensor
    root._non_persistent_buffers_set.add(name)


def drop_kept_(root: nn.Module) -> None:
    """Takes out what programs keep there."""
    for name in [name for name in root._buffers if name.startswith(PREFIX)]:
        del root._buffers[name]
        root._non_persistent_buffers_set.discard(name)


def code_name(number: int) -> str:
    """What an encoded program is called among the buffers."""
    return f"{PREFIX}_code_{number}"


def name_of(source: Source) -> str:
    """What a constant is called in its model."""
    if isinstance(source, Held):
        return source.name
    if isinstance(source, Extra):
        return f"{PREFIX}_extra_{source.number}"
    if isinstance(source, Repeated):
        return f"{PREFIX}_times{source.times}_{_in_one_word(source.name)}"
    return f"{PREFIX}_{source.part}_{_in_one_word(source.module)}"


def _in_one_word(name: str) -> str:
    """A dotted name without dots; two never come to the same."""
    return name.replace("_", "_u").replace(".", "_d")


def tensor_at(root: nn.Module, name: str) -> Tensor:
    """The tensor of that dotted name, which is there."""
    found: Any = root
    for part in name.split("."):
        found = getattr(found, part)
    assert isinstance(found, Tensor)
    return found


def hang_(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Hangs a tensor into a tree of modules that have nothing else."""
    *path, last = name.split(".")
    owner = root
    for part in path:
        inner = owner._modules.get(part)
        if inner is None:
            _check_name(owner, name, part)
            inner = owner._modules[part] = nn.Module()
        owner = inner
    _check_name(owner, name, last)
    if isinstance(tensor, nn.Parameter):
        owner._parameters[last] = tensor
    else:
        owner._buffers[last] = tensor


def _check_name(owner: nn.Module, name: str, part: str) -> None:
    if not part or part.startswith(PREFIX) or hasattr(owner, part):
        raise ValueError(f"no tensor of a model can have the name {name!r:.80}")
