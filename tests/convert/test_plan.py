import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import sparse_ops as so
from sparse_ops.planning import network
from sparse_ops.planning.layout import is_channels_last
from tests.convert.models import EXAMPLE, Net, masks_of_net, net, says
from tests.convert.planning import is_packed, masked, of_net, planned, row


def test_each_layer_becomes_the_most_regular_kind_that_its_mask_allows():
    plan = planned(net(), masks_of_net())
    assert [row(plan, n).becomes for n in ("stem", "periodic", "anything", "fc")] == [
        "ChannelPrunedConv2d",
        "PeriodicConv2d",
        "CSRConv2d",
        "CSRLinear",
    ]


def test_the_fast_model_equals_the_masked_one_and_the_given_model_is_left_alone():
    model, masks = net(), masks_of_net()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 3, 8, 8)
    fast = planned(model, masks).apply(model)
    torch.testing.assert_close(fast(x), masked(model, masks)(x), rtol=1e-5, atol=1e-5)
    assert type(model.periodic) is nn.Conv2d
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_masks_are_read_off_the_zeros_of_the_model():
    model, masks = net(), masks_of_net()
    so.masks.apply_(model, masks)
    plan = planned(model)
    assert row(plan, "periodic").nnz == int(masks["periodic.weight"].sum())
    assert row(plan, "plain").becomes is None


def test_nothing_is_replaced_where_dense_is_faster():
    model, masks = net(), masks_of_net()
    plan = planned(model, masks, ratio=0.8)
    assert not plan.packed
    assert "not surely faster" in row(plan, "fc").reason
    assert any("masked dense" in note for note in plan.notes)
    x = torch.randn(EXAMPLE)
    assert torch.equal(plan.apply(model)(x), masked(model, masks)(x))


def test_a_layer_that_is_faster_only_in_the_median_stays_dense():
    plan = planned(net(), masks_of_net(), ratio=1.05)
    assert not plan.packed


@pytest.fixture
def layer_by_layer(monkeypatch):
    """As on a GPU, or without compiled code: networks do not run as programs."""
    monkeypatch.setattr(network, "refuses", lambda context, graph: "not in this test")


def test_layers_go_back_to_dense_until_the_whole_model_is_faster(layer_by_layer):
    model, masks = net(), masks_of_net()
    wholes = []

    def measure(dense, packed, budget_s):
        packed()
        ratio = 2.0
        if is_packed(packed) and not is_packed(dense):
            ratio = 0.5 + 0.3 * len(wholes)
            wholes.append(ratio)
        return so.convert.Comparison(ratio, 1, ratio, 0.9 * ratio, ratio, 20)

    options = {"shrink": False, "progress": False}
    plan = so.plan(model, torch.randn(EXAMPLE), masks, measure=measure, **options)
    assert len(wholes) == 3 and len(plan.packed) == 2
    assert sum("whole model was not faster" in layer.reason for layer in plan.layers) == 2
    assert plan.whole.speedup > 1


def test_if_nothing_helps_the_answer_is_the_dense_model():
    def measure(dense, packed, budget_s):
        ratio = 0.5 if of_net(packed) else 2.0
        return so.convert.Comparison(ratio, 1, ratio, ratio, ratio, 20)

    model = net()
    plan = so.plan(model, torch.randn(EXAMPLE), masks_of_net(), measure=measure, progress=False)
    assert not plan.packed and plan.whole is None
    assert type(plan.apply(model).fc) is nn.Linear


def test_the_whole_model_has_to_beat_dense_in_channels_last_too(layer_by_layer):
    sides = []

    def measure(dense, packed, budget_s):
        sides.append((dense, packed))
        return so.convert.Comparison(2, 1, 2, 2, 2, 20)

    plan = so.plan(net(), torch.randn(EXAMPLE), masks_of_net(), measure=measure, progress=False)
    to_beat, packed = sides[-1]
    assert not is_packed(to_beat) and is_packed(packed)
    for side in (to_beat, packed):
        assert is_channels_last(side.func) and side().shape == (2, 10)
    assert plan.dense_forms.fastest == plan.packed_forms.fastest == "channels_last"
    assert "channels_last 1.000 ms" in str(plan)


def test_the_mode_of_the_model_is_kept():
    model, masks = net(), masks_of_net()
    assert not planned(model, masks).apply(model).training
    model.train()
    model.fc.eval()
    fast = planned(model, masks).apply(model)
    assert fast.training and fast.norm1.training and fast.periodic.training
    assert not fast.fc.training


def test_in_training_mode_nothing_is_folded_and_the_plan_says_so():
    model = net().train()
    plan = planned(model, masks_of_net())
    assert not plan.folding.batch_norms
    assert any("model.eval()" in note for note in plan.notes)
    assert type(plan.apply(model).norm1) is nn.BatchNorm2d


def test_a_plan_that_folds_is_not_applied_to_a_model_in_training_mode():
    model = net()
    plan = planned(model, masks_of_net())
    with pytest.raises(ValueError, match="eval"):
        plan.apply(model.train())


def test_batch_norms_and_activations_are_folded():
    model = net()
    plan = planned(model, masks_of_net())
    fast = plan.apply(model)
    assert plan.folding.batch_norms == {"stem": "norm1", "periodic": "norm2"}
    assert fast.periodic.activation == "relu6"
    assert fast.periodic.bias is not None
    assert isinstance(fast.norm2, nn.Identity) and isinstance(fast.relu2, nn.Identity)
    assert not planned(model, masks_of_net(), fold=False).folding.batch_norms


def test_a_model_that_cannot_be_traced_is_converted_layer_by_layer():
    class Branches(Net):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    model = Branches().eval()
    plan = planned(model, masks_of_net())
    assert any("cannot trace" in note for note in plan.notes)
    assert len(plan.packed) == 4
    plan.apply(model)


