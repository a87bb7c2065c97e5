"""Every layer with weights is in the plan's table; computed weights are folded for inference."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import sparse_ops as so
from sparse_ops.planning import ways
from sparse_ops.planning.masked import copied
from tests.convert.models import says


@pytest.fixture(autouse=True)
def _exact_widths(monkeypatch):
    monkeypatch.setattr(ways, "MULTIPLES", ())


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def planned(model, example=EXAMPLE, ratio=2.0, **options):
    return so.plan(model, example, measure=says(ratio), progress=False, **options)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(8, 16)
        self.scale = nn.Parameter(torch.rand(16, 1, 1) + 0.5)
        self.act = nn.PReLU(16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.line = nn.Conv1d(8, 6, 3)
        self.volume = nn.Conv3d(6, 4, 1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.memory = nn.GRU(4, 3, batch_first=True)
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        x = self.up(self.act(self.norm(self.first(x)) * self.scale))
        x = self.volume(self.line(x.flatten(2))[..., None, None]).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x)[0]
        return self.last(self.memory(x)[0])


def mixed():
    torch.manual_seed(0)
    model = Mixed().eval()
    with torch.no_grad():
        model.first.weight[[2, 3, 6, 7, 8, 9]] = 0
        model.first.bias.zero_()
        model.up.weight[:, [1, 4]] = 0
        model.line.weight[2] = 0
    return model


def test_every_layer_with_weights_is_in_the_table_with_a_reason_if_it_is_not_packed():
    model = mixed()
    plan = planned(model)
    rows = {row.name: row for row in plan.rows}
    wanted = {"first", "up", "line", "volume", "attention", "attention.out_proj", "memory", "last"}
    assert rows.keys() == wanted
    # Three whole groups went.
    assert rows["up"].left[:2] == (10, 6) and rows["line"].left[:2] == (5, 6)
    for name, words in (
        ("volume", "no kernel here packs a Conv3d"),
        ("attention", "no weight of it is zero"),
        ("attention.out_proj", "no mask"),
        ("memory", "runs a GRU as one operation"),
    ):
        assert words in rows[name].reason and name in str(plan)
    assert {row["name"] for row in plan.as_data()["layers"]} == wanted


def test_what_lost_channels_is_applied_saved_and_loaded(tmp_path):
    model = mixed()
    fast = planned(model).apply(model)
    assert fast.up.in_channels < 16 and fast.norm.num_channels == fast.act.num_parameters < 16
    assert fast.scale.shape == (fast.norm.num_channels, 1, 1) and fast.line.out_channels == 5
    so.save(fast, tmp_path / "x.safetensors")
    loaded = so.load(tmp_path / "x.safetensors", Mixed().eval())
    for x in (EXAMPLE, torch.randn(3, 3, 6, 10)):
        with torch.no_grad():
            expected = copy.deepcopy(model).double()(x.double()).float()
            torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(loaded(x), fast(x))


NORMS = {
    "weight norm": weight_norm,
    "spectral norm": spectral_norm,
    "parametrized weight norm": parametrizations.weight_norm,
    "parametrized spectral norm": parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("name", NORMS)
def test_norms_of_weights_are_folded_for_inference(name):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3), nn.Conv2d(6, 4, 1)
    with torch.no_grad():
        layers[0].weight[[1, 5]] = 0
        layers[0].bias[[1, 5]] = 0
        layers[2].weight[torch.rand(layers[2].weight.shape) < 0.5] = 0
        if "weight norm" in name:
            # Rows of length zero have no direction.
            layers[0].weight[[1, 5]] = 1e-3
    model = nn.Sequential(*[NORMS[name](layer) for layer in layers])
    model(EXAMPLE)
    model.eval()
    if "weight norm" in name:
        with torch.no_grad():
            length = layers[0].parametrizations.weight.original0 if "param" in name else None
            (layers[0].weight_g if length is None else length)[[1, 5]] = 0
    before = copy.deepcopy(model.state_dict())
    plan = planned(model)
    assert [row.name for row in plan.rows] == ["0", "1", "2"]
    fast = plan.apply(model)
    assert fast[0].weight.shape[0] == 6 and isinstance(fast[1].weight, nn.Parameter)
    assert not fast[1]._forward_pre_hooks
    with torch.no_grad():
        for x in (EXAMPLE, torch.randn(3, 3, 12, 9)):
            exact = copied(model).double()(x.double()).float()
            torch.testing.assert_close(fast(x), exact, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_mask_of_a_layer_that_nothing_packs_is_applied():
    model = mixed()
    mask = torch.rand(model.volume.weight.shape) < 0.3
    masks = {"volume.weight": mask}
    fast = so.plan(model, EXAMPLE, masks, measure=says(2.0), progress=False).apply(model)
    with torch.no_grad():
        model.volume.weight.masked_fill_(~mask, 0)
        torch.testing.assert_close(fast(EXAMPLE), model(EXAMPLE))
