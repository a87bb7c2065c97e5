"""Metadata: what a packed checkpoint says of its model, beside the tensors.

`format`, `version` and, as JSON, what `describe.py` says of the packed layers, of the modules that
were folded away, and of those that channels were removed from; the layout, what is fused in the
graph, how it runs as programs, and the inputs that the model is compiled for.
All of it may come from a stranger.
"""

import json
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparse_ops.graph.layers import NORMS, activation_name, is_norm
from sparse_ops.nn import SparseLayer, SplitMultiheadAttention
from sparse_ops.nn._folded import ACTIVATION, BATCH_NORM
from sparse_ops.ops._activation import is_activation
from sparse_ops.passes.winograd import tiles_of
from sparse_ops.planning import concat, fuse
from sparse_ops.planning.compiled import Input, route_of
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.describe import (
    describe,
    described,
    folded_modules,
    inputs_described,
    shrunk_modules,
)
from sparse_ops.planning.layout import CHANNELS_LAST, is_channels_last
from sparse_ops.planning.masked import MARK
from sparse_ops.program.model import Programs, programs_of

FORMAT, VERSION = "sparse_ops.packed", "2"
OLD_VERSIONS = ("1",)
# More than any model concatenates.
MOST_CHANNELS = 2**20
# More than any batch, number of channels, or side of an image.
LARGEST_SIDE = 2**16
# More than a line of samples.
LONGEST = 2**24


def metadata_of(model: nn.Module, whole: dict[str, Any] | None = None) -> dict[str, str]:
    """What a file says of a converted model.

    Args:
        whole: what `program.file` says of it, if it is one program.

    Raises:
        ValueError: a packed layer of the model is not in `LAYERS`.
    """
    layers = {
        name: describe(module)
        for name, module in model.named_modules()
        if isinstance(module, SparseLayer)
    }
    about: dict[str, Any] = {
        "layers": layers,
        "folded": folded_modules(model),
        "shrunk": shrunk_modules(model),
    }
    split = [n for n, m in model.named_modules() if isinstance(m, SplitMultiheadAttention)]
    if split:
        about["split"] = split
    if is_channels_last(model):
        about["layout"] = CHANNELS_LAST
    if (route := route_of(model)) is not None:
        about["compiled"] = [described(x) for x in route.inputs]
    if fusions := fuse.fusions_of(model):
        about["fused"] = {
            each.layer: {"activation": each.activation, "residual": each.residual}
            for each in fusions
        }
    if concatenations := concat.concatenations_of(model):
        about["concatenated"] = [each.parts for each in concatenations]
    if (programs := programs_of(model)) is not None:
        about["program"] = {
            "shapes": [list(shape) for shape in programs.shapes],
            "decisions": decisions_of(programs).as_data(),
        }
        if whole is not None:
            about["program"]["whole"] = whole
    parts = {n: programs_of(module) for n, module in model.named_modules() if n}
    if any(parts.values()):
        about["pieces"] = {
            name: {
                "shapes": [list(shape) for shape in own.shapes],
                "decisions": decisions_of(own).as_data(),
            }
            for name, own in parts.items()
            if own is not None
        }
    return metadata_again(json.dumps(about))


def metadata_again(description: str) -> dict[str, str]:
    """The metadata of a file that was described so."""
    return {"format": FORMAT, "version": VERSION, "model": description}


@dataclass(frozen=True)
class Description:
    """What a file's metadata says; whether it is all of a given model is checked later.

    Attributes:
        layers: the packed layers, by name.
        folded: the modules that were folded away.
        shrunk: the modules that channels were removed from.
        fusions: what packed layers do beside, in a traced model.
        concatenations: which outputs they write to where they are concatenated, likewise.
        decisions: how the model runs as programs; None: it does not.
        shapes: of the inputs that it was planned for, if it does.
        whole: what `program.file` says of it, if it is one program, not checked yet; else None.
        layout: "channels_last", or None.
        compiled: the inputs that the model was compiled for; none if it was not.
        pieces: modules inside that run as programs: decisions, and shapes of their inputs.
        split: the attentions whose projections are layers of their own.
    """

    layers: dict[str, Any]
    folded: dict[str, Any]
    shrunk: dict[str, Any]
    fusions: list[fuse.Fusion]
    concatenations: list[concat.Concatenation]
    decisions: Decisions | None
    shapes: tuple[tuple[int, ...], ...]
    whole: Any
    layout: str | None
    compiled: list[Input]
    pieces: dict[str, tuple[Decisions, tuple[tuple[int, ...], ...]]]
    split: tuple[str, ...]


