"""Live: whether the modules of a model are as they were when its graph was made, tensors apart."""

import operator
from collections.abc import Mapping
from typing import Any

from torch import nn

from sparse_ops.graph.reads import ABSENT, Reads, essence, is_plain


def hooks_of(module: nn.Module) -> tuple[Mapping[int, Any], Mapping[int, Any]]:
    """The hooks that run without gradients."""
    return module._forward_hooks, module._forward_pre_hooks


class Live:
    """What a graph takes for granted of the modules of its model.

    Attributes:
        reads: what the forward asked them for.
        kinds: name -> class, of all modules.
        hooks: name -> how many hooks a module has, of those that have any.
        held: what `holds` said last.
        counted: the hooks of all modules inside, and how many there were.
    """

    def __init__(
        self,
        reads: Reads,
        kinds: Mapping[str, type[nn.Module]],
        hooks: Mapping[str, tuple[int, int]],
    ) -> None:
        self.reads, self.kinds, self.hooks = reads, kinds, hooks
        self.held = True
        self.counted: list[tuple[Mapping[int, Any], int]] = []
        self._bound = False

    def __reduce__(self) -> Any:
        return Live, (self.reads, self.kinds, self.hooks)

    @classmethod
    def of(cls, model: nn.Module, reads: Reads) -> "Live":
        """A model as it is, of which a forward asked for so much."""
        modules = dict(model.named_modules())
        kinds = {name: type(module) for name, module in modules.items()}
        counts: dict[str, tuple[int, int]] = {}
        for name, module in modules.items():
            after, before = hooks_of(module)
            if after or before:
                counts[name] = len(after), len(before)
        return cls(reads, kinds, counts)

    def holds(self, model: nn.Module) -> bool:
        """Whether all of it is still so."""
        self.held = self._holds(model)
        return self.held

    def _holds(self, model: nn.Module) -> bool:
        # In each call of the model, so it has to be quick.
        if not self._bound:
            self.bind(model)
        if [*map(type, self._modules)] != self._types:
            return False
        try:
            if self._tables != self._children:
                return False
            for table, values_of, planned in self._plain:
                if values_of(table) != planned:
                    return False
            for table, name, known in self._others:
                if essence(table[name]) != known:
                    return False
        # An attribute is gone, or is now what cannot be compared.
        except Exception:
            return False
        for kind, name, value in self._classes:
            if getattr(kind, name, ABSENT) is not value:
                return False
        return [*map(len, self._held)] == self._sizes or self._is_nothing_hidden()

    def bind(self, model: nn.Module) -> None:
        """Finds the modules once, of a model that may be a copy of the one that was planned."""
        if self._bound:
            return
        modules = dict(model.named_modules())
        self.counted = [
            (hooks, count)
            for name, module in modules.items()
            if name
            for hooks, count in zip(hooks_of(module), self.hooks.get(name, (0, 0)), strict=True)
        ]
        self._modules = [*modules.values()]
        # None, which no list equals, where there are others.
        alike = [*modules] == [*self.kinds]
        self._types = [*self.kinds.values()] if alike else None
        self._tables = [module._modules for module in modules.values()]
        self._children = [dict(table) for table in self._tables]
        self._plain: list[tuple[Mapping[str, Any], Any, Any]] = []
        self._others: list[tuple[Mapping[str, Any], str, Any]] = []
        self._held: list[Mapping[str, Any]] = []
        self._hiding: list[frozenset[str]] = []
        classes: dict[tuple[type[nn.Module], str], Any] = {}
        for name, attributes in self.reads.items():
            module = modules.get(name)
            if module is None:
                continue
            table = vars(module)
            plain = {key: known for key, known in attributes.items() if is_plain(known)}
            if plain:
                values_of = operator.itemgetter(*plain)
                self._plain.append((table, values_of, values_of(plain)))
            absent = [key for key, known in attributes.items() if known is ABSENT]
            absent = [key for key in absent if module is not model or key != "forward"]
            for key, known in attributes.items():
                if known is not ABSENT and key not in plain:
                    self._others.append((table, key, known))
            for key in absent:
                own = getattr(type(module), key, ABSENT)
                # Of a class method, say, each look makes a new object.
                if getattr(type(module), key, ABSENT) is own:
                    classes[type(module), key] = own
            self._held.append(table)
            self._hiding.append(frozenset(absent))
        classes[type(model), "forward"] = type(model).forward
        self._classes = [(kind, name, value) for (kind, name), value in classes.items()]
        self._sizes = [-1] * len(self._held)
        self._bound = True

    def _is_nothing_hidden(self) -> bool:
        """Whether no module has got an attribute itself that its class had before."""
        if any(
            not own.isdisjoint(held) for held, own in zip(self._held, self._hiding, strict=True)
        ):
            return False
        self._sizes = [*map(len, self._held)]
        return True
