"""Other people's names for the parameters of our networks.

A state dict of one of these networks, as its authors or others have written it, is brought to our
names: if all are named alike, maybe behind the name of what the network was a part of; or as
authors are known to name them; else layer by layer, in the order of the file, if all sizes agree.
Which of these it was, a `Match` says.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

# BatchNorm's count of batches, which files from before there was one lack.
COUNT = "num_batches_tracked"
# What is no part of a network: profilers and averaging leave it.
BESIDE = ("total_ops", "total_params", "n_averaged")
# Ours → GSM's, layer by layer; ResNet-56 has their names.
GSM = {
    "lenet300": {"fc1": "linear1", "fc2": "linear2", "fc3": "linear3"},
    "lenet5": {
        "conv1": "stem.conv1",
        "conv2": "stem.conv2",
        "fc1": "linear1",
        "fc2": "linear2",
    },
}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Match:
    """How a state dict has come to the names of a model.

    Attributes:
        state: under the model's names.
        sources: our name → theirs, of what is in `state`.
        renamed: their name → ours, of layers that were named otherwise.
        how: in words.
        left: entries of what the network was a part of.
    """

    state: dict[str, Tensor]
    sources: dict[str, str]
    renamed: dict[str, str]
    how: str
    left: tuple[str, ...] = ()


class Several(ValueError):
    """A state dict has a model's names behind more than one prefix: `prefixes`."""

    def __init__(self, prefixes: list[str]) -> None:
        super().__init__(f"it has this model behind {', '.join(prefixes)}: which one is wanted?")
        self.prefixes = prefixes


def gsm_state(network: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of one of our networks under the names of GSM's authors, where they have some."""
    known = GSM.get(network, {})
    found = {}
    for name, value in state.items():
        layer, _, last = name.rpartition(".")
        found[f"{known.get(layer, layer)}.{last}" if layer else last] = value
    return found


def matched(model: nn.Module, state: Mapping[str, Tensor]) -> Match:
    """Brings `state` to the names of `model`.

    Raises:
        Several: it has the model more than once.
        ValueError: it is of another network, or not of numbers with a fraction where the model's
            are; the message says where they part.
    """
    match = _matched(model, state)
    for name, value in model.state_dict().items():
        given = match.state.get(name, value)
        if value.is_floating_point() and not given.is_floating_point() and value.dim() > 0:
            raise ValueError(f"{match.sources[name]} is {given.dtype}, {value.dtype} was wanted")
    return match


def _matched(model: nn.Module, state: Mapping[str, Tensor]) -> Match:
    own = _shapes(model.state_dict())
    state = {n: v for n, v in state.items() if n in own or n.rpartition(".")[2] not in BESIDE}
    prefixes = _prefixes(_shapes(state), own)
    if len(prefixes) > 1:
        raise Several(prefixes)
    if prefixes:
        return _behind(prefixes[0], state, own)
    for known in GSM.values():
        theirs = {their: ours for ours, their in known.items()}
        renamed = {name: _renamed(name, theirs) for name in state}
        if _fits({renamed[name]: value for name, value in state.items()}, own):
            layers = {_layer(n): _layer(r) for n, r in renamed.items() if n != r}
            sources = {ours: their for their, ours in renamed.items()}
            return _match(state, sources, layers, "by GSM's names")
    pairs, how = _by_order(_layers(own), _layers(_shapes(_sorted(state))))
    sources = {
        name: f"{pairs[_layer(name)]}.{name.rpartition('.')[2]}".removeprefix(".") for name in own
    }
    return _match(state, sources, {t: o for o, t in pairs.items() if o != t}, how)


def _match(
    state: Mapping[str, Tensor],
    sources: Mapping[str, str],
    renamed: dict[str, str],
    how: str,
    left: tuple[str, ...] = (),
) -> Match:
    there = {ours: theirs for ours, theirs in sources.items() if theirs in state}
    found = {ours: state[theirs] for ours, theirs in there.items()}
    return Match(found, there, renamed, how, left)


def _prefixes(shapes: Shapes, own: Shapes) -> list[str]:
    """What stands before the model's names where all of them are there, in their shapes."""
    wanted = {name: shape for name, shape in own.items() if not name.endswith(COUNT)}
    first = next(iter(wanted), None)
    if first is None:
        return []
    starts = [n.removesuffix(first) for n in shapes if n == first or n.endswith(f".{first}")]
    found = [p for p in starts if all(shapes.get(p + n) == s for n, s in wanted.items())]
    # Names as they stand come first: what is behind a prefix is then a part of something larger.
    return [""] if "" in found else found


def _behind(prefix: str, state: Mapping[str, Tensor], own: Shapes) -> Match:
    """Raises ValueError if there is more behind the prefix: it is of a larger network."""
    inner = [name for name in state if name.startswith(prefix)]
    more = [n for n in inner if n.removeprefix(prefix) not in own and not n.endswith(COUNT)]
    if more:
        raise ValueError(
            f"the model has no place for {', '.join(more[:3])} "
            f"({len(more)} of {len(inner)} entries)"
        )
    left = tuple(name for name in state if not name.startswith(prefix))
    return _match(state, {name: prefix + name for name in own}, {}, "by name", left)


def _fits(state: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]]) -> bool:
    shapes = _shapes(state)
    missing = {name for name in own if name not in shapes and not name.endswith(COUNT)}
    return not missing and all(own.get(name) == shape for name, shape in shapes.items())


