"""Training under masks that someone has made."""

from dataclasses import dataclass, field

from torch import nn

from sparse_ops.masks import Masks
from sparse_ops.training.masked import MaskedMethod


@dataclass
class Fixed(MaskedMethod):
    """Fine-tunes under the masks given; weights they do not name are dense and learn too.

    Attributes:
        masks: parameter name → bool tensor of its shape, True = kept; at least one.

    Source: the re-training step of Han et al., NeurIPS 2015, arXiv:1506.02626.
    """

    masks: Masks = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("masks must hold at least one mask, got none")

    def prepare(self, model: nn.Module) -> None:
        """Masks the weights.

        Raises:
            ValueError: a mask is for no weight of the model, or is of another shape, or not bool.
        """
        given = self.masks
        super().prepare(model)
        # Put back even if they do not fit this model: they may fit the next.
        self.masks = given
        self.impose(model, given)
