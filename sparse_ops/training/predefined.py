"""Pre-defined sparsity: the masks are there before the first step."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_ops.masks import Masks, prunable
from sparse_ops.patterns import PSD2_P8, Periodic
from sparse_ops.training.masked import MaskedMethod


@dataclass(frozen=True)
class Aperiodic:
    """Random supports, as many taps in each kernel; nothing repeats. `pSCn` in the charts.

    Attributes:
        taps: how many a kernel keeps, at least 1.
        seed: of the supports; they are drawn on the CPU, layer by layer, in the model's order.
        kernel_size: (kH, kW).

    Raises:
        ValueError: a kernel has fewer taps, or none would be kept.
    """

    taps: int
    seed: int = 0
    kernel_size: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        most = self.kernel_size[0] * self.kernel_size[1]
        if not 1 <= self.taps <= most:
            raise ValueError(f"taps must be in [1, {most}], got {self.taps}")

    def masks(self, shapes: Mapping[str, tuple[int, ...]]) -> Masks:
        """A mask for each shape (O, I, kH, kW); the same shapes in the same order, the same masks.

        Raises:
            ValueError: a shape does not end in this kernel size.
        """
        generator = torch.Generator().manual_seed(self.seed)
        return {name: self._mask(shape, generator) for name, shape in shapes.items()}

    def _mask(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if len(shape) != 4 or tuple(shape[2:]) != self.kernel_size:
            raise ValueError(
                f"shape must be (O, I, {self.kernel_size[0]}, {self.kernel_size[1]}), "
                f"got {tuple(shape)}"
            )
        kernels = shape[0] * shape[1]
        lots = torch.rand(kernels, shape[2] * shape[3], dtype=torch.float64, generator=generator)
        chosen = lots.topk(self.taps, dim=1).indices
        return torch.zeros_like(lots, dtype=torch.bool).scatter_(1, chosen, True).reshape(shape)


@dataclass
class Predefined(MaskedMethod):
    """Trains with `pattern` on every Conv2d of its kernel size; 1×1 ones stay dense.

    Grouped convolutions are masked like others, by the shape of their weight.

    Attributes:
        pattern: see `sparse_ops.patterns.NAMED`; or `Aperiodic`.
        exempt: names of layers to leave dense; default: the first convolution of the model.

    Source: Kundu et al., IEEE Transactions on Computers 2020, arXiv:2001.10710. The authors' code
    drops the learning rate one epoch before its milestones and picks its best epoch on the test
    set; here both are up to the caller of `fit`, which does neither. Its random supports come from
    another generator, without a seed.
    """

    pattern: Periodic | Aperiodic = PSD2_P8
    exempt: Collection[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, (Periodic, Aperiodic)):
            raise ValueError(f"pattern must be a Periodic or Aperiodic, got {self.pattern!r}")
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
            f"{name}.weight" if name else "weight": shape
            for name, shape in convolutions.items()
            if shape[2:] == self.pattern.kernel_size and name not in exempt
        }
        if not chosen:
            kernel = "×".join(map(str, self.pattern.kernel_size))
            raise ValueError(f"the model has no Conv2d of {kernel} to mask, apart from {exempt}")
        if isinstance(self.pattern, Aperiodic):
            masks = self.pattern.masks(chosen)
        else:
            masks = {name: self.pattern.mask(shape) for name, shape in chosen.items()}
        self.impose(model, masks)
