"""Weights as products: their minima and steps, against closed forms and the authors' code."""

import math

import pytest
import torch
from torch import nn

from sparse_ops.training import Spred
from sparse_ops.training.factors import factors


def linear(values, mode="weight", strength=0.1):
    """A Linear of these weights, and spred over it, begun."""
    weight = torch.tensor(values, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
    method = Spred(mode=mode, strength=strength, linear=True, exempt=())
    method.prepare(layer)
    return layer, method


def put(layer, u, w):
    with torch.no_grad():
        for factor, values in zip(factors(layer), (u, w), strict=True):
            factor.copy_(torch.tensor(values, dtype=torch.float64).view(factor.shape))


def minimize(layer, method, loss, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        (loss(layer.weight) + method.penalty(layer)).backward()
        optimizer.step()
    return layer.weight.detach()


def descend(layer, method, loss, lr, steps):
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, foreach=False)
    return minimize(layer, method, loss, optimizer, steps)


@pytest.mark.parametrize(
    ("a", "strength", "v", "u"),
    [
        (1, 0.1, 0.8, 0.89442719),
        (1, 0.4, 0.2, 0.44721360),
        (1, 0.6, 0, 0),
        (-2, 0.25, -1.5, 1.22474487),
        (0.3, 0.1, 0.1, 0.31622777),
        (0.1, 0.1, 0, 0),
    ],
)
def test_one_weight_ends_at_the_soft_threshold_from_either_sign(a, strength, v, u):
    layer, method = linear([[1.0], [1.0]], strength=strength)
    # One start of the right sign and one of the wrong, for a above 0.
    put(layer, [0.7, 1.5], [0.3, -0.01])
    target = a if v else 0.0
    found = descend(layer, method, lambda w: 0.5 * (w - a).square().sum(), 0.25, 1500)
    if abs(a) == 2 * strength:
        # There, it converges as 1/t only.
        assert float(found.abs().max()) < 5e-3
        return
    expected = math.copysign(max(abs(a) - 2 * strength, 0), target)
    assert expected == pytest.approx(v)
    assert found.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-9, abs=1e-9)
    for factor in factors(layer):
        assert factor.detach().abs().flatten().tolist() == pytest.approx([u] * 2, abs=6e-9)


def test_one_step_of_gradient_descent_is_that_worked_out():
    layer, method = linear([[1.0]])
    put(layer, [0.7], [0.3])
    loss = 0.5 * (layer.weight - 1).square().sum() + method.penalty(layer)
    assert loss.item() == pytest.approx(0.37005, rel=1e-9)
    v = descend(layer, method, lambda w: 0.5 * (w - 1).square().sum(), 0.05, 1)
    u, w = (factor.item() for factor in factors(layer))
    assert (u, w) == pytest.approx((0.70485, 0.32465), rel=1e-9)
    assert v.item() == pytest.approx(0.2288295525, rel=1e-9)
    assert u * u - w * w == pytest.approx(0.3914159, rel=1e-9)
    # (u² - w²)' = [(1 - 2 κ lr)² - (lr · dL/dv)²] (u² - w²), exactly.
    shrink = (1 - 2 * 0.1 * 0.05) ** 2 - (0.05 * (0.21 - 1)) ** 2
    assert u * u - w * w == pytest.approx(0.4 * shrink, rel=1e-9)


@pytest.mark.parametrize(
    ("a", "strength", "v", "u"),
    [
        ([3, 4], 0.5, [2.4, 3.2], 2),
        ([3, 4], 2.4, [0.12, 0.16], 0.44721360),
        ([3, 4], 2.6, [0, 0], 0),
        ([0.6, -0.8], 0.2, [0.36, -0.48], 0.77459667),
    ],
)
@pytest.mark.parametrize("mode", ["filter", "channel"])
def test_a_group_ends_at_the_group_lasso(a, strength, v, u, mode):
    shape = (1, 2) if mode == "filter" else (2, 1)
    goal = torch.tensor(a, dtype=torch.float64).view(shape)
    layer, method = linear(torch.ones(shape).tolist(), mode, strength)
    put(layer, [0.5], [0.3, 0.2])
    found = descend(layer, method, lambda w: 0.5 * (w - goal).square().sum(), 0.05, 2500)
    assert found.flatten().tolist() == pytest.approx(v, rel=1e-9, abs=1e-9)
    assert abs(factors(layer)[0].item()) == pytest.approx(u, abs=6e-9)
    assert factors(layer)[1].detach().norm().item() == pytest.approx(u, abs=6e-9)


def test_one_step_of_a_group_is_that_worked_out():
    layer, method = linear([[1.0, 1.0]], "filter", 0.5)
    put(layer, [0.5], [0.3, 0.2])
    goal = torch.tensor([[3.0, 4.0]])
    descend(layer, method, lambda w: 0.5 * (w - goal).square().sum(), 0.02, 1)
    u, w = factors(layer)
    assert u.item() == pytest.approx(0.5227, rel=1e-9)
    assert w.flatten().tolist() == pytest.approx([0.3225, 0.235], rel=1e-9)


