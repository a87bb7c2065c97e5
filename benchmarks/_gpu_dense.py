"""The dense side of gpu_run.py: what the card can do, and what cuDNN makes of it."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._gpu_setting import (
    DEVICE,
    DRY,
    LINES,
    PRECISIONS,
    conv_problems,
    in_time,
    milliseconds,
    use,
)


def ceilings() -> Iterator[dict]:
    """A copy, and a dense product."""
    size, words = (16, 2**10) if DRY else (8192, 2**28)
    a = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    b, big = torch.randn_like(a), torch.randn(words, device=DEVICE)
    to = torch.empty_like(big)
    product, copy = milliseconds(lambda: a @ b, lambda: to.copy_(big))
    yield {"what": "bf16 product", "teraflops": 2 * size**3 / product / 1e9}
    yield {"what": "copy", "terabytes_per_second": 2 * words * 4 / copy / 1e9}


def dense() -> Iterator[dict]:
    """cuDNN on every layer, eager, in both layouts; and cuBLAS on the linear ones."""
    for what, layer, x, weight in conv_problems():
        plain, wplain = x.contiguous(), weight.contiguous()
        with torch.inference_mode():
            nchw, nhwc = milliseconds(
                partial(F.conv2d, plain, wplain, None, layer.stride, 1),
                partial(F.conv2d, x, weight, None, layer.stride, 1),
            )
        yield what | {"nchw_ms": nchw, "channels_last_ms": nhwc}
    for precision in PRECISIONS:
        dtype = use(precision)
        for line in LINES:
            for batch in (1, 16, 128, 1024):
                if not in_time():
                    return
                x = torch.randn(batch, line.in_features, device=DEVICE, dtype=dtype)
                weight = torch.randn(
                    line.out_features, line.in_features, device=DEVICE, dtype=dtype
                )
                with torch.inference_mode():
                    (found,) = milliseconds(partial(F.linear, x, weight))
                what = {"network": line.network, "layer": line.label, "precision": precision}
                yield what | {"batch": batch, "linear_ms": found}


def compiled() -> Iterator[dict]:
    """The dense layers again, as torch.compile in mode max-autotune has them.

    It compiles for seconds a layer: what is not done when the time is up is missing, and a second
    run takes up from the first one's cache.
    """
    for what, layer, x, weight in conv_problems():
        stride = layer.stride

        def plain(x: Tensor, weight: Tensor, stride: int = stride) -> Tensor:
            return F.conv2d(x, weight, None, stride, 1)

        torch._dynamo.reset()
        # A dry run shows that this can be called; compiling for a CPU would show nothing more.
        # No graphs: those would copy x at each call.
        how = {"backend": "eager"} if DRY else {"mode": "max-autotune-no-cudagraphs"}
        tuned = torch.compile(plain, dynamic=False, **how)
        try:
            with torch.inference_mode():
                (found,) = milliseconds(partial(tuned, x, weight))
        except Exception as error:
            # One layer that inductor cannot do is no reason to lose the others.
            yield what | {"failed": f"{type(error).__name__}: {error}"[:300]}
            continue
        yield what | {"max_autotune_ms": found}
