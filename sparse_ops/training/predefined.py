"""Pre-defined periodic sparsity: the masks are there before the first step."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from sparse_ops.masks import prunable
from sparse_ops.patterns import PSD2_P8, Periodic
from sparse_ops.training.masked import MaskedMethod


@dataclass
class Predefined(MaskedMethod):
    """Trains with `pattern` on every Conv2d of its kernel size; 1×1 ones stay dense.

    Grouped convolutions are masked like others, by the shape of their weight.

    Attributes:
        pattern: see `sparse_ops.patterns.NAMED`.
        exempt: names of layers to leave dense; default: the first convolution of the model.

    Source: Kundu et al., IEEE Transactions on Computers 2020, arXiv:2001.10710. The authors' code
    drops the learning rate one epoch before its milestones and picks its best epoch on the test
    set; here both are up to the caller of `fit`, which does neither.
    """

    pattern: Periodic = PSD2_P8
    exempt: Collection[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, Periodic):
            raise ValueError(f"pattern must be a Periodic, got {self.pattern!r}")
        if isinstance(self.exempt, str):
            raise ValueError(f"exempt must be names of layers, got the one string {self.exempt!r}")
        if self.pattern.kernel_size == (1, 1):
            raise ValueError("pattern must be for kernels larger than 1×1, which stay dense")

    def prepare(self, model: nn.Module) -> None:
        """Masks the weights.

        Raises:
            ValueError: `exempt` names no layer of the model, or nothing is left to be masked.
        """
        super().prepare(model)
        convolutions = {
            name.rpartition(".")[0]: tuple(weight.shape)
            for name, weight in prunable(model).items()
            if weight.dim() == 4
        }
        exempt = list(convolutions)[:1] if self.exempt is None else list(self.exempt)
        known = dict(model.named_modules())
        if unknown := sorted(name for name in exempt if name not in known):
            raise ValueError(f"exempt names layers that the model does not have: {unknown}")
        chosen = {
            name: shape
            for name, shape in convolutions.items()
            if shape[2:] == self.pattern.kernel_size and name not in exempt
        }
        if not chosen:
            kernel = "×".join(map(str, self.pattern.kernel_size))
            raise ValueError(f"the model has no Conv2d of {kernel} to mask, apart from {exempt}")
        self.impose(
            model,
            {
                f"{name}.weight" if name else "weight": self.pattern.mask(shape)
                for name, shape in chosen.items()
            },
        )
