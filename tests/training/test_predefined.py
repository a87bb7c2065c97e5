"""Pre-defined sparsity: which layers it masks, and that they stay masked."""

import pytest
import torch
from torch import nn

from sparse_ops.patterns import NAMED, PS1_P9, PSD2_P8, PSD4_P8, Periodic
from sparse_ops.training import Predefined, fit
from tests.training.small import small_net, small_task


class Several(nn.Module):
    """A convolution of each kind that matters here."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.plain = nn.Conv2d(8, 16, 3)
        self.grouped = nn.Conv2d(16, 16, 3, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.pointwise = nn.Conv2d(16, 8, 1)
        self.wide = nn.Conv2d(8, 8, 5)
        self.fc = nn.Linear(8, 9)


@pytest.mark.parametrize("pattern", NAMED.values(), ids=NAMED)
def test_all_convolutions_of_that_kernel_but_the_first_are_masked(pattern):
    model = Several()
    method = Predefined(pattern=pattern)
    method.prepare(model)
    masks = method.finalize(model)
    assert list(masks) == ["plain.weight", "grouped.weight", "depthwise.weight"]
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert torch.equal(mask, pattern.mask(tuple(weight.shape)))
        assert torch.equal(weight != 0, mask)


def test_the_first_filter_of_psd2_p8_is_that_of_the_paper():
    model = small_net()
    Predefined(pattern=PSD2_P8).prepare(model)
    kernels = (model[3].weight[0] != 0).int().flatten(1).tolist()
    assert " ".join("".join(map(str, kernel)) for kernel in kernels) == (
        "110000000 011000000 000110000 000011000 000000110 000000011 110000000 111111111"
    )


def test_named_layers_are_exempt_instead_of_the_first():
    model = Several()
    method = Predefined(pattern=PSD4_P8, exempt=["plain", "depthwise"])
    method.prepare(model)
    assert list(method.finalize(model)) == ["stem.weight", "grouped.weight"]


def test_no_exemption_masks_the_first_too():
    model = Several()
    method = Predefined(pattern=PS1_P9, exempt=())
    method.prepare(model)
    assert "stem.weight" in method.finalize(model)


def test_kernels_of_another_size_take_patterns_of_that_size():
    model = Several()
    pattern = Periodic.cycle([(tap,) for tap in range(25)], kernel_size=(5, 5))
    method = Predefined(pattern=pattern)
    method.prepare(model)
    assert list(method.finalize(model)) == ["wide.weight"]


def test_masks_are_there_before_the_first_step_and_the_gradient_is_masked():
    model = small_net()
    removed = ~PSD2_P8.mask((16, 8, 3, 3))
    seen = []

    class Watching(Predefined):
        def after_backward(self, model: nn.Module) -> None:
            assert not bool(model[3].weight.detach()[removed].any())
            assert bool(model[3].weight.grad[removed].any())
            super().after_backward(model)
            seen.append(bool(model[3].weight.grad[removed].any()))

    fit(model, small_task(), Watching(), epochs=1, batch_size=16, progress=False)
    assert seen == [False] * 4


def test_infinite_gradients_of_removed_weights_do_not_come_through():
    model = small_net()
    method = Predefined()
    method.prepare(model)
    model[3].weight.grad = torch.full((16, 8, 3, 3), float("inf"))
    method.after_backward(model)
    assert not bool(model[3].weight.grad[~method.masks["3.weight"]].any())


def test_weights_in_channels_last_are_masked_alike():
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = small_net().to(memory_format=layout)
        masks = fit(model, small_task(), Predefined(), epochs=1, batch_size=16, progress=False)
        assert model[3].weight.is_contiguous(memory_format=layout)
        results.append((masks["3.weight"], model[3].weight.detach() != 0))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_an_optimizer_that_moves_removed_weights_is_found_out():
    class Restless(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.add_(1e-3)

    with pytest.raises(RuntimeError, match=r"Restless has moved removed weights of 3\.weight"):
        fit(
            small_net(),
            small_task(),
            Predefined(),
            epochs=1,
            optimizer=lambda groups: Restless(groups, lr=0.1),
            progress=False,
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pattern": "PSD2_P8"}, "pattern must be a Periodic or Aperiodic"),
        ({"pattern": Periodic(((0,),), (1, 1))}, "larger than 1×1"),
        ({"exempt": "3"}, "names of layers, got the one string"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Predefined(**arguments)


def test_an_exempt_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"does not have: \['conv9'\]"):
        Predefined(exempt=["0", "conv9"]).prepare(small_net())


def test_a_model_without_such_kernels_is_refused():
    with pytest.raises(ValueError, match="no Conv2d of 3×3"):
        Predefined().prepare(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 5)))
