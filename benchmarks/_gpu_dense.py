"""The dense side of gpu_run.py: what the card can do, and what cuDNN makes of it."""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._gpu_setting import (
    BATCHES,
    CONVS,
    DEVICE,
    DRY,
    HALF,
    PRECISIONS,
    conv_problem,
    in_time,
    last,
    milliseconds,
    use,
)


def ceilings() -> Iterator[dict]:
    """A copy, and a dense product."""
    size, words = (16, 2**10) if DRY else (8192, 2**28)
    a = torch.randn(size, size, device=DEVICE, dtype=use(HALF))
    b, big = torch.randn_like(a), torch.randn(words, device=DEVICE)
    to = torch.empty_like(big)
    product, copy = milliseconds(lambda: a @ b, lambda: to.copy_(big))
    yield {"what": f"{HALF} product", "teraflops": 2 * size**3 / product / 1e9}
    yield {"what": "copy", "terabytes_per_second": 2 * words * 4 / copy / 1e9}


def compiled() -> Iterator[dict]:
    """The dense layers again, as torch.compile in mode max-autotune has them.

    It compiles for seconds a layer: what is not done when the time is up is missing, and a second
    run takes up from the first one's cache.
    """
    for precision, batch, layer in itertools.product(PRECISIONS, BATCHES, CONVS):
        if not in_time():
            return
        dtype, stride = use(precision), layer.stride
        x, what = conv_problem(layer, batch, dtype)
        weight = last(torch.randn(layer.filters, layer.channels, 3, 3, device=DEVICE).to(dtype))

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
