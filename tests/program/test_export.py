"""torch.compile, torch.export and AOTInductor take a network that is a program as one call."""

import shutil

import pytest
import torch

import sparse_ops as so
from sparse_ops.ops import _native
from tests.convert.small_networks import Gates, Residual, Vgg, assert_same, images
from tests.program.converted import ORDERS, converted

pytestmark = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))


def calls(graph):
    """The calls of operators in a graph, but for what takes outputs out of lists."""
    names = [str(node.target) for node in graph.nodes if node.op.startswith("call_")]
    return [name for name in names if "getitem" not in name]


def assert_one_call(graph, count=1):
    found = calls(graph)
    assert len(found) == count and all("run_program" in name for name in found), found


@pytest.fixture(params=["by class", "from a file"])
def network(request, tmp_path):
    """A converted model, and the same loaded without its class."""
    fast = converted(Residual)
    if request.param == "by class":
        return fast
    so.save(fast, tmp_path / "x")
    return so.load(tmp_path / "x")


@pytest.fixture
def graphs():
    """What torch.compile took, and a backend that takes it."""
    torch.compiler.reset()
    return []


def taking(graphs):
    def backend(module, example):
        graphs.append(module.graph)
        return module.forward

    return backend


@torch.no_grad()
def test_torch_compile_takes_it_as_one_call(network, graphs):
    x = images()
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend=taking(graphs), dynamic=False)
    assert torch.equal(compiled(x), expected)
    assert len(graphs) == 1
    assert_one_call(graphs[0])
    # The graph reads the model's own weights; the call makes what follows from them anew.
    network.get_parameter("stem.weight").mul_(2)
    network.get_buffer("norm.running_mean").add_(1)
    changed = network(x)
    assert torch.equal(compiled(x), changed) and not torch.equal(changed, expected)


@torch.no_grad()
def test_torch_export_takes_it_as_one_call_without_copies_of_weights(network):
    x = images()
    exported = torch.export.export(network, (x,))
    assert_one_call(exported.graph)
    assert not exported.constants.keys() - set(dict(network.named_buffers()))
    assert exported.state_dict.keys() >= network.state_dict().keys()
    assert torch.equal(exported.module()(x), network(x))


@torch.no_grad()
def test_the_batch_may_be_dynamic(network):
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(network, (images(),), dynamic_shapes=({0: batch},))
    assert_one_call(exported.graph)
    for count in (2, 5, 33):
        x = images(count)
        assert_same(exported.module()(x), network(x))


@torch.no_grad()
@pytest.mark.parametrize("kind", [Vgg, Gates])
def test_blocks_of_images_and_several_programs_are_exported(kind):
    fast, x = converted(kind, ORDERS["images"], piece=16), images(32)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(fast, (x,), dynamic_shapes=({0: batch},))
    names = calls(exported.graph)
    assert sum("run_program" in name for name in names) == (1 if kind is Vgg else 2)
    assert not exported.constants.keys() - set(dict(fast.named_buffers()))
    for x in (images(32), images(3)):
        assert_same(exported.module()(x), fast(x))


@torch.no_grad()
def test_an_exported_model_has_the_weights_of_its_export(tmp_path):
    fast, x = converted(Residual), images()
    expected = fast(x)
    torch.export.save(torch.export.export(fast, (x,)), tmp_path / "x.pt2")
    fast.fc.bias.add_(1)
    assert torch.equal(torch.export.load(tmp_path / "x.pt2").module()(x), expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@torch.no_grad()
def test_aot_inductor_packages_it(network, tmp_path):
    x = images()
    exported = torch.export.export(network, (x,))
    package = torch._inductor.aoti_compile_and_package(
        exported, package_path=str(tmp_path / "x.pt2")
    )
    assert torch.equal(torch._inductor.aoti_load_package(package)(x), network(x))