def _sorted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state in its own order; of a file that has none but the alphabet's, in that of numbers.

    HDF5 files give their entries by name: there conv10 comes before conv2.
    """
    names = list(state)
    if names != sorted(names):
        return dict(state)
    return {name: state[name] for name in sorted(names, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in state.items()}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _renamed(name: str, layers: Mapping[str, str]) -> str:
    layer, _, last = name.rpartition(".")
    return f"{layers[layer]}.{last}" if layer in layers else name


def _layers(shapes: Shapes) -> dict[str, Shapes]:
    """Layer → its entries and their shapes, in the order of the first of each."""
    found: dict[str, Shapes] = {}
    for name, shape in shapes.items():
        layer, _, last = name.rpartition(".")
        if last != COUNT:
            found.setdefault(layer, {})[last] = shape
    return found


def _by_order(own: dict[str, Shapes], theirs: dict[str, Shapes]) -> tuple[dict[str, str], str]:
    """Ours → theirs: in one order; or each convolution with its BatchNorm, where these differ."""
    if list(own.values()) == list(theirs.values()):
        return dict(zip(own, theirs, strict=True)), "by order and shape"
    units, others = _units(own), _units(theirs)
    pairs: dict[str, str] = {}
    left = [(names, key) for names, key in others]
    for names, key in units:
        found = next((i for i, (_, other) in enumerate(left) if other == key), None)
        if found is None:
            raise ValueError(_difference(own, theirs, names[0]))
        pairs |= dict(zip(names, left.pop(found)[0], strict=True))
    if left:
        raise ValueError(_difference(own, theirs, None))
    return pairs, "by shape, in the order of layers of one shape"


def _units(layers: dict[str, Shapes]) -> list[tuple[list[str], list[Shapes]]]:
    """Each layer with the normalization behind it: they belong together."""
    found: list[tuple[list[str], list[Shapes]]] = []
    for name, shapes in layers.items():
        if "running_mean" in shapes and found:
            found[-1][0].append(name)
            found[-1][1].append(shapes)
        else:
            found.append(([name], [shapes]))
    return found


def _difference(own: dict[str, Shapes], theirs: dict[str, Shapes], name: str | None) -> str:
    if name is None:
        return f"the model has {len(own)} layers with parameters, the state {len(theirs)}"
    used: Iterable[str] = list(theirs)[:3]
    return (
        f"the state has no layer for {name} of {own[name].get('weight', '?')}; "
        f"its layers begin {', '.join(f'{n} {theirs[n]}' for n in used)}"
    )
