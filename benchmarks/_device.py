"""Where `pytest benchmarks` runs: on this CPU, or with --device cuda on a card.

On a card both sides are CUDA graphs, timed between events by turns with L2 emptied before each; the
dense side is cuDNN in benchmark mode. Asked for a card where there is none, all of this runs on the
CPU, on shapes that nothing can be learnt from: a dry run. With TRITON_INTERPRET=1 it races the
Triton kernels, otherwise the operators' definitions in PyTorch.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._gpu_clock import graphed, ratios, rounds_on_host
from benchmarks.dense import conv2d_forms, linear_forms
from benchmarks.layers import Conv, Linear
from kernels.clock import rounds_on_device
from sparse_ops.ops._backend import Backend
from sparse_ops.ops._kernels import INTERPRETED

Call = Callable[[], Tensor]
# name -> type, whether torch may use TF32, and the most that a result may be off, of the largest
# exact one: some units of the rounding of its type, or of its factors.
DTYPES = {
    "fp32": (torch.float32, False, 1e-4),
    "tf32": (torch.float32, True, 2e-3),
    "fp16": (torch.float16, True, 4 * 2.0**-11),
    "bf16": (torch.bfloat16, True, 4 * 2.0**-8),
}
# Backends that run on a card.
ON_CARD = ("wgmma", "cuda", "triton", "dense")
# Runs anywhere: what a dry run races where there is no interpreter of Triton's kernels.
STAND_IN = "reference"


def for_card(backends: Sequence[Backend], names: Sequence[str]) -> list[Backend]:
    """Of an operator's backends those of these names, and what stands in for them."""
    return [each for each in backends if each.name in (*names, STAND_IN)]


@dataclass(frozen=True)
class Place:
    """A device and a type.

    Attributes:
        device: "cpu" or "cuda", as it was asked for.
        precision: a name in `DTYPES`.
        there: whether there is a card.
    """

    device: str
    precision: str
    there: bool

    @classmethod
    def asked(cls, device: str, precision: str | None) -> "Place":
        """That of the command's options; by default float32, and on a card its halves.

        Raises:
            ValueError: this CPU's benchmarks have one type.
        """
        there = torch.cuda.is_available()
        if device == "cpu" and precision not in (None, "fp32"):
            raise ValueError(f"--dtype {precision} is for --device cuda; on the CPU it is fp32")
        if device == "cuda" and precision is None:
            precision = "bf16" if not there or torch.cuda.is_bf16_supported(False) else "fp16"
        return cls(device, precision or "fp32", there)

    @property
    def dry(self) -> bool:
        return self.device == "cuda" and not self.there

    @property
    def backends(self) -> tuple[str, ...]:
        """What is raced on a card, or in place of that."""
        return (*ON_CARD, STAND_IN) if self.dry and not INTERPRETED else ON_CARD

    @property
    def card(self) -> dict[str, object] | None:
        """What a figure of a card depends on; None on the CPU."""
        if self.device == "cpu":
            return None
        if self.dry:
            return {"name": "no card: a dry run"}
        return {
            "name": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "precision": self.precision,
        }

    @property
    def most_off(self) -> float:
        return DTYPES[self.precision][2]

    @property
    def itemsize(self) -> int:
        return DTYPES[self.precision][0].itemsize

    def prepare(self) -> None:
        """Sets torch's switches."""
        if self.device == "cpu":
            return
        tf32 = DTYPES[self.precision][1]
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        if self.dry and INTERPRETED:
            # As it comes, the interpreter neither multiplies bfloat16 nor runs with numpy 2.4.
            import_module("tests.kernels.interpreter").install()

    def put(self, tensor: Tensor) -> Tensor:
        """A tensor on the device, in the type."""
        if self.device == "cpu":
            return tensor
        return tensor.to("cuda" if self.there else "cpu", DTYPES[self.precision][0])

    def small(self, layer: Conv | Linear, batch: int) -> tuple[Conv | Linear, int]:
        """The layer and batch; in a dry run, tiny ones."""
        if not self.dry:
            return layer, batch
        if isinstance(layer, Linear):
            return Linear("dry", min(layer.in_features, 24), min(layer.out_features, 16)), 1
        few = {"channels": min(layer.channels, 16), "filters": min(layer.filters, 16)}
        return layer._replace(network="dry", size=min(layer.size, 3), **few), 1

    def bias(self, count: int, generator: torch.Generator) -> Tensor | None:
        """None on a card: cuDNN would add it in a kernel of its own, and ours in the same."""
        return torch.randn(count, generator=generator) if self.device == "cpu" else None

    def conv_forms(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> dict[str, Call]:
        """form -> a call of the dense convolution."""
        if self.device == "cpu":
            return conv2d_forms(x, weight, bias, stride, padding)
        last = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        return {
            "cudnn nchw": partial(F.conv2d, x, weight, bias, stride, padding),
            "cudnn channels_last": partial(F.conv2d, *last, bias, stride, padding),
        }

    def linear_forms(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> dict[str, Call]:
        """form -> a call of the dense linear layer."""
        if self.device == "cpu":
            return linear_forms(x, weight, bias)
        return {"cublas": partial(F.linear, x, weight, bias)}

    def rounds(self, *calls: Call) -> list[list[float]]:
        """Milliseconds of each call in each round, by turns."""
        if self.dry:
            return rounds_on_host(*calls)
        return rounds_on_device(*(graphed(call) for call in calls))

    def fastest(self, forms: dict[str, Call]) -> str:
        """The form that is fastest of several."""
        if len(forms) == 1:
            return next(iter(forms))
        times = [statistics.median(own) for own in self.rounds(*forms.values())]
        return min(zip(times, forms, strict=True))[1]

    def compared(self, dense: Call, packed: Call) -> dict[str, float]:
        """As `measure.Comparison`, between events on a card."""
        theirs, mine = self.rounds(dense, packed)
        times = {"dense_ms": statistics.median(theirs), "packed_ms": statistics.median(mine)}
        return times | ratios(theirs, mine) | {"pairs": len(mine)}

    def limits(self) -> tuple[float, float]:
        """(multiply-accumulates, bytes) a second of the card, by a product and a copy."""
        n, count = (16, 1 << 10) if self.dry else (8192, 1 << 28)
        a, b = (self.put(torch.randn(n, n)) for _ in range(2))
        x = self.put(torch.randn(count))
        y = torch.empty_like(x)
        product, copy = (
            statistics.median(own)
            for own in self.rounds(lambda: torch.mm(a, b), lambda: y.copy_(x))
        )
        return n**3 / product * 1e3, 2 * x.numel() * x.element_size() / copy * 1e3