def parse(metadata: dict[str, str]) -> Description:
    """What the metadata says.

    Raises:
        ValueError: it is not the metadata of a packed model, or is of a newer version.
    """
    if metadata.get("format") != FORMAT:
        raise ValueError(f"it holds {metadata.get('format', 'plain tensors')!r}, not {FORMAT}")
    if metadata.get("version") in OLD_VERSIONS:
        raise ValueError(
            f"it is of version {metadata['version']!r}, of which this library reads no file any "
            "more: convert the model again, and save that"
        )
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"it is of version {metadata.get('version')!r}; this library reads version {VERSION}"
        )
    try:
        description = json.loads(metadata.get("model", ""))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its description is not JSON: {error}") from error
    parts = []
    for key in ("layers", "folded", "shrunk", "fused"):
        # Files of models in which nothing was shrunk or fused need not say so.
        missing: Any = {} if key in ("shrunk", "fused") else None
        part = description.get(key, missing) if isinstance(description, dict) else None
        if not isinstance(part, dict) or not all(isinstance(v, dict) for v in part.values()):
            raise ValueError(f"its description must have {key!r}, a table by module name")
        parts.append(part)
    for name, meta in parts[0].items():
        # First of all: what a later version can do must not look like damage.
        activation = meta.get("activation")
        if isinstance(activation, str) and not is_activation(activation):
            raise ValueError(
                f"layer {name!r} applies the activation {activation!r:.80}, which this version "
                "does not know: a newer one may have written the file"
            )
    layout = description.get("layout")
    if layout not in (None, CHANNELS_LAST):
        raise ValueError(f"layout must be {CHANNELS_LAST} or not there, got {layout!r:.80}")
    fusions = []
    for name, meta in parts[3].items():
        activation, residual = meta.get("activation"), meta.get("residual")
        if not isinstance(activation, str | None) or type(residual) is not bool:
            raise ValueError(f"what is fused into {name!r} must be a name and true or false")
        fusions.append(fuse.Fusion(name, activation, residual))
    compiled = inputs_described(description.get("compiled", []))
    concatenations = _concatenations(description.get("concatenated", []))
    decisions, shapes = _program(description.get("program"))
    whole = (description.get("program") or {}).get("whole")
    pieces = _pieces(description.get("pieces", {}))
    split = description.get("split", [])
    if not isinstance(split, list) or not all(isinstance(name, str) for name in split):
        raise ValueError(f"split must be a list of names, got {split!r:.80}")
    layers, folded, shrunk, _ = parts
    parsed = layers, folded, shrunk, fusions, concatenations
    return Description(*parsed, decisions, shapes, whole, layout, compiled, pieces, tuple(split))


def _pieces(described: Any) -> dict[str, tuple[Decisions, tuple[tuple[int, ...], ...]]]:
    """What a file says of modules that run as programs by themselves."""
    if not isinstance(described, dict):
        raise ValueError(f"pieces must be a table by module name, got {described!r:.80}")
    found = {}
    for name, own in described.items():
        decisions, shapes = _program(own)
        if decisions is None or not name:
            raise ValueError(f"the piece {name!r} must have a name and decisions")
        found[name] = decisions, shapes
    return found


def _concatenations(described: Any) -> list[concat.Concatenation]:
    """What a file says of concatenations: for each a list of [layer or null, channels]."""
    good = isinstance(described, list) and all(
        isinstance(parts, list)
        and all(
            isinstance(part, list)
            and len(part) == 2
            and isinstance(part[0], str | None)
            and type(part[1]) is int
            and 0 < part[1] < MOST_CHANNELS
            for part in parts
        )
        for parts in described
    )
    if not good:
        raise ValueError(
            "what is concatenated must be lists of a layer's name or null, and its channels, "
            f"got {described!r:.80}"
        )
    return [concat.Concatenation(tuple((n, c) for n, c in parts)) for parts in described]


