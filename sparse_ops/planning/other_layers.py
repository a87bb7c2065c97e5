"""Other layers: those with weights that nothing packs, each with the reason, for the table."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from sparse_ops.passes.shrink import Cut
from sparse_ops.planning.assemble import LayerPlan

# The layers that lose channels like those that are packed.
FOLLOWED = (nn.Conv3d,)
# Kind -> why nothing packs it; the first that fits.
REASONS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    (FOLLOWED, "dead channels go, other zeros stay: no kernel here packs a {kind}"),
    ((nn.ConvTranspose1d, nn.ConvTranspose3d), "no kernel here packs a {kind}"),
    ((nn.MultiheadAttention,), "no weight of it is zero"),
    ((nn.RNNBase, nn.RNNCellBase), "PyTorch runs a {kind} as one operation"),
    ((nn.Embedding, nn.EmbeddingBag), "its rows are looked up: nothing is multiplied"),
)
UNKNOWN = "it is a {kind}, which is not known here"


def other_rows(
    model: nn.Module,
    known: Collection[str],
    cuts: Mapping[str, Cut],
    reasons: Mapping[str, str] | None = None,
) -> list[LayerPlan]:
    """The rows of the layers that are none of those known, in order of definition.

    Args:
        model: masked and plain.
        known: names of the layers that have rows.
        cuts: what shrinking did.
        reasons: module -> a reason of its own.
    """
    rows = []
    for name, module in model.named_modules():
        weight = _weight(module)
        if name in known or weight is None:
            continue
        kind = type(module).__name__
        reason = next((words for kinds, words in REASONS if isinstance(module, kinds)), UNKNOWN)
        reason = (reasons or {}).get(name, reason.format(kind=kind))
        nnz, cut = int((weight != 0).sum()), cuts.get(name)
        row: dict[str, Any] = {"left": None, "dead_kept": 0, "dead_why": ""}
        if cut is not None:
            left = cut.shape if cut.shape != cut.before else None
            row = {"left": left, "dead_kept": cut.kept, "dead_why": cut.why}
        about = name, kind, tuple(weight.shape), nnz, 0, None, None, None, None
        rows.append(LayerPlan(*about, reason, **row))
    return rows


def _weight(module: nn.Module) -> Tensor | None:
    """The largest of a module's own parameters, if it is a matrix or more."""
    own = [
        parameter
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.dim() > 1 and "weight" in name
    ]
    return max(own, key=lambda parameter: parameter.numel(), default=None)
