"""Forwards that do what a graph cannot have: they stay in charge, or the error has the words."""

import copy
import random
import re
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.planning.differences import Mismatch
from sparse_ops.planning.verify_model import check_model
from sparse_ops.program.model import programs_of
from tests.convert.planning import planned

X = (2, 3, 8, 8)
Pair = namedtuple("Pair", "a b")


def pruned(function, kind=None):
    """A pruned model of three layers with this forward, in eval mode."""

    class Net(kind or nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.fc, self.kept = nn.Linear(8, 5), []
            self.register_buffer("count", torch.zeros(()))

        def features(self, x):
            return torch.relu(self.b(torch.relu(self.a(x))))

        def end(self, x):
            return self.fc(x.mean((2, 3)))

        forward = function

    torch.manual_seed(0)
    model = Net().eval()
    for weight in so.masks.weights(model).values():
        weight.mul_(torch.rand_like(weight) > 0.6)
    return model


def assert_same(fast, model, *args, **kwargs):
    outputs = []
    for each in (fast, model):
        torch.manual_seed(1)
        random.seed(1)
        with torch.no_grad():
            outputs.append(each(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    assert type(outputs[0]) is type(outputs[1])


def casts(self, x):
    with torch.autocast("cpu", torch.bfloat16):
        y = self.b(torch.relu(self.a(x)))
    return self.end(torch.relu(y.float()))


def counts(self, x):
    self.count += 1
    return self.end(self.features(x)) * self.count


def keeps(self, x):
    self.kept.append(self.features(x))
    return self.end(self.kept[-1])


def scales(self, x):
    return self.end(self.features(x)) * random.choice([1.0, 2.0])


def adds_noise(self, x):
    return self.end(self.features(x) + torch.rand(1, 8, 1, 1))


def first_and_last(self, *xs):
    return self.end(self.features(xs[0] + xs[-1]))


# Forward -> what the plan says of it.
LEFT_ALONE = {
    casts: "turns autocast on",
    counts: "keeps something from call to call: count",
    keeps: "keeps something from call to call: kept",
    scales: "draws random numbers",
    adds_noise: "draws random numbers",
    first_and_last: r"takes \*xs",
}


@pytest.mark.parametrize("forward", LEFT_ALONE)
def test_a_forward_that_no_graph_has_stays_in_charge(forward):
    model = pruned(forward)
    # With a history, which deepcopy refuses.
    model(torch.randn(X))
    plan = planned(model, example=torch.randn(X))
    fast = plan.apply(model)
    assert programs_of(fast) is None and len(plan.packed) == 3
    assert any(re.search(LEFT_ALONE[forward], note) for note in plan.notes)
    for _ in range(2):
        assert_same(fast, model, torch.randn(X))
    assert fast.count == model.count


OUTPUTS = {
    "dict": lambda self, x: {"y": self.end(self.features(x)), "more": [x.mean(), None, 3]},
    "OrderedDict": lambda self, x: OrderedDict(y=self.end(self.features(x)), x=x),
    "namedtuple": lambda self, x: Pair(self.end(self.features(x)), (x, [x])),
    "tuple": lambda self, x: (self.end(self.features(x)), x),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_come_in_what_the_model_packs_them_in(kind):
    model = pruned(OUTPUTS[kind])
    fast = planned(model, example=torch.randn(X)).apply(model)
    assert programs_of(fast) is not None
    assert_same(fast, model, torch.randn(5, 3, 9, 7))
    again = copy.deepcopy(fast)
    assert_same(again, model, torch.randn(X))


def adding(other):
    return lambda self, x: self.end(F.relu(self.b(self.a(x)) + other(self.a, x)))


SIZES = {
    "an image of the batch for all": adding(lambda a, x: a(x[:1])),
    "a number of each plane": adding(lambda a, x: F.adaptive_avg_pool2d(a(x), 1)),
    "images upside down": lambda self, x: self.end(self.features(x).flip(0)),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("example", [(1, 3, 8, 8), (2, 3, 1, 1)])
def test_what_fits_together_at_the_example_only_is_right_at_every_size(name, example):
    model = pruned(SIZES[name])
    fast = planned(model, example=torch.randn(example)).apply(model)
    for shape in (example, (1, 3, 8, 8), (17, 3, 9, 5), (2, 3, 1, 1), (64, 3, 4, 4)):
        assert_same(fast, model, torch.randn(shape))


def test_inputs_that_broadcast_are_left_to_the_model():
    model = pruned(lambda self, x, y: self.end(self.features(x + y)))
    fast = planned(model, example=(torch.randn(X), torch.randn(X))).apply(model)
    for other in ((2, 3, 1, 8), (2, 1, 8, 8), (1, 3, 8, 8), X):
        assert_same(fast, model, torch.randn(X), torch.randn(other))


def test_hooks_that_are_there_before_stay_and_the_plan_says_so():
    def forward(self, x):
        return self.end(self.blocks(torch.relu(self.a(x))))

    model, seen = pruned(forward), []
    model.blocks = nn.Sequential(model.b, nn.ReLU()).eval()
    model.blocks.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    plan = planned(model, example=torch.randn(X))
    fast = plan.apply(model)
    seen.clear()
    assert_same(fast, model, torch.randn(X))
    assert len(seen) == 2 and plan.packed
    assert any("blocks has hooks" in note for note in plan.notes)


@pytest.mark.parametrize("name", ["forward", "_conv_forward"])
def test_a_layer_with_another_forward_of_its_own_stays(name):
    def doubled(self, x, *rest):
        return 2 * F.conv2d(x, self.weight, self.bias, padding=1)

    model = pruned(lambda self, x: self.end(self.features(x)))
    setattr(model.b, name, doubled.__get__(model.b))
    plan = planned(model, example=torch.randn(X))
    fast = plan.apply(model)
    assert {layer.name for layer in plan.packed} == {"a", "fc"}
    assert f"its {name} was exchanged" in next(r.reason for r in plan.layers if r.name == "b")
    assert_same(fast, model, torch.randn(X))


class Copies(nn.Module):
    """Copies of it are in training mode; with `other`, they compute something else."""

    other, times = False, 1.0

    def __deepcopy__(self, memo):
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        for module in twin.modules():
            module.training = True
        if self.other:
            twin.times = 3.0
        return twin


def test_copies_in_another_mode_are_put_right():
    def forward(self, x):
        return self.end(self.norm(self.features(x)))

    model = pruned(forward, Copies)
    model.norm = nn.BatchNorm2d(8).eval()
    plan = planned(model, example=torch.randn(X))
    fast = plan.apply(model)
    assert not any(module.training for module in fast.modules()) and plan.decisions
    assert_same(fast, model, torch.randn(X))


def test_a_copy_that_is_not_the_model_is_refused():
    model = pruned(lambda self, x: self.end(self.features(x)) * self.times, Copies)
    model.other = True
    masks = {name: torch.ones_like(w).bool() for name, w in so.masks.weights(model).items()}
    for given in (None, masks):
        with pytest.raises(ValueError, match="a copy of the model computes something else"):
            planned(model, given, example=torch.randn(X))


def test_graphs_of_torch_fx_are_models_too():
    model = pruned(lambda self, x: self.end(self.features(x)))
    graph = fx.symbolic_trace(model).eval()
    fast = planned(graph, example=torch.randn(X)).apply(graph)
    assert not fast.training and programs_of(fast) is not None
    assert_same(fast, model, torch.randn(4, 3, 9, 9))


def test_what_cannot_be_copied_is_named():
    model = pruned(lambda self, x: self.end(self.features(x)))
    model.b.source = (number for number in range(3))
    with pytest.raises(ValueError, match=r"cannot be copied, for its b\.source"):
        planned(model, example=torch.randn(X))


def noisy(self, x):
    return self.end(self.features(x) + torch.randn_like(x[:, :1]))


def test_models_that_draw_numbers_are_compared_with_the_same_ones():
    model, x = pruned(noisy), torch.randn(X)
    fast = planned(model, example=x).apply(model)
    assert_same(fast, model, x)
    assert "random numbers" in check_model(model, fast, (x,))
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.fc.weight[0] *= 1.5
    with pytest.raises(Mismatch, match="where it is worst they give"):
        check_model(model, wrong, (x,))


def by_keyword(self, *, pixels=None, scale=1.0):
    return {"y": self.end(self.features(pixels)) * scale}


def test_a_dict_is_keyword_arguments():
    model = pruned(by_keyword)
    for example, kwargs in (({"pixels": torch.randn(X)}, {}), ((), {"pixels": torch.randn(X)})):
        plan = planned(model, example=example, kwargs=kwargs)
        fast = plan.apply(model)
        assert len(plan.packed) == 3
        assert_same(fast, model, pixels=torch.randn(3, 3, 9, 9))
        assert_same(fast, model, pixels=torch.randn(X), scale=3.0)


def masked(self, x, mask=None, *, scale=None):
    y = self.end(self.features(x))
    y = y if mask is None else y * mask
    return y if scale is None else y * scale


@pytest.mark.parametrize("names", [(), ("mask",), ("scale",), ("mask", "scale")])
def test_arguments_of_all_kinds_go_together(names):
    model, given = pruned(masked), {"mask": torch.rand(2, 5), "scale": torch.rand(2, 5)}
    plan = planned(model, example=torch.randn(X), kwargs={name: given[name] for name in names})
    fast = plan.apply(model)
    for own in ((), ("mask",), ("scale",), ("mask", "scale")):
        assert_same(fast, model, torch.randn(X), **{name: given[name] for name in own})


def test_a_list_that_is_one_argument_is_told_from_a_list_of_them():
    model = pruned(lambda self, xs: self.end(self.features(torch.stack(xs))))
    images = [*torch.randn(X)]
    with pytest.raises(ValueError, match=r"that is one argument is written \(example,\)"):
        planned(model, example=images)
    fast = planned(model, example=(images,)).apply(model)
    assert_same(fast, model, [*torch.randn(5, 3, 8, 8)])
