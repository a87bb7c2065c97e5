"""The network that a command is about: said on the command line, or by a run or a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparse_ops.cli import networks
from sparse_ops.cli.asked import overrides_of
from sparse_ops.cli.errors import UserError


@dataclass(frozen=True)
class Network:
    """A network as a command line, a training run or a packed file names it.

    Attributes:
        spec: as `build` takes it.
        options: as `build` takes them.
        shape: of one example, (C, H, W) or whatever it is.
    """

    spec: str
    options: dict[str, Any]
    shape: tuple[int, ...]

    def build(self) -> nn.Module:
        """Raises UserError if there is no such model, or it cannot be built."""
        return networks.build(self.spec, channels=self.shape[0], options=self.options)

    def as_data(self) -> dict[str, Any]:
        return {"model": self.spec, "model_options": self.options, "input": list(self.shape)}


def network_of(
    known: Mapping[str, Any],
    model: str,
    input: str,
    classes: int | None,
    more: Sequence[str],
    where: str,
) -> Network:
    """What is said on the command line, and for the rest what is known.

    Args:
        known: of a training run or a packed file: model, model_options, input.
        model, input: "" for what is known.
        classes: None for what is known.
        more: options of one of our models, KEY=VALUE.
        where: there is nothing known, in words.

    Raises:
        UserError: no model is named, or something that is said is no option or shape.
    """
    spec = model or known.get("model")
    if not isinstance(spec, str):
        raise UserError(f"--model is needed: {where}")
    options: dict[str, Any] = {}
    if spec == known.get("model") and isinstance(known.get("model_options"), dict):
        options = dict(known["model_options"])
    shape = known.get("input") if not input else None
    if not isinstance(shape, list) or not all(isinstance(s, int) and s > 0 for s in shape or [0]):
        shape = list(networks.input_shape(input or "1,28,28"))
    elif model and spec != known.get("model"):
        shape = list(networks.input_shape("1,28,28"))
    if input:
        options.pop("in_channels", None)
    options |= overrides_of(more)
    if classes is not None:
        options["num_classes"] = classes
    if ":" in spec:
        options = {}
    return Network(spec, options, tuple(shape))