def test_an_activation_used_twice_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.SiLU()

        def forward(self, x):
            return self.act(self.b(self.act(self.a(x))))

    model = Twice().eval()
    masks = {"a.weight": torch.eye(4).bool(), "b.weight": torch.eye(4).bool()}
    plan = planned(model, masks, example=torch.randn(3, 4))
    assert not plan.folding.activations and len(plan.packed) == 2
    plan.apply(model)


def test_a_batch_norm_over_another_dimension_is_not_folded():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    mask = {"0.weight": torch.eye(4).bool()}
    assert not planned(model, mask, example=torch.randn(2, 4, 4)).folding.batch_norms
    assert planned(model, mask, example=torch.randn(2, 4)).folding.batch_norms


def test_pruned_and_parametrized_layers_are_made_plain():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    prune.l1_unstructured(model[0], "weight", 0.75)

    class Half(nn.Module):
        def forward(self, weight):
            return weight * (torch.arange(8) % 2)

    parametrize.register_parametrization(model[2], "weight", Half())
    x = torch.randn(3, 8)
    plan = planned(model, example=x)
    assert row(plan, "0").nnz == 16 and row(plan, "2").nnz == 32
    torch.testing.assert_close(plan.apply(model)(x), model(x))
    assert prune.is_pruned(model[0]) and parametrize.is_parametrized(model[2])


def test_a_weight_that_two_layers_share_stays_dense():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    plan = planned(model.eval(), {"0.weight": torch.eye(6).bool()}, example=torch.randn(2, 6))
    assert not plan.packed and "shares" in plan.layers[0].reason


def test_a_layer_that_stands_in_two_places_stays_dense():
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.ReLU(), layer).eval()
    plan = planned(model, {"0.weight": torch.eye(6).bool()}, example=torch.randn(2, 6))
    assert not plan.packed and "2 times" in plan.layers[0].reason


def test_a_layer_called_twice_is_packed_and_the_plan_says_so():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(self.fc(x))

    plan = planned(Twice().eval(), {"fc.weight": torch.eye(6).bool()}, example=torch.randn(2, 6))
    assert "called 2 times" in plan.layers[0].reason
    assert plan.layers[0].macs == 2 * 2 * 36


def test_a_layer_that_is_never_called_stays_dense():
    model = net()
    model.spare = nn.Linear(4, 4)
    plan = planned(model, {"spare.weight": torch.eye(4).bool()})
    assert "never called" in row(plan, "spare").reason


def test_the_projections_of_attention_are_replaced():
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(1, 3, 8)
    plan = planned(model, {"out_proj.weight": torch.eye(8).bool()}, example=(x, x, x))
    assert [row.name for row in plan.packed] == ["out_proj"]
    plan.apply(model.eval())(x, x, x)


def test_a_layer_whose_weight_the_model_reads_itself_stays_dense():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return nn.functional.linear(self.b(self.a(x)), self.a.weight)

    masks = {"a.weight": torch.eye(6).bool(), "b.weight": torch.eye(6).bool()}
    plan = planned(Reads().eval(), masks, example=torch.randn(2, 6))
    assert [layer.becomes for layer in plan.layers] == [None, "CSRLinear"]
    assert "fails with the packed layer" in plan.layers[0].reason


def test_a_layer_with_hooks_stays_dense():
    model = net()
    model.fc.register_forward_hook(lambda *_: None)
    assert "hooks" in row(planned(model, masks_of_net()), "fc").reason


def test_a_layer_with_no_weight_left_stays_dense_and_is_exact():
    model, masks = net(), masks_of_net()
    masks["fc.weight"][:] = False
    plan = planned(model, masks)
    assert "no weight is left" in row(plan, "fc").reason
    x = torch.randn(EXAMPLE)
    assert torch.allclose(plan.apply(model)(x), model.fc.bias.expand(2, 10))


def test_a_model_that_is_one_layer_becomes_one_packed_layer():
    dense = nn.Linear(8, 8)
    plan = planned(dense, {"weight": torch.eye(8).bool()}, example=torch.randn(2, 8))
    assert isinstance(plan.apply(dense), so.nn.CSRLinear)


def test_the_plan_applies_to_other_weights_of_the_same_architecture():
    plan = planned(net(), masks_of_net())
    other = net()
    x = torch.randn(EXAMPLE)
    want = masked(other, plan.masks)(x)
    torch.testing.assert_close(plan.apply(other)(x), want, rtol=1e-5, atol=1e-5)


def test_the_plan_is_not_applied_to_another_architecture():
    plan = planned(net(), masks_of_net())
    with pytest.raises(ValueError, match="not here"):
        plan.apply(nn.Linear(3, 3))
    other = net()
    other.fc = nn.Linear(12, 9)
    with pytest.raises(ValueError, match="fc must be"):
        plan.apply(other)


def test_the_plan_prints_as_a_table_and_writes_json():
    plan = planned(net(), masks_of_net())
    text = str(plan)
    assert text.startswith("2.0× faster: ") and "whole model" in text and "\x1b" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("periodic "))
    assert "16×8×3×3" in line and " periodic" in line[8:]
    data = json.loads(plan.to_json())
    assert {layer["name"] for layer in data["layers"]} >= {"stem", "fc"}
    assert data["whole"]["speedup"] == 2.0


def test_sparsify_is_plan_and_apply():
    model, masks = net(), masks_of_net()
    fast = so.sparsify(model, torch.randn(EXAMPLE), masks, measure=says(2.0), progress=False)
    assert isinstance(fast.periodic, so.nn.PeriodicConv2d)
