"""spred: which layers it takes apart, how, what it cuts, and what it leaves behind."""

import pytest
import torch
from torch import nn

from sparse_ops.masks import sparsity
from sparse_ops.training import Dense, Spred, fit
from sparse_ops.training.factors import factorize_, factorized, factors, fold_
from tests.training.small import OPTIMIZERS, small_net, small_task


class Block(nn.Module):
    """A stem, a residual block whose BatchNorms are defined apart from the convolutions, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(10, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.downsample = nn.Conv2d(6, 8, 1, stride=2, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.norm1 = nn.BatchNorm2d(10)
        self.hidden = nn.Linear(8, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm1(self.conv1(x)).relu()
        y = self.depthwise(self.norm2(self.conv2(y))) + self.downsample(x)
        return self.fc(self.hidden(y.relu().mean((2, 3))).relu())


def block():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(3)
        return Block()


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({}, ["conv1", "conv2", "depthwise"]),
        ({"linear": True}, ["conv1", "conv2", "depthwise", "hidden"]),
        ({"mode": "channel"}, ["conv1", "conv2"]),
        ({"exempt": ["conv2"]}, ["stem", "conv1", "depthwise", "downsample"]),
        ({"exempt": (), "mode": "channel"}, ["stem", "conv1", "conv2", "downsample"]),
    ],
)
def test_stem_projections_and_classifier_are_exempt_unless_others_are_named(options, layers):
    model = block()
    method = Spred(**options)
    method.prepare(model)
    assert factorized(model) == layers
    assert list(method.finalize(model)) == [f"{name}.weight" for name in layers]


@pytest.mark.parametrize("mode", ["weight", "filter", "channel"])
def test_a_trained_model_computes_the_same_when_it_is_taken_apart_evenly(mode):
    model, x = block().double().eval(), torch.randn(2, 1, 6, 6).double()
    before, names = model(x), [n for n, _ in model.named_parameters()]
    weight = model.conv1.weight.detach().clone()
    factorize_(model, ["conv1", "conv2"], mode)
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-14)
    u, w = factors(model.conv1)
    sizes = {"weight": (10, 6, 3, 3), "filter": (10, 1, 1, 1), "channel": (1, 6, 1, 1)}
    assert u.shape == sizes[mode] and w.shape == weight.shape
    across = {"weight": (), "filter": (1, 2, 3), "channel": (0, 2, 3)}[mode]
    square = w.square().sum(across, keepdim=True) if across else w.square()
    torch.testing.assert_close(u.square(), square, rtol=1e-12, atol=0)
    fold_(model)
    assert [n for n, _ in model.named_parameters()] == names
    assert type(model.conv1) is nn.Conv2d and type(model.conv1.weight) is nn.Parameter
    torch.testing.assert_close(model.conv1.weight, weight, rtol=1e-14, atol=0, check_stride=True)


def test_zeros_are_taken_apart_into_zeros():
    for mode in ("weight", "filter", "channel"):
        layer = nn.Linear(2, 2, bias=False)
        nn.init.zeros_(layer.weight)
        factorize_(layer, [""], mode)
        assert not any(bool(factor.any()) for factor in factors(layer))
        assert not bool(layer.weight.any())


def train(method, model=None, **more):
    model = block() if model is None else model
    arguments = {"epochs": 3, "batch_size": 16, "progress": False, "lr": 0.02}
    return model, fit(model, small_task(), method, **(arguments | more))


@pytest.mark.parametrize("fine_tune", [0, 1])
@pytest.mark.parametrize("mode", ["weight", "filter", "channel"])
@pytest.mark.parametrize("level", [0.2, 0.4, 0.6, 0.8])
def test_exactly_as_many_groups_go_as_were_asked_for(level, mode, fine_tune):
    model, masks = train(Spred(sparsity=level, mode=mode, fine_tune=fine_tune))
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        groups = {"weight": mask.flatten()[:, None], "filter": mask.flatten(1)}
        groups["channel"] = mask.transpose(0, 1).flatten(1)
        group = groups[mode]
        # A group goes as a whole or not at all.
        assert torch.equal(group.any(1), group.all(1))
        assert int((~group.any(1)).sum()) == int(round(level * len(group), 6))
        assert torch.equal(weight != 0, mask)


def test_over_all_layers_together_the_count_is_exact_too():
    _, masks = train(Spred(sparsity=0.7, scope="global"))
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == total - int(0.7 * total)
    shares = {round(sparsity({name: mask}), 3) for name, mask in masks.items()}
    assert len(shares) == 3


@pytest.mark.parametrize("fine_tune", [0, 2])
def test_a_removed_filter_takes_scale_and_shift_of_its_batch_norm_along(fine_tune):
    model, masks = train(Spred(sparsity=0.5, mode="filter", fine_tune=fine_tune), epochs=4)
    for layer, norm in (("conv1", model.norm1), ("conv2", model.norm2)):
        alive = masks[f"{layer}.weight"].flatten(1).any(1)
        assert 0 < int(alive.sum()) < len(alive)
        assert torch.equal(norm.weight != 0, alive)
        assert torch.equal(norm.bias != 0, alive)
    # conv1 has a bias: only the BatchNorm makes its output zero.
    y = model.norm1(model.conv1(torch.randn(1, 6, 6, 6)))
    dead = ~masks["conv1.weight"].flatten(1).any(1)
    assert not bool(y[:, dead].any())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", ["weight", "filter", "channel"])
def test_what_is_cut_stays_zero_while_the_rest_is_fine_tuned(mode, optimizer):
    seen = []
    model = block()
    method = Spred(sparsity=0.5, mode=mode, fine_tune=2)

    def look(epoch):
        seen.append([model.get_submodule(n).weight.detach().clone() for n in ("conv1", "conv2")])

    train(method, model, epochs=4, lr=None, optimizer=OPTIMIZERS[optimizer], on_epoch=look)
    for layer in (0, 1):
        assert bool((seen[0][layer] != 0).all())
        dead = seen[1][layer] == 0
        assert bool(dead.any()) and torch.equal(seen[3][layer] == 0, dead)
        assert bool((seen[3][layer][~dead] != seen[1][layer][~dead]).all())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_factors_have_no_weight_decay_of_the_optimizer(optimizer):
    groups = []
    method = Spred(sparsity=0.5)
    method.end_epoch = lambda model, used, epoch: groups.extend(used.param_groups) or True
    train(method, epochs=1, lr=None, optimizer=OPTIMIZERS[optimizer])
    shapes = [sorted({tuple(p.shape) for p in group["params"]}) for group in groups]
    assert shapes[-1] == [(8, 1, 3, 3), (8, 10, 3, 3), (10, 6, 3, 3)]
    assert len(groups[-1]["params"]) == 6 and groups[-1]["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == 6 + 2 + 1 + 4 + 4


def test_the_penalty_leaves_fewer_weights_that_matter():
    left = []
    for strength in (0.0, 2e-2):
        seen = []
        model = small_net()
        look = lambda epoch, m=model, s=seen: s.append(m[3].weight.detach().abs())  # noqa: E731
        train(Spred(strength=strength), model, epochs=12, lr=0.1, on_epoch=look)
        left.append(float((seen[-1] > 1e-2 * seen[-1].max()).float().mean()))
    assert left[0] > 0.8 and left[1] < 0.5 * left[0]


def test_no_penalty_and_no_cut_is_a_model_whose_dense_weights_learn():
    model, masks = train(Spred(sparsity=0.0, strength=0.0))
    dense, _ = train(Dense())
    assert all(bool(mask.all()) for mask in masks.values())
    assert not torch.equal(model.conv1.weight, block().conv1.weight)
    assert model.conv1.weight.shape == dense.conv1.weight.shape


@pytest.mark.parametrize(
    ("mode", "exempt_fc", "total"),
    [
        ("weight", ["fc"], (22_333_194, 22_379_364)),
        ("weight", [], (22_338_314, 22_430_564)),
        ("filter", ["fc"], (11_178_762, 11_224_932)),
        ("channel", ["fc"], (11_177_805, 11_223_975)),
    ],
)
def test_the_sizes_of_resnet18_taken_apart_are_those_computed(mode, exempt_fc, total):
    for classes, expected in zip((10, 100), total, strict=True):
        with torch.device("meta"):
            model = resnet18_layers(classes)
        dense = sum(p.numel() for p in model.parameters())
        assert dense == (11_173_962 if classes == 10 else 11_220_132)
        convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == 20
        factorize_(model, convolutions + ([] if exempt_fc else ["fc"]), mode)
        assert sum(p.numel() for p in model.parameters()) == expected


def resnet18_layers(classes):
    """The layers of ResNet18 for images of 32×32, without the wires between them."""
    widths = [(3, 64, 3)] + [(64, 64, 3)] * 4
    for width in (128, 256, 512):
        widths += [(width // 2, width, 3), (width // 2, width, 1)] + [(width, width, 3)] * 3
    layers = nn.ModuleDict({"fc": nn.Linear(512, classes)})
    for number, (before, after, kernel) in enumerate(widths):
        layers[f"conv{number}"] = nn.Conv2d(before, after, kernel, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(after)
    return layers


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "kernel"}, "mode must be weight, filter or channel, got 'kernel'"),
        ({"scope": "model"}, "scope must be layer or global"),
        ({"strength": -1.0}, "strength must be 0 or more"),
        ({"fine_tune": -1}, "fine_tune must be 0 or more"),
        ({"exempt": "stem"}, "exempt must be names of layers"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Spred(**options)


def test_layers_that_are_not_there_or_not_left_are_refused():
    with pytest.raises(ValueError, match="does not have"):
        Spred(exempt=["nothing"]).prepare(block())
    with pytest.raises(ValueError, match="no Conv2d to take part"):
        Spred().prepare(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2)))
