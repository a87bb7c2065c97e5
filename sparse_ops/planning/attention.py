"""Attention: nn.MultiheadAttention with projections that are layers, where its weights have zeros.

PyTorch's own reads its weights instead of calling modules, and nn.TransformerEncoderLayer reads
those of all its layers: nothing in them could be packed. Split, each projection is an nn.Linear
like any other; the dense model that has to be beaten keeps its attention as it is.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from sparse_ops.masks import ATTENTION
from sparse_ops.nn import SplitMultiheadAttention
from sparse_ops.nn.split_attention import PROJECTIONS, split_state
from sparse_ops.nn.split_encoder import SplitTransformerEncoder
from sparse_ops.planning.copies import sharing_copy
from sparse_ops.planning.masked import NESTED, makes_nested, replaced
from sparse_ops.planning.verify_model import check_model


def to_split(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: tuple[Any, ...],
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The attentions of a model that are to be split, and the others that have zeros, with reasons.

    Args:
        model: masked and plain, in eval mode.
        example: what the split model is compared with this one on.
    """
    refused: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and _gains(model, name, masks):
            refused[name] = refuses(model, name) or ""
    good = [name for name, reason in refused.items() if not reason]
    if good and (reason := _differs(model, good, example)) is not None:
        alone = {name: _differs(model, [name], example) for name in good}
        refused |= {name: reason for name, reason in alone.items() if reason is not None}
        good = [name for name, reason in alone.items() if reason is None]
        if good and (reason := _differs(model, good, example)) is not None:
            refused |= dict.fromkeys(good, reason)
            good = []
    return tuple(good), {name: reason for name, reason in refused.items() if reason}


def refuses(model: nn.Module, name: str) -> str | None:
    """Why the attention of that name cannot be split; None if it can."""
    module = model.get_submodule(name)
    if (reason := SplitMultiheadAttention.refuses(module)) is not None:
        return reason
    places = [n for n, m in model.named_modules(remove_duplicate=False) if m is module]
    if len(places) > 1:
        return f"it stands in the model {len(places)} times: as {', '.join(places)}"
    own = [p for p in module._parameters.values() if p is not None]
    for other_name, other in model.named_modules():
        held = [] if other is module else [p for p in other._parameters.values() if p is not None]
        if any(p is q for p in own for q in held):
            return f"it shares a weight or bias with {other_name}"
    encoder = makes_nested(model, name)
    if encoder is not None and type(_at(model, encoder)) is not nn.TransformerEncoder:
        return NESTED.format(encoder=encoder)
    return None


def split_copy(model: nn.Module, names: Collection[str]) -> nn.Module:
    """A copy of a model with these attentions split; it shares the tensors."""
    return split_(sharing_copy(model), names)


def split_(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Splits these attentions of a plain model in place; returns the model.

    Raises:
        ValueError: one of them is not there, or cannot be split.
    """
    known = dict(model.named_modules())
    for name in names:
        module = known.get(name)
        reason = "there is none" if module is None else refuses(model, name)
        if reason is not None or not isinstance(module, nn.MultiheadAttention):
            raise ValueError(f"it splits the attention {name!r}, which cannot be: {reason}")
        encoder = makes_nested(model, name)
        model = replaced(model, name, SplitMultiheadAttention(module))
        if encoder is not None:
            SplitTransformerEncoder.from_dense_(_at(model, encoder))
    return model


def joined_(model: nn.Module) -> nn.Module:
    """The model with nn.MultiheadAttention where attentions were split, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, SplitMultiheadAttention):
            model = replaced(model, name, module.to_dense())
        elif isinstance(module, SplitTransformerEncoder):
            module.to_dense_()
    return model


def split_masks(masks: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The masks of a model whose attentions of these names are split."""
    table = dict(masks)
    for name in names:
        table = split_state(table, f"{name}." if name else "")
    return table


def projection_shapes(model: nn.Module, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Projection -> the shape of its weight, of attentions that are to be split.

    Raises:
        ValueError: one of them is not there.
    """
    known = dict(model.named_modules())
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        module = known.get(name)
        if not isinstance(module, nn.MultiheadAttention):
            raise ValueError(f"the plan is for a model with an nn.MultiheadAttention {name!r}")
        columns = module.embed_dim, module.kdim, module.vdim
        for projection, width in zip(PROJECTIONS, columns, strict=True):
            found[f"{name}.{projection}" if name else projection] = (module.embed_dim, width)
    return found


def _at(model: nn.Module, name: str) -> Any:
    """A module by the name that `makes_nested` gives."""
    return model if name == "the model" else model.get_submodule(name)


def is_of_split(name: str, names: Collection[str]) -> bool:
    """Whether a layer is in one of these attentions, or beside one in its encoder's layer."""
    outer = {name.rpartition(".")[0] for name in names}
    return any(f"{name}.".startswith(f"{each}." if each else "") for each in (*names, *outer))


def _gains(model: nn.Module, name: str, masks: Mapping[str, Tensor]) -> bool:
    """Whether there are masks for an attention, or for layers that run only beside a split one."""
    names = [f"{name}.{key}" if name else key for key in (*ATTENTION, "out_proj.weight")]
    outer = name.rpartition(".")[0]
    if name and isinstance(model.get_submodule(outer), nn.TransformerEncoderLayer):
        names += [f"{outer}.{key}.weight" if outer else f"{key}.weight" for key in _BESIDE]
    return any(each in masks and not bool(masks[each].all()) for each in names)


# The layers of nn.TransformerEncoderLayer that its fast path reads, too.
_BESIDE = ("linear1", "linear2")


def _differs(model: nn.Module, names: Collection[str], example: tuple[Any, ...]) -> str | None:
    """Why the model with these attentions split is not the model; None if it is."""
    try:
        check_model(model, split_copy(model, names), example)
    # The model's own code may read what a split attention does not have, and raise anything then.
    except Exception as error:
        return f"the model is another with its projections apart ({error!s:.200})"
    return None
