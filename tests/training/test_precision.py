"""Scaled losses: methods see gradients without the scale, and steps that overflow are left out.

float16 needs a CUDA device, its scaler does not: here it scales by powers of two, which is exact.
"""

import pytest
import torch
from torch import nn

from sparse_ops.training import GSM, SABR, HyperSparse, Magnitude, Spred, fit
from sparse_ops.training.precision import Precision
from tests.training.small import small_net, small_task

METHODS = {
    "gsm": lambda: GSM(sparsity=0.7),
    "hypersparse": lambda: HyperSparse(sparsity=0.5, warm_up=0, max_epochs=9, strength=0.01),
    "l1": lambda: HyperSparse(sparsity=0.5, warm_up=0, max_epochs=9, strength=0.01, loss="l1"),
    "sabr": lambda: SABR(strength=0.01),
    "spred": lambda: Spred(sparsity=0.5, begin=1, end=2),
    "magnitude": lambda: Magnitude(sparsity=0.5, begin=1, end=2),
}


@pytest.fixture
def scaled(monkeypatch):
    """All runs scale their loss, as those in float16 do."""
    begin = Precision.__init__

    def scaling(self, amp, device):
        begin(self, amp, device)
        self.scaler = torch.amp.GradScaler("cpu")

    monkeypatch.setattr(Precision, "__init__", scaling)


def train(method, **more):
    model = small_net()
    arguments = {"epochs": 3, "lr": 0.02, "batch_size": 16, "clip": 1.0, "progress": False}
    masks = fit(model, small_task(), method, **(arguments | more))
    return model, masks


@pytest.mark.parametrize("name", METHODS)
def test_a_scaled_loss_changes_no_bit(name, monkeypatch, request):
    plain, expected = train(METHODS[name]())
    request.getfixturevalue("scaled")
    model, masks = train(METHODS[name]())
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert all(torch.equal(masks[key], mask) for key, mask in expected.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_that_overflows_is_left_out(name, scaled):
    calls = []

    def too_much_once(logits, labels):
        calls.append(1)
        loss = nn.functional.cross_entropy(logits, labels)
        return loss * 1e36 if len(calls) == 1 else loss

    model, before, seen = small_net(), small_net(), []
    method = METHODS[name]()
    after = method.after_step

    def look(model):
        after(model)
        effective = [m.weight.detach().clone() for m in model if isinstance(m, nn.Conv2d)]
        seen.append(effective)

    method.after_step = look
    fit(
        model,
        small_task(),
        method,
        epochs=1,
        lr=0.02,
        batch_size=16,
        criterion=too_much_once,
        progress=False,
    )
    first = [before[0].weight, before[3].weight]
    for value, weight in zip(seen[0], first, strict=True):
        torch.testing.assert_close(value, weight.detach(), rtol=1e-6, atol=0)
    assert not torch.equal(seen[1][0], seen[0][0])
    assert all(bool(p.isfinite().all()) for p in model.parameters())
