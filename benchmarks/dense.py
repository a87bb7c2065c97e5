"""The forms in which torch runs a dense layer on this CPU; the fastest is what has to be beaten.

`prepacked` is what torch.compile with freezing makes of a layer: weights in the dense library's own
layout, activations in channels_last, activation function fused.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Call = Callable[[], Tensor]


def conv2d_forms(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
) -> dict[str, Call]:
    """form -> a call of the convolution, for those that run here."""
    last = x.contiguous(memory_format=torch.channels_last)
    forms: dict[str, Call] = {
        "eager": lambda: F.conv2d(x, weight, bias, stride, padding),
        "channels_last": lambda: F.conv2d(last, weight, bias, stride, padding),
    }
    s, p = [stride, stride], [padding, padding]
    try:
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, p, s, [1, 1], 1, list(x.shape)
        )

        def prepacked() -> Tensor:
            return torch.ops.mkldnn._convolution_pointwise(
                last, packed, bias, p, s, [1, 1], 1, "none", [], ""
            )

        torch.testing.assert_close(prepacked(), forms["eager"](), rtol=1e-3, atol=1e-3)
        forms["prepacked"] = prepacked
    except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        print(f"no prepacked convolution: {error}")
    return forms


def linear_forms(x: Tensor, weight: Tensor, bias: Tensor | None) -> dict[str, Call]:
    """form -> a call of the linear layer, for those that run here."""
    turned = weight.T.contiguous()
    forms: dict[str, Call] = {
        "eager": lambda: F.linear(x, weight, bias),
        "addmm": lambda: x @ turned if bias is None else torch.addmm(bias, x, turned),
    }
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[0])

        def prepacked() -> Tensor:
            return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")

        torch.testing.assert_close(prepacked(), forms["eager"](), rtol=1e-3, atol=1e-3)
        forms["prepacked"] = prepacked
    except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        print(f"no prepacked linear layer: {error}")
    return forms
