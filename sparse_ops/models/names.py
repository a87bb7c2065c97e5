"""Other people's names for the parameters of our networks.

A state dict of one of these networks, as its authors or others have written it, is brought to our
names: if all are named alike, or as authors are known to name them; else layer by layer, in the
order of the file, if all sizes agree. Which of these it was, a `Match` says.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

# What wrappers put before every name.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
# BatchNorm's count of batches, which files from before there was one lack.
COUNT = "num_batches_tracked"
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
        renamed: their name → ours, of layers that were named otherwise.
        how: in words.
    """

    state: dict[str, Tensor]
    renamed: dict[str, str]
    how: str


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
        ValueError: it is of another network; the message says where they part.
    """
    state = _unwrapped(state, model.state_dict())
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if _fits(state, own):
        return Match(dict(state), {}, "by name")
    for known in GSM.values():
        theirs = {their: ours for ours, their in known.items()}
        renamed = {name: _renamed(name, theirs) for name in state}
        if _fits({renamed[name]: value for name, value in state.items()}, own):
            layers = {_layer(n): _layer(r) for n, r in renamed.items() if n != r}
            return Match({renamed[n]: v for n, v in state.items()}, layers, "by GSM's names")
    pairs, how = _by_order(_layers(own), _layers(_shapes(_sorted(state))))
    theirs = {
        name: f"{pairs[_layer(name)]}.{name.rpartition('.')[2]}".removeprefix(".") for name in own
    }
    found = {name: state[their] for name, their in theirs.items() if their in state}
    return Match(found, {t: o for o, t in pairs.items() if o != t}, how)


def _unwrapped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(state)
    while found and not set(found) & set(own):
        prefix = next((w for w in WRAPPERS if all(n.startswith(w) for n in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


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
