"""Which BatchNorm takes the output of which layer, seen while the model runs."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Followers:
    """Watches a model from now on, until `leave`."""

    def __init__(self, model: nn.Module, layers: Iterable[str]) -> None:
        # The outputs themselves are held: the address of one that is gone may be another's.
        self._outputs: dict[int, tuple[str, Tensor]] = {}
        self._seen: dict[str, set[str]] = {}
        self._sources: dict[str, set[str]] = {}
        self._handles = []
        for name in layers:
            hook = self._made_by(name)
            self._handles.append(model.get_submodule(name).register_forward_hook(hook))
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                self._handles.append(module.register_forward_pre_hook(self._taken_by(name)))

    def leave(self) -> dict[str, str]:
        """Ends the watching.

        Returns:
            Layer → BatchNorm, where each has had to do with the other alone.
        """
        for handle in self._handles:
            handle.remove()
        self._outputs = {}
        return {
            layer: next(iter(norms))
            for layer, norms in self._seen.items()
            if len(norms) == 1 and self._sources[next(iter(norms))] == {layer}
        }

    def _made_by(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._outputs[id(output)] = name, output

        return hook

    def _taken_by(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            layer = self._outputs.get(id(inputs[0]), ("", inputs[0]))[0] if inputs else ""
            self._sources.setdefault(name, set()).add(layer)
            if layer:
                self._seen.setdefault(layer, set()).add(name)

        return hook
