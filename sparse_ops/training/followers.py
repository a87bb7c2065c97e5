"""Which BatchNorm takes the output of which layer, seen while the model runs."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparse_ops.training.evaluation import BatchSource, device_of, eval_mode


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


@torch.no_grad()
def norms_behind(
    model: nn.Module, layers: list[str], batches: BatchSource | None
) -> dict[str, str]:
    """Layer → BatchNorm, for every one of `layers`; runs the model once, in eval mode.

    Args:
        batches: the first of them is what the model is run on; their order stays as it would be.

    Raises:
        RuntimeError: there are no batches.
        ValueError: a layer has no BatchNorm with scale and shift of its own behind it.
    """
    if batches is None:
        raise RuntimeError("gate bn has to be shown the training data: call see_data first")
    order = getattr(batches, "generator", None)
    state = order.get_state() if isinstance(order, torch.Generator) else None
    watching = Followers(model, layers)
    try:
        with eval_mode(model):
            for x, _ in batches:
                model(x.to(device_of(model)))
                break
    finally:
        found = watching.leave()
        if isinstance(order, torch.Generator) and state is not None:
            order.set_state(state)
    bare = [
        name
        for name in layers
        if name not in found or getattr(model.get_submodule(found[name]), "weight", None) is None
    ]
    if bare:
        raise ValueError(
            f"gate bn needs a BatchNorm with a scale behind each layer, and of no other; "
            f"there is none behind {', '.join(bare)}: name them in exempt, or take gate weight"
        )
    return {name: found[name] for name in layers}
