"""The forms in which torch runs a dense layer on this CPU; the fastest is what has to be beaten.

`prepacked` is what torch.compile with freezing makes of a layer: weights in the dense library's own
layout, activations in channels_last, activation function fused.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

Call = Callable[[], Tensor]


def conv2d_runs(
    example: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    activation: str = "none",
    groups: int = 1,
) -> dict[str, Callable[[Tensor], Tensor]]:
    """form -> what convolves an x of the example's shape, for those that run here; `eager` takes it
    as it is, the others in channels_last. The activation after it is "none" or "relu".
    """

    def plain(x: Tensor) -> Tensor:
        y = F.conv2d(x, weight, bias, stride, padding, groups=groups)
        return y if activation == "none" else y.relu_()

    runs = {"eager": plain, "channels_last": plain}
    s, p = [stride, stride], [padding, padding]
    try:
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, p, s, [1, 1], groups, list(example.shape)
        )

        def prepacked(x: Tensor) -> Tensor:
            return torch.ops.mkldnn._convolution_pointwise(
                x, packed, bias, p, s, [1, 1], groups, activation, [], ""
            )

        last = example.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(prepacked(last), plain(example), rtol=1e-3, atol=1e-3)
        runs["prepacked"] = prepacked
    except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        print(f"no prepacked convolution: {error}")
    return runs


def conv2d_forms(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    activation: str = "none",
    groups: int = 1,
) -> dict[str, Call]:
    """form -> a call of the convolution, for those that run here; see `conv2d_runs`."""
    last = x.contiguous(memory_format=torch.channels_last)
    runs = conv2d_runs(x, weight, bias, stride, padding, activation, groups)
    return {form: partial(run, x if form == "eager" else last) for form, run in runs.items()}


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
