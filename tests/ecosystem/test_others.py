"""Other people's tools on a converted model."""

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.program.model import programs_of
from tests.convert.planning import planned
from tests.ecosystem.networks import torchvision


def small(width):
    net = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 4, 3))
    for weight in so.masks.weights(net).values():
        weight.mul_(torch.rand_like(weight) > 0.6)
    return net.eval()


def test_features_are_extracted_from_a_converted_model():
    torchvision()
    from torchvision.models.feature_extraction import create_feature_extractor

    model, x = small(8), torch.randn(2, 3, 9, 9)
    fast = planned(model, example=x).apply(model)
    given, expected = (create_feature_extractor(each, ["1", "2"])(x) for each in (fast, model))
    assert given.keys() == expected.keys()
    for name in given:
        torch.testing.assert_close(given[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_converted_model_goes_to_a_repository_and_back(tmp_path):
    pytest.importorskip("huggingface_hub", reason='needs the extra "hub": huggingface_hub')

    class Net(nn.Module, so.hub.HubModel):
        def __init__(self, width=3):
            super().__init__()
            self.net = small(width)

        def forward(self, x):
            return self.net(x)

    model, x = Net(width=8).eval(), torch.randn(2, 3, 9, 9)
    fast = planned(model, example=x).apply(model)
    fast.save_pretrained(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} >= {"packed.safetensors", "config.json"}
    again = Net.from_pretrained(tmp_path)
    assert programs_of(again) is not None
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_model_can_be_pushed_without_a_network(tmp_path, monkeypatch):
    """What would be uploaded, and what is fetched, is the one file that `so.save` wrote."""
    hub = pytest.importorskip("huggingface_hub", reason='needs the extra "hub": huggingface_hub')
    asked = []

    class Net(nn.Module, so.hub.HubModel):
        def __init__(self):
            super().__init__()
            self.net = small(8)

        def forward(self, x):
            return self.net(x)

    model, x = Net().eval(), torch.randn(2, 3, 9, 9)
    so.save(planned(model, example=x).apply(model), tmp_path / so.hub.FILE)

    def download(repository, file, **options):
        asked.append((repository, file, options.get("revision")))
        return str(tmp_path / file)

    monkeypatch.setattr(so.hub, "hf_hub_download", download)
    monkeypatch.setattr(hub.hub_mixin, "hf_hub_download", download)
    again = Net._from_pretrained(model_id="me/net", revision="v1")
    assert asked == [("me/net", "packed.safetensors", "v1")]
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)


def test_stochastic_depth_is_in_nobody_s_way_in_eval_mode():
    torchvision()
    from torchvision.ops import StochasticDepth

    from sparse_ops.graph.capture import capture

    net = nn.Sequential(nn.Conv2d(3, 4, 3), StochasticDepth(0.5, "row"), nn.Conv2d(4, 4, 3)).eval()
    x = (torch.randn(2, 3, 8, 8),)
    assert [node.op for node in capture(net, x).nodes] == ["conv2d", "conv2d"]
    net[1].train()
    assert [node.op for node in capture(net, x).nodes] == ["conv2d", "call", "conv2d"]
