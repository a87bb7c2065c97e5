"""Folded: what stands where a module was that another one does now."""

from torch import Tensor, nn

from sparse_ops.nn._node import node_of

BATCH_NORM, ACTIVATION = "batch_norm", "activation"


class Folded(nn.Identity):
    """Stands where a module was that another one does now.

    Attributes:
        into: the name of the layer that does it.
        what: "batch_norm" or "activation".
        act: an activation that was part of the module, and is still done here.
        num_features: the channels of a BatchNorm.
    """

    def __init__(self, into: str, what: str, act: nn.Module | None = None) -> None:
        super().__init__()
        self.into, self.what = into, what
        self.act = act
        self.num_features: int | None = None

    def forward(self, input: Tensor) -> Tensor:
        if (node := node_of(self, input)) is not None:
            return node
        return input if self.act is None else self.act(input)

    def extra_repr(self) -> str:
        return f"{self.what} in {self.into}"
