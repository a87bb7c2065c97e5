"""Folding: BatchNorm into the layer before it, and the activation after it into a packed layer.

In eval mode a BatchNorm is y = (x - mean) * scale + shift per channel, which the weight and bias of
the layer before it can do as well. Modules that fall away become `Folded`, so that the model keeps
its own class and its own forward. torch.fx tells which modules follow which; a model that it cannot
trace is left as it is.
"""

from dataclasses import dataclass, field

from torch import nn

from sparse_ops.nn._folded import BATCH_NORM, Folded


@dataclass(frozen=True)
class Folding:
    """What may be folded in a model.

    Attributes:
        batch_norms: layer -> the BatchNorm after it.
        activations: layer -> (the activation module after it, the activation's name).
    """

    batch_norms: dict[str, str] = field(default_factory=dict)
    activations: dict[str, tuple[str, str]] = field(default_factory=dict)


def gelu_name(approximate: object) -> str | None:
    """What the sparse layers call GELU with this argument of torch's."""
    return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(approximate))


def without_norm(norm: nn.Module, into: str) -> Folded:
    """What is left of a BatchNorm that the layer `into` does."""
    act = dict(norm.named_children()).get("act")
    folded = Folded(into, BATCH_NORM, None if isinstance(act, nn.Identity) else act)
    # The model's code may ask for it.
    folded.num_features = getattr(norm, "num_features", None)
    return folded