def decisions_of(programs: Programs) -> Decisions:
    """The decisions that a model's programs were made by; the forms of its layers are theirs."""
    orders = tuple(programs.route.orders.items())
    small, tiles = tuple(programs.small.orders.items()), tiles_of(programs.graph)
    return Decisions((), orders, small, programs.route.piece, tiles)


def _program(described: Any) -> tuple[Decisions | None, tuple[tuple[int, ...], ...]]:
    """What a file says of programs: the decisions, and the shapes of the inputs."""
    if described is None:
        return None, ()
    shapes = described.get("shapes") if isinstance(described, dict) else None
    good = isinstance(shapes, list) and all(
        isinstance(shape, list)
        and len(shape) in (2, 3, 4)
        and all(type(size) is int and 0 < size <= LARGEST_SIDE for size in shape[:-1])
        and type(shape[-1]) is int
        and 0 < shape[-1] <= (LONGEST if len(shape) == 3 else LARGEST_SIDE)
        for shape in shapes
    )
    if not good or not shapes:
        raise ValueError(
            f"a program must have the shapes of its inputs, of 2 to 4 sizes, got {described!r:.80}"
        )
    return Decisions.from_data(described.get("decisions")), tuple(map(tuple, shapes))


def check_folding(model: nn.Module, about: Description) -> None:
    """Raises ValueError unless each folded module may be, and accounts for what its layer does."""
    layers = about.layers
    modules = dict(model.named_modules())
    does: dict[str, set[str]] = {BATCH_NORM: set(), ACTIVATION: set()}
    for name, meta in about.folded.items():
        into, what = meta.get("into"), meta.get("what")
        if name not in modules or not isinstance(into, str) or into not in modules:
            raise ValueError(f"it folds {name!r} into {into!r}, but the model has not both")
        module, layer = modules[name], modules[into]
        if what == BATCH_NORM:
            _check_norm(name, module, layer)
        elif what != ACTIVATION or into not in layers:
            raise ValueError(f"it folds {name!r} into {into!r} as {what!r}, which cannot be")
        elif activation_name(module) != layers[into].get("activation"):
            raise ValueError(
                f"it folds {name!r}, a {type(module).__name__}, into {into!r}, "
                f"which applies {layers[into].get('activation')!r}"
            )
        does[what].add(into)
    in_graph = {fusion.layer: fusion for fusion in about.fusions}
    for name in in_graph:
        if name not in layers or name not in modules or name in does[ACTIVATION]:
            raise ValueError(f"it fuses something into {name!r}, which cannot be")
        if isinstance(modules[name], SparseLayer):
            raise ValueError(f"it fuses something into {name!r}, which the model has packed itself")
        if layers[name].get("activation") != in_graph[name].activation:
            raise ValueError(f"layer {name!r} applies another activation than is fused into it")
    for name, meta in layers.items():
        layer = modules.get(name, model)
        fused = name in in_graph or name in does[ACTIVATION] or isinstance(layer, SparseLayer)
        if meta.get("activation") is not None and not fused:
            raise ValueError(f"layer {name!r} applies an activation that the model does not have")
        biased = getattr(layer, "bias", None) is not None or name in does[BATCH_NORM]
        if bool(meta.get("bias")) != biased:
            raise ValueError(f"layer {name!r} must {'' if biased else 'not '}have a bias")


def _check_norm(name: str, norm: nn.Module, layer: nn.Module) -> None:
    if isinstance(layer, SparseLayer) and layer.ADDS:
        width = layer.shape[0]
    elif type(layer) in (nn.Conv2d, nn.Linear):
        # A BatchNorm that is folded away is as wide as its layer was before it was shrunk.
        width = getattr(layer, MARK, layer.get_parameter("weight").shape)[0]
    else:
        raise ValueError(f"it folds {name!r} into a {type(layer).__name__}, which cannot be")
    known = isinstance(norm, NORMS) and is_norm(norm)
    if not known or norm.num_features != width:
        raise ValueError(f"it folds {name!r}, which is no BatchNorm of {width} channels")
