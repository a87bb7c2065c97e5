"""Plan: what conversion does to a model, what was measured, and why."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from sparse_ops.convert.assemble import LayerPlan, assemble_, packed_layer, weight_name
from sparse_ops.convert.fold import Folding, activation_name, fold_batch_norms_
from sparse_ops.convert.measure import Comparison
from sparse_ops.convert.prepare import copied, masked_copy, watch
from sparse_ops.convert.shrink import Shrinking
from sparse_ops.convert.shrunk import shrunk_copy
from sparse_ops.convert.verify import check_layer, check_model


@dataclass(frozen=True, eq=False)
class Plan:
    """What conversion does to a model; `apply` does it.

    Attributes:
        layers: every Conv2d and Linear, in order of definition.
        whole: the converted model against the masked dense one, the latter in channels_last where
            that is faster; None if nothing changes.
        notes: what else there is to know, in words.
        folding: which BatchNorm and activations are done by the layers before them.
        masks: the masks that the plan was made for.
        example: the example that it was made with, which every packed layer is verified on.
        shrinking: which channels are removed.
    """

    layers: tuple[LayerPlan, ...]
    whole: Comparison | None
    notes: tuple[str, ...]
    folding: Folding = field(default_factory=Folding, repr=False)
    masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    example: tuple[Any, ...] = field(default=(), repr=False)
    shrinking: Shrinking = field(default_factory=Shrinking, repr=False)

    @property
    def packed(self) -> tuple[LayerPlan, ...]:
        """The layers that do not stay dense."""
        return tuple(layer for layer in self.layers if layer.becomes is not None)

    def apply(self, model: nn.Module) -> nn.Module:
        """The fast model: packed where the plan says so, in the mode (train or eval) of `model`.

        The given model is left alone. Every packed layer is compared with its masked dense one on
        what the example gives it, and then the whole model.

        Raises:
            ValueError: the model has not the layers and shapes that were planned, or the plan folds
                BatchNorm or removes channels and the model is in training mode, or its weights
                need channels that the plan removes.
            Mismatch: a packed layer, or the model, does not compute what the dense one does.
        """
        self._check(model)
        masked = masked_copy(model, self.masks)
        if self.whole is None:
            return masked
        modes = {name: module.training for name, module in masked.named_modules()}
        masked.eval()
        base, masks = self._shrunk(masked)
        fold_batch_norms_(base, self.folding)
        dense = {layer.name: base.get_submodule(layer.name) for layer in self.packed}
        calls = watch(base, dense, self.example)
        for layer in self.packed:
            mask = masks[weight_name(layer.name)]
            packed = packed_layer(dense[layer.name], mask, layer)
            check_layer(layer.name, dense[layer.name], packed, calls[layer.name].x)
        fast = assemble_(base, masks, self.layers, self.folding)
        check_model(masked, fast, self.example)
        for name, module in fast.named_modules():
            module.training = modes.get(name, model.training)
        return fast

    def _shrunk(self, masked: nn.Module) -> tuple[nn.Module, Mapping[str, Tensor]]:
        """A copy of the masked model without the channels that the plan removes, and its masks."""
        done = self.shrinking
        if not done.changes:
            return copied(masked), self.masks
        options = {"multiple": done.multiple, "untouched": done.untouched}
        base, again = shrunk_copy(masked, self.example, self.masks, **options)  # type: ignore[arg-type]
        if not again.same_as(done):
            raise ValueError(
                "the plan removes channels that nothing needs in the model that it was made for; "
                "in this one they are others: plan it anew"
            )
        return base, again.masks

    def _check(self, model: nn.Module) -> None:
        if self.shrinking.changes and any(module.training for module in model.modules()):
            raise ValueError(
                "the plan removes channels, which training would need: "
                "call model.eval() first, or plan with shrink=False"
            )
        modules = dict(model.named_modules())
        for layer in self.layers:
            module = modules.get(layer.name)
            if module is None:
                raise ValueError(f"the plan is for a model with a layer {layer.name!r}: not here")
            shape = getattr(getattr(module, "weight", None), "shape", None)
            if shape is None or tuple(shape) != layer.shape:
                got = f"{type(module).__name__} {tuple(shape or ())}"
                raise ValueError(f"{layer.name} must be {layer.kind} {layer.shape}, got {got}")
        for name in (*self.folding.batch_norms.values(), *self._fused()):
            if name not in modules:
                raise ValueError(f"the plan is for a model with a module {name!r}: not here")
        for name, norm in self.folding.batch_norms.items():
            if modules[norm].training and self.packed:
                raise ValueError(
                    f"the plan folds {norm} into {name}, which training would undo: "
                    "call model.eval() first, or plan with fold=False"
                )
        for place, activation in self._fused().items():
            if activation_name(modules[place]) != activation:
                got = type(modules[place]).__name__
                raise ValueError(f"{place} must be the activation {activation}, got {got}")

    def _fused(self) -> dict[str, str]:
        """Activation module -> its name, of those that packed layers apply."""
        fused = (self.folding.activations[p.name] for p in self.packed if p.activation)
        return dict(fused)

    def as_data(self) -> dict[str, Any]:
        """Everything that was decided and measured, as plain data; without masks and example."""
        layers = [
            asdict(layer) | {"sparsity": layer.sparsity, "kept_macs": layer.kept_macs}
            for layer in self.layers
        ]
        whole = None if self.whole is None else asdict(self.whole)
        return {"layers": layers, "whole": whole, "notes": list(self.notes)}

    def to_json(self) -> str:
        """`as_data()` as JSON."""
        return json.dumps(self.as_data(), indent=2)

    def __str__(self) -> str:
        from sparse_ops.convert.text import plan_text

        return plan_text(self.layers, self.whole, self.notes)
