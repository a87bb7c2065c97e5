"""Networks of torchvision and timm, pruned at random, converted, saved and loaded."""

import pytest
import torch

import sparse_ops as so
from sparse_ops.nn import SparseLayer
from sparse_ops.program.model import programs_of
from tests.convert.models import says
from tests.ecosystem.networks import NAMES, build, lively_, random_masks

QUICK = ("torchvision.resnet18", "torchvision.mobilenet_v3_small", "timm.mobilenetv3_small_100")
cases = pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)


def image(batch=1):
    return torch.randn(batch, 3, 32, 32)


def assert_equal_outputs(model, fast, x):
    """Within what float32 loses on the way through so many layers, judged by the largest output."""
    with torch.no_grad():
        expected, actual = model(x), fast(x)
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        "mixed",
        pytest.param("every", marks=pytest.mark.slow),
        pytest.param("unstructured", marks=pytest.mark.slow),
        pytest.param("channels", marks=pytest.mark.slow),
    ],
)
@cases
def test_a_converted_network_equals_the_masked_one_and_comes_back_from_its_file(
    name, kind, tmp_path
):
    model = lively_(build(name))
    masks = random_masks(model, kind)
    so.masks.apply_(model, masks)
    plan = so.plan(model, image(), measure=says(2.0), progress=False)
    fast = plan.apply(model)
    assert sum(isinstance(m, SparseLayer) for m in fast.modules()) == len(plan.packed) > 0
    x = image(2)
    assert_equal_outputs(model, fast, x)
    so.save(fast, tmp_path / "packed.safetensors")
    loaded = so.load(tmp_path / "packed.safetensors", build(name))
    with torch.no_grad():
        assert torch.equal(loaded(x), fast(x))


@cases
def test_a_network_is_planned_within_a_small_budget_and_not_changed_in_what_it_computes(name):
    model = lively_(build(name))
    so.masks.apply_(model, random_masks(model, "mixed"))
    fast = so.sparsify(model, image(), budget_s=2, progress=False)
    assert_equal_outputs(model, fast, image(2))


@pytest.mark.parametrize(
    "name",
    [
        "torchvision.resnet18",
        "torchvision.squeezenet1_1",
        pytest.param("torchvision.vgg11_bn", marks=pytest.mark.slow),
        pytest.param("torchvision.densenet121", marks=pytest.mark.slow),
        pytest.param("timm.resnet18", marks=pytest.mark.slow),
        pytest.param("timm.efficientnet_b0", marks=pytest.mark.slow),
    ],
)
def test_a_network_runs_as_programs_and_comes_back_from_its_file(name, tmp_path):
    model = lively_(build(name, num_classes=10))
    masks = random_masks(model, "mixed")
    so.masks.apply_(model, masks)
    plan = so.plan(model, image(16), masks, measure=says(1.5), progress=False)
    fast = plan.apply(model)
    assert programs_of(fast) is not None
    so.save(fast, tmp_path / "packed.safetensors")
    loaded = so.load(tmp_path / "packed.safetensors", build(name, num_classes=10))
    for batch in (2, 16, 35):
        x = image(batch)
        assert_equal_outputs(model, fast, x)
        with torch.no_grad():
            assert torch.equal(loaded(x), fast(x))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_every_layer_at_one_sparsity(sparsity, tmp_path):
    model = lively_(build("torchvision.resnet18", num_classes=10))
    masks = {
        layer: torch.rand_like(weight) >= sparsity
        for layer, weight in so.masks.weights(model).items()
    }
    so.masks.apply_(model, masks)
    plan = so.plan(model, image(), masks, measure=says(2.0), progress=False)
    fast = plan.apply(model)
    assert bool(plan.packed) == (0 < sparsity < 1)
    x = image(2)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(
        fast(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )
    so.save(fast, tmp_path / "packed.safetensors")
    fresh = build("torchvision.resnet18", num_classes=10)
    assert torch.equal(so.load(tmp_path / "packed.safetensors", fresh)(x), fast(x))
