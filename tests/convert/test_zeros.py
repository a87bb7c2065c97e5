"""Anyone's zeros, in any form; what is regular in them; weights that were meant to be zero."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import sparse_ops as so
from sparse_ops.patterns import Periodic
from sparse_ops.planning.recognise import describe_zeros
from tests.convert.models import says
from tests.sparsifier import sparsify


def net():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    last = (nn.Flatten(), nn.Linear(128, 4))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *last).eval()


class Half(nn.Module):
    """Somebody's own parametrization."""

    def forward(self, weight):
        return weight * (torch.arange(weight.shape[0]) % 2).reshape(-1, 1, 1, 1)


def plain(model):
    with torch.no_grad():
        model[0].weight[::2] = 0
        model[2].weight[torch.rand_like(model[2].weight) < 0.8] = 0


def masked(model):
    prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0)
    prune.l1_unstructured(model[2], "weight", 0.8)


def merged(model):
    masked(model)
    prune.remove(model[0], "weight")
    prune.remove(model[2], "weight")


def sparsifier(model):
    sparsify(model, ("0.weight", "2.weight"), 0.8)


def parametrized(model):
    parametrize.register_parametrization(model[0], "weight", Half())
    plain_weight = model[2].weight
    with torch.no_grad():
        plain_weight[torch.rand_like(plain_weight) < 0.8] = 0


@pytest.mark.parametrize("prepare", [plain, masked, merged, sparsifier, parametrized])
def test_zeros_of_any_origin_are_used_and_the_model_keeps_its_form(prepare):
    model, x = net(), torch.randn(2, 3, 8, 8)
    prepare(model)
    names = list(model.state_dict())
    want = model(x)
    plan = so.plan(model, x, measure=says(2.0), progress=False)
    fast = plan.apply(model)
    torch.testing.assert_close(fast(x), want, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == names
    rows = {row.name: row for row in plan.layers}
    assert rows["2"].becomes and rows["2"].nnz < 0.5 * 576
    if prepare is not sparsifier:
        assert "4 dead filters" in rows["0"].zeros


def test_a_loaded_state_dict_of_a_pruning_tool_is_planned():
    source, model, x = net(), net(), torch.randn(2, 3, 8, 8)
    masked(source)
    masks = so.masks.load_state_(model, source.state_dict())
    fast = so.sparsify(model, x, masks, measure=says(2.0), progress=False)
    torch.testing.assert_close(fast(x), source(x), rtol=1e-5, atol=1e-5)


def test_tiny_weights_are_counted_and_the_warning_says_what_a_threshold_does():
    model, x = net(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        tiny = torch.rand_like(model[2].weight) < 0.75
        model[2].weight[tiny] *= 1e-6
        model[2].weight[0, 0, 0, :2] = 1e-41
        count = int((tiny & (model[2].weight.abs() > 1e-38)).sum())
    with pytest.warns(UserWarning, match=f"{count} weights are not zero but below") as caught:
        plan = so.plan(model, x, measure=says(2.0), progress=False)
    message = str(caught[0].message)
    assert "2 weights are denormal" in message and any("threshold=" in n for n in plan.notes)
    threshold = float(message.split("threshold=")[1].split()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = so.masks.from_zeros(model, threshold)
    total = sum(w.numel() for w in so.masks.weights(model).values())
    kept = total - sum(int((~m).sum()) for m in found.values())
    assert f"-> {1 - kept / total:.1%}" in message


def test_weights_as_they_are_born_cause_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (net(), so.models.resnet18(10).eval()):
            x = torch.randn(1, 3, 8, 8)
            so.plan(model, x, measure=says(2.0), progress=False)


PERIODS = [
    (1, 1, False, (3, 3)),
    (2, 2, False, (1, 1)),
    (5, 3, False, (5, 5)),
    (7, 2, True, (3, 3)),
    (13, 1, True, (1, 3)),
    (31, 4, False, (3, 3)),
    (64, 3, True, (2, 2)),
]


@pytest.mark.parametrize(("period", "taps", "dense", "kernel"), PERIODS)
def test_periodic_masks_of_any_period_and_kernel_are_recognised_and_packed(
    period, taps, dense, kernel
):
    torch.manual_seed(period)
    size = kernel[0] * kernel[1]
    supports = [tuple(torch.randperm(size)[: min(taps, size - 1)].tolist()) for _ in range(period)]
    if dense:
        supports[-1] = tuple(range(size))
    mask = Periodic(tuple(supports), kernel).mask((70, 70, *kernel))
    found = Periodic.recognise(mask)
    assert found is not None and period % found.period == 0
    if size > 1 and not bool(mask.all()) and mask.any():
        assert describe_zeros(mask).startswith(f"periodic, period {found.period}")
        layer = nn.Conv2d(70, 70, kernel)
        packed = so.nn.PeriodicConv2d.from_dense(layer, mask)
        assert torch.equal(packed.mask(), mask)


def test_what_is_regular_is_told_in_words():
    mask = torch.ones(8, 6, 3, 3, dtype=torch.bool)
    assert describe_zeros(mask) == "no zeros"
    assert describe_zeros(~mask) == "no weight left"
    channels = mask.clone()
    channels[1:3], channels[:, 4] = False, False
    assert describe_zeros(channels) == "2 dead filters, 1 dead inputs"
    kernels = torch.rand(8, 6) > 0.5
    kernels[0], kernels[:, 0] = True, True
    zero = 1 - kernels.float().mean()
    words = describe_zeros(kernels[..., None, None].expand(8, 6, 3, 3))
    assert words == f"whole kernels ({zero:.0%})"
    scattered = channels.clone()
    scattered[0, 0, 0, 0] = False
    assert describe_zeros(scattered).startswith("2 dead filters, 1 dead inputs")
    assert describe_zeros(scattered).endswith("unstructured")
    assert describe_zeros(torch.rand(9, 7) > 0.5) == "unstructured"
    assert describe_zeros(so.patterns.PSD2_P8.mask((8, 8, 3, 3))) == (
        "periodic, period 8, 1 of them whole"
    )


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4), (4, 8)])
@pytest.mark.parametrize("shape", [(32, 64), (16, 16, 3, 3)])
def test_so_many_of_so_many_inputs_are_recognised(kept, of, shape):
    order = torch.rand(shape).unflatten(1, (-1, of)).argsort(2).argsort(2)
    mask = (order < kept).flatten(1, 2)
    assert describe_zeros(mask) == f"{kept}:{of}"
    mask[1] = False
    assert describe_zeros(mask) == f"1 dead filters, {kept}:{of}"
    mask[0, :of] = True
    assert "unstructured" in describe_zeros(mask)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 8), (16, 1), (2, 32)])
def test_blocks_are_recognised(height, width):
    torch.manual_seed(0)
    blocks = torch.rand(64 // height, 64 // width) > 0.5
    mask = blocks.repeat_interleave(height, 0).repeat_interleave(width, 1)
    assert describe_zeros(mask).endswith(f"blocks of {height}×{width}")
    whole = mask[:, :, None, None].expand(-1, -1, 3, 3).clone()
    assert describe_zeros(whole).endswith(f"blocks of {height}×{width}")
    first = tuple(whole.nonzero()[0])
    whole[first] = False
    assert describe_zeros(whole).endswith("unstructured")
