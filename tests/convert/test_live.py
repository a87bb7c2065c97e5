"""What happens to a converted model afterwards: it stays the function that its modules are."""

import copy
import types

import pytest
import torch
import torch.distributed
from torch import fx, nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.program.model import Programs, programs_of
from tests.convert.planning import planned


class Net(nn.Module):
    """Asks its modules for many things when it runs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(0.1))
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout()
        self.fc = nn.Linear(8, 5)
        self.divisor, self.features, self.table = 1.0, False, {"shift": [0.0, 1.0]}
        self.settings = types.SimpleNamespace(scale=1.0)

    def forward(self, x):
        x = self.norm(F.max_pool2d(self.blocks(torch.relu(self.stem(x))), 2))
        if self.features:
            return x
        x = self.fc(self.drop(self.pooled(x)))
        return x / self.divisor * self.settings.scale + self.table["shift"][0]

    def pooled(self, x):
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def pair():
    """(a model, what it was converted to)."""
    torch.manual_seed(0)
    model = Net().eval()
    for weight in so.masks.weights(model).values():
        weight.mul_(torch.rand_like(weight) > 0.6)
    return model, planned(model, example=torch.randn(2, 3, 8, 8)).apply(model)


def set_(name, value):
    """A change of an attribute, at the end of a dotted name."""

    def change(model):
        owner, _, last = name.rpartition(".")
        target = model.get_submodule(owner)
        setattr(target, last, copy.deepcopy(value))

    return change


def doubled(module):
    """Has this very module compute twice as much."""
    module.forward = lambda x: 2 * type(module).forward(module, x)


CHANGES = {
    "a number": set_("divisor", 2.0),
    "a flag": set_("features", True),
    "settings": lambda model: setattr(model.settings, "scale", 3.0),
    "a table": lambda model: model.table["shift"].__setitem__(0, 5.0),
    "what a layer is set to": set_("blocks.1.negative_slope", -20.0),
    "eps": set_("norm.eps", 1.0),
    "dropout on": lambda model: model.drop.train(),
    "statistics on": lambda model: model.norm.train(),
    "another head": set_("fc", nn.Linear(8, 3)),
    "no block": set_("blocks", nn.Identity()),
    "one block more": lambda model: model.blocks.append(nn.Tanh()),
    "another method": lambda model: setattr(model, "pooled", lambda x: x.amax((2, 3))),
    "another forward": lambda model: doubled(model.blocks[0]),
    "a hook": lambda model: model.blocks.register_forward_hook(lambda *given: 2 * given[-1]),
    "a pre-hook": lambda model: model.fc.register_forward_pre_hook(lambda m, x: (2 * x[0],)),
    "another weight": set_("fc.bias", nn.Parameter(torch.ones(5))),
}


def ran(model, x):
    """(what a model gives, whether programs ran)."""
    calls, own = [], Programs.__call__
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Programs, "__call__", lambda *args: (calls.append(1), own(*args))[1])
        torch.manual_seed(0)
        return model(x), bool(calls)


@pytest.mark.parametrize("copied", [False, True], ids=["itself", "a copy"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_converted_model_follows_changes_of_its_modules(pair, change, copied):
    model, fast = copy.deepcopy(pair)
    x = torch.randn(3, 3, 10, 10)
    before, as_program = ran(fast, x)
    assert as_program
    # A copy that was not called yet has to know how it was planned, too.
    fast = copy.deepcopy(fast) if copied else fast
    CHANGES[change](model)
    CHANGES[change](fast)
    after, expected = ran(fast, x)[0], ran(model, x)[0]
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    assert before.shape != expected.shape or not torch.allclose(before, expected, atol=1e-3)


def test_what_no_forward_asks_for_may_change(pair):
    fast = copy.deepcopy(pair[1])
    for module in fast.modules():
        module.name = "mine"
    assert ran(fast, torch.randn(2, 3, 8, 8))[1]
    fast.divisor = 2.0
    assert not ran(fast, torch.randn(2, 3, 8, 8))[1]
    fast.divisor = 1.0
    assert ran(fast, torch.randn(2, 3, 8, 8))[1]


def test_a_changed_class_is_noticed(pair, monkeypatch):
    model, fast = pair
    monkeypatch.setattr(Net, "pooled", lambda self, x: x.amax((2, 3)))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ran(fast, x)[0], ran(model, x)[0], rtol=1e-4, atol=1e-5)


def test_hooks_on_all_modules_are_called(pair):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        ran(pair[1], torch.randn(2, 3, 8, 8))
    finally:
        handle.remove()
    assert nn.LeakyReLU in seen and Net in seen


def test_a_changed_model_is_not_saved_as_the_program_that_it_was(pair, tmp_path):
    model, fast = copy.deepcopy(pair)
    x = torch.randn(2, 3, 8, 8)
    fast.divisor = model.divisor = 2.0
    so.save(fast, tmp_path / "changed")
    with pytest.raises(ValueError, match="model= is needed"):
        so.load(tmp_path / "changed")
    again = so.load(tmp_path / "changed", model)
    torch.testing.assert_close(ran(again, x)[0], ran(model, x)[0], rtol=1e-4, atol=1e-5)
    assert ran(again, x)[1]


def test_calls_by_keyword_are_programs_too(pair):
    x = torch.randn(2, 3, 8, 8)
    calls, own = [], Programs.__call__
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Programs, "__call__", lambda *args: (calls.append(1), own(*args))[1])
        assert torch.equal(pair[1](x=x), pair[1](x))
    assert len(calls) == 2


def test_vmap_sees_one_model(pair):
    model, fast = pair
    x = torch.randn(3, 2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(fast)(x), torch.vmap(model)(x), rtol=1e-4, atol=1e-5)


def test_functional_call_uses_the_tensors_that_it_is_given(pair):
    fast, x = copy.deepcopy(pair[1]), torch.randn(2, 3, 8, 8)
    other = {name: 2 * held for name, held in fast.named_parameters()}
    with torch.no_grad():
        given = torch.func.functional_call(fast, other, (x,))
        before = fast(x)
        for parameter in fast.parameters():
            parameter.mul_(2)
        torch.testing.assert_close(given, fast(x))
    assert not torch.allclose(given, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_those_of_the_dense_model(pair, dtype):
    model, fast = (each.to(dtype) for each in copy.deepcopy(pair))
    x = torch.randn(2, 3, 8, 8)
    given, as_program = ran(fast, x.to(dtype))
    assert given.dtype is dtype and not as_program
    expected = ran(model, x.to(dtype))[0]
    torch.testing.assert_close(given.float(), expected.float(), rtol=0.1, atol=0.1)
    assert ran(fast.float(), x)[1]


def _worker(fast, x, expected, good):
    torch.set_num_threads(1)
    with torch.no_grad():
        good.value = torch.allclose(fast(x), expected, rtol=1e-4, atol=1e-5)


def test_processes_that_are_forked_run_it(pair):
    model, fast = copy.deepcopy(pair)
    threads = torch.get_num_threads()
    # Threads of OpenMP do not outlive a fork, of torch's own no more than of ours.
    torch.set_num_threads(1)
    try:
        x = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            fast.share_memory()(x)
            expected = model(x)
        context = torch.multiprocessing.get_context("fork")
        good = context.Value("b", False)
        process = context.Process(target=_worker, args=(fast, x, expected, good))
        process.start()
        process.join(60)
    finally:
        torch.set_num_threads(threads)
    assert process.exitcode == 0 and good.value


@pytest.mark.parametrize("threads", [1, 3])
def test_other_numbers_of_threads_are_taken_afterwards(pair, threads):
    model, fast = pair
    before, x = torch.get_num_threads(), torch.randn(5, 3, 8, 8)
    torch.set_num_threads(threads)
    try:
        given, as_program = ran(fast, x)
    finally:
        torch.set_num_threads(before)
    assert as_program
    torch.testing.assert_close(given, ran(model, x)[0], rtol=1e-4, atol=1e-5)


def test_double_is_refused_in_words(pair):
    fast = copy.deepcopy(pair[1]).double()
    with pytest.raises(RuntimeError, match=r"torch.float64, not float32.*so\.convert\.to_dense"):
        fast(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    dense = so.convert.to_dense(fast)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(dense(x.double()).float(), pair[0](x), rtol=1e-4, atol=1e-5)


class Features(torch.utils.data.Dataset):
    """What a model gives for each of some images."""

    def __init__(self, model, images):
        self.model, self.images = model, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        with torch.no_grad():
            return self.model(self.images[index : index + 1])[0]


def test_workers_of_a_loader_call_it(pair):
    model, fast = pair
    x = torch.randn(4, 3, 8, 8)
    loader = torch.utils.data.DataLoader(
        Features(fast, x), 2, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    given = torch.cat(list(loader))
    torch.testing.assert_close(given, ran(model, x)[0], rtol=1e-4, atol=1e-5)


@pytest.fixture
def one_process(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this torch was built without torch.distributed")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def ddp(model):
    return nn.parallel.DistributedDataParallel(model)


def fsdp(model, **options):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **options)


def fsdp_of_originals(model):
    return fsdp(model, use_orig_params=True)


def fsdp2(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


@pytest.mark.filterwarnings("ignore:.*NO_SHARD.*")
@pytest.mark.parametrize("wrap", [ddp, fsdp, fsdp_of_originals, fsdp2])
def test_wrappers_that_distribute_it_give_the_same(pair, one_process, wrap):
    model, fast = copy.deepcopy(pair)
    wrapped, x = wrap(fast), torch.randn(2, 3, 8, 8)
    # Parameters are taken away after a call, and brought again before the next.
    for _ in range(2):
        torch.testing.assert_close(ran(wrapped, x)[0], ran(model, x)[0], rtol=1e-4, atol=1e-5)


def test_tensors_that_are_no_parameters_any_more_are_left_to_the_model(pair):
    model, fast = copy.deepcopy(pair)
    for each in (model, fast):
        bias = each.fc.bias.detach() + 1
        del each.fc.bias
        each.fc.bias = bias
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ran(fast, x)[0], ran(model, x)[0], rtol=1e-4, atol=1e-5)


def test_anyone_s_tracer_takes_packed_layers_as_nodes(pair):
    model, fast = pair
    line = nn.Conv1d(3, 8, 3)
    packed = so.nn.CSRConv1d.from_dense(line, torch.ones(8, 3, 3).bool())
    signal = torch.randn(2, 3, 9)
    given = fx.symbolic_trace(nn.Sequential(packed))(signal)
    torch.testing.assert_close(given, line(signal), rtol=1e-4, atol=1e-5)
    traced, x = fx.symbolic_trace(fast), torch.randn(2, 3, 8, 8)
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    assert {"stem", "blocks.0", "fc"} <= called
    torch.testing.assert_close(ran(traced, x)[0], ran(model, x)[0], rtol=1e-4, atol=1e-5)


def test_the_model_keeps_its_shape(pair):
    model, fast = pair
    assert type(fast) is Net and len(fast.blocks) == 2 and type(fast.blocks[1]) is nn.LeakyReLU
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in model.named_modules()]
    assert programs_of(fast.blocks) is None
    x = torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(fast.pooled(x), model.pooled(x))
