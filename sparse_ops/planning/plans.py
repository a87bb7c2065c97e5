"""Plan: what conversion does to a model, what was measured, and why."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.layers import activation_name
from sparse_ops.nn import SparseLayer
from sparse_ops.passes.shrink import Shrinking
from sparse_ops.planning.assemble import LayerPlan, assemble_
from sparse_ops.planning.attention import projection_shapes, split_copy, split_masks
from sparse_ops.planning.compiled import compile_
from sparse_ops.planning.concat import Concatenation, joined
from sparse_ops.planning.copies import free_cycles, sharing_copy
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.fastest import Forms
from sparse_ops.planning.floors import Floors
from sparse_ops.planning.fold import Folding
from sparse_ops.planning.forms import COMPILED
from sparse_ops.planning.fuse import Fusion, fused
from sparse_ops.planning.layout import CHANNELS_LAST, take_channels_last_
from sparse_ops.planning.masked import masked_copy, undisturbed, watch
from sparse_ops.planning.measure import Comparison
from sparse_ops.planning.memory import Memory
from sparse_ops.planning.pieces import is_inside, with_pieces
from sparse_ops.planning.programmed import with_programs_
from sparse_ops.planning.recorded import is_on_card, record_
from sparse_ops.planning.verify import check_layer
from sparse_ops.planning.verify_model import check_model
from sparse_ops.planning.ways import Way, again, plain_way

# How many images, or rows, of what the example gives a layer it is compared with dense on; the
# whole model is compared on all.
CHECKED = 8


@dataclass(frozen=True, eq=False)
class Plan:
    """What conversion does to a model; `apply` does it.

    Attributes:
        layers: every Conv2d, Conv1d, ConvTranspose2d and Linear, in order of definition.
        whole: the converted model against the masked dense one, each in its fastest form; None if
            nothing changes.
        notes: what else there is to know, in words.
        folding: which BatchNorm and activations are done by the layers before them.
        masks: the masks that the plan was made for.
        example: the example that it was made with, which every packed layer is verified on.
        shrinking: which channels are removed.
        dense_forms, packed_forms: how the two models may run, and what is the fastest way.
        fusions: what packed layers do beside, in a model that becomes a torch.fx.GraphModule.
        concatenations: which outputs they write to where they are concatenated, likewise.
        decisions: how the packed model runs as programs; None: it does not.
        sorts: whether channels are put in another order inside (`sort.py`).
        takes: what `memory` says.
        others: the other layers with weights, which nothing packs, each with the reason.
        pieces: the plans of modules inside of what cannot be traced; their layers are among
            `layers`.
        split: the nn.MultiheadAttention whose projections become layers of their own.
        floors: what the machine can do, where that was measured.
        failed: what planning left out because it computed something else than the model, in words;
            each was a warning, too.
    """

    layers: tuple[LayerPlan, ...]
    whole: Comparison | None
    notes: tuple[str, ...]
    folding: Folding = field(default_factory=Folding, repr=False)
    masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    example: tuple[Any, ...] = field(default=(), repr=False)
    shrinking: Shrinking = field(default_factory=Shrinking, repr=False)
    dense_forms: Forms = field(default_factory=Forms)
    packed_forms: Forms = field(default_factory=Forms)
    fusions: tuple[Fusion, ...] = ()
    concatenations: tuple[Concatenation, ...] = ()
    decisions: Decisions | None = None
    sorts: bool = False
    takes: Memory = field(default_factory=Memory, repr=False)
    others: tuple[LayerPlan, ...] = ()
    pieces: Mapping[str, "Plan"] = field(default_factory=dict, repr=False)
    split: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    floors: Floors | None = field(default=None, repr=False)

    @property
    def packed(self) -> tuple[LayerPlan, ...]:
        """The layers that do not stay dense."""
        return tuple(layer for layer in self.layers if layer.becomes is not None)

    @property
    def _own_packed(self) -> tuple[LayerPlan, ...]:
        """Those that are in no piece."""
        return tuple(layer for layer in self.packed if not is_inside(layer.name, self.pieces))

    @property
    def rows(self) -> tuple[LayerPlan, ...]:
        """All layers with weights: those that may be packed, then the others."""
        return (*self.layers, *self.others)

    def memory(self) -> Memory:
        """The bytes of the dense model and of the converted one."""
        return self.takes

    def apply(self, model: nn.Module) -> nn.Module:
        """The fast model: packed where the plan says so, in the mode (train or eval) of `model`.

        The given model is left alone. Every packed layer is compared with its masked dense one on
        what the example gives it, and then the whole model. Where the plan says that the model is
        fastest under torch.compile it is given compiled (`convert.compile_`), which takes as long
        as it did for the plan. On a GPU its calls replay CUDA graphs (`convert.record_`).

        Raises:
            ValueError: the model has not the layers and shapes that were planned, or the plan folds
                BatchNorm or removes channels and the model is in training mode, or its weights
                need channels that the plan removes.
            Mismatch: a packed layer, or the model, does not compute what the dense one does.
        """
        with undisturbed():
            return self._applied(model)

    def _applied(self, model: nn.Module) -> nn.Module:
        self._check(model)
        masked = masked_copy(model, self.masks)
        if self.whole is None:
            return masked
        modes = {name: module.training for name, module in model.named_modules()}
        masked.eval()
        whole = split_copy(masked, self.split) if self.split else masked
        if self.pieces:
            fast_pieces = {n: p._applied(whole.get_submodule(n)) for n, p in self.pieces.items()}
            whole = with_pieces(whole, fast_pieces)
        way = self._way(whole)
        base, masks = way.model, way.shrinking.masks
        own = self._own_packed
        dense = {layer.name: base.get_submodule(layer.name) for layer in own}
        calls = watch(base, dense, self.example)
        fast = sharing_copy(base)
        for layer in own:
            # One after the other, so that there are never two dense copies of all weights.
            plain = fast.get_submodule(layer.name)
            fast = assemble_(fast, masks, [layer], self.folding)
            packed = fast.get_submodule(layer.name)
            assert isinstance(packed, SparseLayer)
            check_layer(layer.name, plain, packed, calls.pop(layer.name).x[:CHECKED])
        del way, base, dense
        free_cycles(masked)
        if self.fusions:
            fast = fused(fast, list(self.fusions))
        if self.concatenations:
            fast = joined(fast, self.concatenations)
        if self.packed_forms.fastest == CHANNELS_LAST:
            take_channels_last_(fast)
        if self.packed_forms.fastest == COMPILED:
            try:
                compile_(fast, self.example)
            except RuntimeError as error:
                warnings.warn(f"{error}: it is given uncompiled", stacklevel=2)
        if self.decisions is not None:
            with_programs_(fast, self.decisions, self.example, given_out=True)
        check_model(masked, fast, self.example)
        for name, module in fast.named_modules():
            module.training = modes.get(name, model.training)
        if is_on_card(self.example):
            try:
                record_(fast, self.example)
            except RuntimeError as error:
                warnings.warn(f"{error}; its layers are launched one by one", stacklevel=2)
        return fast

    def _way(self, masked: nn.Module) -> Way:
        """The masked model without the channels that the plan removes, sorted, folded."""
        folds = bool(self.folding.batch_norms or self.folding.activations)
        masks = split_masks(self.masks, self.split)
        if not (folds or self.shrinking.changes or self.sorts):
            return plain_way(masked, None, masks, False)
        try:
            graph = capture(masked, self.example, keep_unused=True)
        except Uncaptured as error:
            raise ValueError(f"the plan is for a model that can be traced: {error}") from error
        way = again(masked, graph, masks, self.example, folds, self.shrinking, self.sorts)
        if self.sorts and not way.sorts:
            raise ValueError("the plan sorts channels, which this model's code does not allow")
        return way

    def _check(self, model: nn.Module) -> None:
        if self.shrinking.changes and any(module.training for module in model.modules()):
            raise ValueError(
                "the plan removes channels, which training would need: "
                "call model.eval() first, or plan with shrink=False"
            )
        modules = dict(model.named_modules())
        projections = projection_shapes(model, self.split)
        for layer in self.layers:
            module = modules.get(layer.name)
            if module is None and projections.get(layer.name) == layer.shape:
                continue
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
        fused = (self.folding.activations[p.name] for p in self._own_packed if p.activation)
        return dict(fused)

    def as_data(self) -> dict[str, Any]:
        """Everything that was decided and measured, as plain data; without masks and example."""
        layers = [
            asdict(layer)
            | {
                "sparsity": layer.sparsity,
                "kept_macs": layer.kept_macs,
                "floor_reached": layer.floor_reached,
            }
            for layer in self.rows
        ]
        whole = None if self.whole is None else asdict(self.whole)
        return {
            "layers": layers,
            "whole": whole,
            "dense_forms": asdict(self.dense_forms),
            "packed_forms": asdict(self.packed_forms),
            "fusions": [asdict(fusion) for fusion in self.fusions],
            "concatenations": [asdict(each) for each in self.concatenations],
            "decisions": None if self.decisions is None else self.decisions.as_data(),
            "sorts": self.sorts,
            "split": list(self.split),
            "memory": asdict(self.takes),
            "floors": None if self.floors is None else self.floors.as_data(),
            "notes": list(self.notes),
            "failed": list(self.failed),
        }

    def to_json(self) -> str:
        """`as_data()` as JSON."""
        return json.dumps(self.as_data(), indent=2)

    def __str__(self) -> str:
        from sparse_ops.planning.text import plan_text

        return plan_text(self)
