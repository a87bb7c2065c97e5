"""What computes something else is told, with its place, both numbers, and whose fault it is."""

import copy
import dataclasses
import re

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.convert import Mismatch
from sparse_ops.nn import CSRConv2d
from sparse_ops.planning.verify_model import check_model
from sparse_ops.program import segments
from sparse_ops.program.model import programs_of
from tests.convert.models import EXAMPLE, masks_of_net, net
from tests.convert.planning import planned


@pytest.fixture
def wrong_step(monkeypatch):
    """Has programs compute one layer with another weight than it has."""
    own = segments.lower

    def lower(nodes, *rest):
        program = own(nodes, *rest)
        step = next((each for each in program.steps if each.name == "anything"), None)
        if step is None:
            return program
        constants = list(program.constants)
        place = next(c for c in step.constants if c >= 0 and constants[c].is_floating_point())
        constants[place] = constants[place].clone()
        constants[place].view(-1)[0] += 0.25
        return dataclasses.replace(program, constants=tuple(constants))

    monkeypatch.setattr(segments, "lower", lower)


def test_a_wrong_step_is_not_hidden_and_the_answer_is_right(wrong_step):
    model, masks, x = net(), masks_of_net(), torch.randn(EXAMPLE)
    with pytest.warns(UserWarning, match="anything, a conv2d step") as told:
        plan = planned(model, masks, example=x)
    (words,) = plan.failed
    assert words in {str(warning.message) for warning in told}
    assert re.search(r"alone.*where it is worst they give -?\d.* and -?\d", words)
    assert "please report" in words
    assert "FAILED" in str(plan) and plan.as_data()["failed"] == [words]
    fast = plan.apply(model)
    assert programs_of(fast) is None and plan.packed
    so.masks.apply_(model, masks)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_what_is_right_fails_nowhere():
    assert planned(net(), masks_of_net()).failed == ()


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.act, self.fc = nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        x = torch.relu(self.left(x) + self.right(x))
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def pair():
    """(a model, what it was converted to)."""
    torch.manual_seed(0)
    model, x = Branches().eval(), torch.randn(2, 3, 8, 8)
    so.masks.apply_(
        model, {n: torch.rand(w.shape) > 0.5 for n, w in so.masks.weights(model).items()}
    )
    return model, planned(model, example=x).apply(model)


@pytest.mark.parametrize("name", ["stem", "left", "right", "fc", "left, layer by layer"])
def test_the_first_value_that_differs_is_named(pair, name):
    model, fast = copy.deepcopy(pair)
    assert programs_of(fast) is not None
    layer, _, by_layers = name.partition(",")
    if by_layers:
        fast.stem.register_forward_hook(lambda *_: None)
    # The layer is as right as any, of a weight that is another one.
    with torch.no_grad():
        fast.get_submodule(layer).values.add_(0.5)
    at = f"that of {layer} .*it is .*, and .* in the dense" if not by_layers else ""
    with pytest.raises(Mismatch, match=f"every packed layer alone is right.*{at}") as raised:
        check_model(model, fast, (torch.randn(2, 3, 8, 8),))
    assert not raised.value.of_kernel


def test_a_layer_is_blamed_only_if_it_is_wrong_alone(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    fast, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    fast[2] = CSRConv2d.from_dense(model[2], torch.ones_like(model[2].weight).bool())
    own = CSRConv2d.forward
    monkeypatch.setattr(CSRConv2d, "forward", lambda self, x: own(self, x) + 0.01 * x.mean())
    with pytest.raises(Mismatch, match="2, a CSRConv2d on backend auto, is wrong alone") as raised:
        check_model(model, fast, (x,))
    assert raised.value.of_kernel
