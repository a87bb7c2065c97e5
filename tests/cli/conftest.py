"""Files and images that the commands are given."""

import pytest
import torch

import sparse_ops as so
from sparse_ops.data import Dataset, Split
from sparse_ops.models import lenet300


@pytest.fixture
def checkpoint(tmp_path):
    """A pruned LeNet-300-100 as a state dict."""
    model = lenet300()
    scores = {name: w.abs() for name, w in so.masks.prunable(model).items()}
    so.masks.apply_(model, so.masks.keep_largest(scores, 8000))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def packed(tmp_path):
    """The same, packed."""
    model = lenet300().eval()
    model.fc1 = so.nn.CSRLinear.from_dense(model.fc1, torch.rand(300, 784) > 0.98)
    so.save(model, tmp_path / "packed.safetensors")
    return tmp_path / "packed.safetensors"


@pytest.fixture
def few(monkeypatch):
    """Every data set is 128 + 32 images of the one that comes with the package."""
    whole = so.data.load("fashion-mnist-subset")
    sizes = ((whole.train, 128), (whole.test, 32))
    some = Dataset(
        whole.name, *(Split(s.images[:n], s.labels[:n]) for s, n in sizes), whole.classes
    )
    monkeypatch.setattr(so.data, "load", lambda *_: some)
    return some