@pytest.mark.parametrize(
    ("strength", "v"),
    [
        (0.05, (0.95302013, 0.43624161)),
        (0.2, (0.84429530, 0.33154362)),
        (0.5, (0.62684564, 0.12214765)),
        (0.6, (0.55436242, 0.05234899)),
        (1.0, (0.28333333, 0)),
    ],
)
def test_a_linear_regression_ends_at_the_lasso(strength, v):
    x = torch.tensor([[1, 2], [0, 1], [-1, 0.5], [2, -1]], dtype=torch.float64)
    y = torch.tensor([2, 0.3, -0.7, 1.5], dtype=torch.float64)
    layer, method = linear([[0.5, 0.5]], strength=strength)
    found = descend(layer, method, lambda w: (x @ w[0] - y).square().mean(), 0.1, 2500)
    assert found.flatten().tolist() == pytest.approx(v, rel=0, abs=5.1e-9)
    # Proximal gradient descent on the lasso itself, with twice the strength.
    w = torch.zeros(2, dtype=torch.float64)
    for _ in range(2000):
        w = w - 0.1 * 2 / 4 * x.T @ (x @ w - y)
        w = w.sign() * (w.abs() - 0.1 * 2 * strength).clamp_min(0)
    assert found.flatten().tolist() == pytest.approx(w.tolist(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p, d: torch.optim.SGD(p, lr=0.01, weight_decay=d, foreach=False), 0.8),
        (lambda p, d: torch.optim.Adam(p, lr=0.01, weight_decay=d, foreach=False), 0.8),
        (lambda p, d: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0, foreach=False), 0.8),
        (lambda p, d: torch.optim.Adagrad(p, lr=0.01, weight_decay=d, foreach=False), 0.79567722),
    ],
    ids=["sgd", "adam", "adamw", "adagrad"],
)
def test_the_penalty_in_the_loss_has_one_minimum_for_all_optimizers(make, expected):
    layer, method = linear([[1.0]])
    put(layer, [0.7], [0.3])
    optimizer = make(list(layer.parameters()), 0.0)
    found = minimize(layer, method, lambda w: 0.5 * (w - 1).square().sum(), optimizer, 4000)
    assert found.item() == pytest.approx(expected, rel=1e-8 if expected != 0.8 else 1e-9)


def test_decay_in_the_gradient_is_the_same_penalty_and_decay_beside_it_is_another():
    ends = {}
    for make in (torch.optim.Adam, torch.optim.AdamW):
        layer, method = linear([[1.0]], strength=0.0)
        put(layer, [0.7], [0.3])
        method.penalty = lambda model: 0.0
        optimizer = make(layer.parameters(), lr=0.01, weight_decay=0.2, foreach=False)
        found = minimize(layer, method, lambda w: 0.5 * (w - 1).square().sum(), optimizer, 4000)
        ends[make] = found.item()
    assert ends[torch.optim.Adam] == pytest.approx(0.8, rel=1e-9)
    assert ends[torch.optim.AdamW] == pytest.approx(0.99756453, rel=1e-8)


U = [0.5, -1, 2, 0.25, 1.5, 0.1, -0.3, 0]
W = [1, 0.5, -0.1, 4, 0.2, 0.3, 1, 2]


def conv(faithful=False, **options):
    layer = nn.Conv2d(1, 2, 2, bias=False).double()
    method = Spred(sparsity=0.5, exempt=(), faithful=faithful, **options)
    method.prepare(layer)
    put(layer, U, W)
    return layer, method


def test_a_convolution_and_its_gradients_are_those_of_the_authors_code():
    layer, _ = conv()
    y = layer(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64))
    assert y.flatten().tolist() == pytest.approx([2.9, -0.54], rel=1e-9)
    y.backward(torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1))
    u, w = factors(layer)
    dw = [0.5, -2, 6, 1, -1.5, -0.2, 0.9, 0]
    du = [1, 1, -0.3, 16, -0.2, -0.6, -3, -8]
    assert w.grad.flatten().tolist() == pytest.approx(dw, rel=1e-9)
    assert u.grad.flatten().tolist() == pytest.approx(du, rel=1e-9)


@pytest.mark.parametrize(
    ("faithful", "expected"),
    [
        # The weights as large as the threshold, 0.3, are kept in the authors' way ...
        (True, [0.5, -0.5, 0, 1, 0.3, 0, -0.3, 0]),
        # ... and here as many go as were asked for, the first ones first.
        (False, [0.5, -0.5, 0, 1, 0, 0, -0.3, 0]),
    ],
)
def test_half_of_the_weights_are_cut(faithful, expected):
    layer, method = conv(faithful)
    # In floating point 1.5 · 0.2 is not 0.3: the products are made so.
    put(layer, [0.5, -0.5, -0.2, 1, 0.3, 0.03, -0.3, 0], [1.0] * 8)
    masks = method.finalize(layer)
    assert layer.weight.flatten().tolist() == expected
    assert torch.equal(masks["weight"].flatten(), torch.tensor(expected) != 0)
