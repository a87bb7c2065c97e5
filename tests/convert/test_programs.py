"""Converted models that run as programs: in what calls, on what weights, and what else they do."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.program.model import programs_of
from sparse_ops.program.segments import Segment
from tests.convert.models import says
from tests.convert.small_networks import MODELS, SIZE, assert_same, images, masks_of, model_of


def fast_and_dense(kind, batch=16, ratio=2.0, **options):
    """A converted model and the masked one."""
    torch.manual_seed(0)
    model = model_of(kind)
    masks = masks_of(model)
    plan = so.plan(model, images(batch), masks, measure=says(ratio), progress=False, **options)
    dense = copy.deepcopy(model)
    so.masks.apply_(dense, masks)
    return plan.apply(model), dense


def ran(fast, *x):
    """(what a model gives, how many programs that took)."""
    count = 0
    called = Segment.__call__

    def counted(self, *given):
        nonlocal count
        count += 1
        return called(self, *given)

    Segment.__call__ = counted
    try:
        return fast(*x), count
    finally:
        Segment.__call__ = called


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("planned", [1, 16])
def test_every_batch_and_image_size_gives_what_the_dense_model_gives(kind, planned):
    fast, dense = fast_and_dense(kind, planned)
    assert programs_of(fast) is not None and type(fast) is type(dense)
    for batch in (1, 3, 16, 17, 33):
        with torch.no_grad():
            y, programs = ran(fast, x := images(batch))
            assert_same(y, dense(x))
        assert programs >= 1
    with torch.no_grad():
        if kind.__name__ in ("Branches", "Twice", "Gates"):
            x = torch.randn(2, SIZE[0], SIZE[1] + 4, SIZE[2] + 2)
            assert_same(fast(x), dense(x))


def test_a_network_without_strangers_is_one_program():
    fast, _ = fast_and_dense(MODELS[0])
    with torch.no_grad():
        assert ran(fast, images())[1] == 1
        assert ran(fast, images(2))[1] == 1


CALLS = {
    "gradients": lambda fast, x: fast(x),
    "training": lambda fast, x: fast.train()(x),
    "autocast": lambda fast, x: fast(x),
    "bfloat16": lambda fast, x: fast.bfloat16()(x.bfloat16()),
    "a submodule's hook": lambda fast, x: fast(x),
}


@pytest.mark.parametrize("case", CALLS)
def test_other_calls_run_the_models_own_forward(case):
    fast, dense = fast_and_dense(MODELS[0])
    x, seen = images(), []
    if case == "a submodule's hook":
        with torch.no_grad():
            fast(x)
        fast.pool.register_forward_hook(lambda *_: seen.append(1))
    with torch.set_grad_enabled(case == "gradients"):
        if case == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                y, programs = ran(lambda x: CALLS[case](fast, x), x)
        else:
            y, programs = ran(lambda x: CALLS[case](fast, x), x)
    assert programs == 0 and bool(seen) is (case == "a submodule's hook")
    if case not in ("autocast", "training", "bfloat16"):
        assert_same(y.float(), dense(x))


def test_hooks_of_the_model_itself_are_called():
    fast, dense = fast_and_dense(MODELS[0])
    fast.register_forward_hook(lambda module, inputs, output: output * 2)
    fast.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    with torch.no_grad():
        y, programs = ran(fast, x := images())
        assert programs == 1
        assert_same(y, 2 * dense(x + 1))


def test_programs_follow_the_weights_of_the_model():
    fast, _ = fast_and_dense(MODELS[0])
    x = images()
    with torch.no_grad():
        before = fast(x)
    loss = fast(x).square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in fast.parameters():
            if parameter.grad is not None:
                parameter -= 0.5 * parameter.grad
        after, programs = ran(fast, x)
        assert programs == 1 and not torch.allclose(before, after)
        own = type(fast).forward(fast, x)
        assert_same(after, own)
        # Other tensors, not only other numbers.
        fast.fc.bias = nn.Parameter(fast.fc.bias + 1)
        assert_same(fast(x), own + 1)
        fast.load_state_dict({k: torch.zeros_like(v) if "bias" in k else v
                              for k, v in fast.state_dict().items()})  # fmt: skip
        assert_same(fast(x), type(fast).forward(fast, x))


def test_copies_and_pickles_have_weights_of_their_own():
    fast, _ = fast_and_dense(MODELS[0])
    x = images()
    with torch.no_grad():
        expected = fast(x)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert_same(other(x), expected)
            for parameter in other.parameters():
                parameter.zero_()
            assert_same(other(x), torch.zeros_like(expected))
        assert torch.equal(fast(x), expected)


def test_many_threads_at_once_with_changing_batches():
    fast, _ = fast_and_dense(MODELS[0])
    inputs = [images(batch) for batch in (1, 5, 16, 17)]
    with torch.no_grad():
        expected = [fast(x) for x in inputs]

    def run(number):
        with torch.inference_mode():
            return torch.equal(fast(inputs[number % 4]), expected[number % 4])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(200)))


def test_a_file_keeps_how_the_model_runs(tmp_path):
    for kind in MODELS:
        fast, dense = fast_and_dense(kind)
        so.save(fast, tmp_path / "fast.safetensors")
        again = so.load(tmp_path / "fast.safetensors", model_of(kind))
        assert programs_of(again).route == programs_of(fast).route
        with torch.no_grad():
            for batch in (1, 16):
                x = images(batch)
                for ours, theirs in zip(*map(_leaves, (again(x), fast(x))), strict=True):
                    assert torch.equal(ours, theirs)
        assert type(again) is type(dense)


def _leaves(output):
    return torch.utils._pytree.tree_leaves(output)


class Noisy(nn.Module):
    """A flag at call time, dropout that asks for the mode, a divisor of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.divisor = 2.0

    def forward(self, x):
        x = F.dropout(F.relu(self.a(x)), 0.5, training=self.training)
        return self.b(x)

    def features(self, x):
        return self.a(x)


def test_the_class_its_methods_and_modes_stay_alive():
    fast, dense = fast_and_dense(Noisy)
    x = images()
    assert isinstance(fast, Noisy)
    assert_same(fast.features(x), dense.features(x))
    fast.train()
    torch.manual_seed(1)
    one = fast(x)
    assert not torch.equal(one, fast(x)), "dropout draws in training mode"
    with torch.no_grad():
        assert_same(fast.eval()(x), dense(x))


@pytest.mark.parametrize("budget_s", [0.5, 3.0])
def test_with_our_own_clock_it_is_equal_and_planned_in_time(budget_s, monkeypatch):
    monkeypatch.setenv("SPARSE_OPS_CACHE", "off")
    torch.manual_seed(0)
    model = model_of(MODELS[0])
    masks = masks_of(model)
    plan = so.plan(model, images(), masks, budget_s=budget_s, compile=False, progress=False)
    dense = copy.deepcopy(model)
    so.masks.apply_(dense, masks)
    with torch.no_grad():
        assert_same(plan.apply(model)(x := images()), dense(x))


class Added(nn.Module):
    """Adds a parameter as large as the images."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.place = nn.Parameter(torch.randn(1, 8, *SIZE[1:]))

    def forward(self, x):
        return self.b(F.relu(self.a(x) + self.place))


class Asks(nn.Module):
    """Does something else when it is traced."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        y = self.a(x)
        return self.b(y.relu() if isinstance(y, torch.Tensor) else y)


class Remembers(nn.Module):
    """Keeps its last activation, and uses it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.last = None

    def forward(self, x):
        y = torch.relu(self.a(x))
        self.last = y if self.last is None else 0.5 * self.last + 0.5 * y
        return self.b(self.last)


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.b(input=self.a(input=x).relu())


@pytest.mark.parametrize("kind", [Added, Asks, Remembers, ByName])
@pytest.mark.parametrize("batch", [1, 16])
def test_odd_forwards_are_converted_right_or_left_alone(kind, batch):
    fast, dense = fast_and_dense(kind, batch)
    with torch.no_grad():
        for count in (batch, 4):
            if kind is not Remembers or count == batch:
                x = images(count)
                for _ in range(2):
                    assert_same(fast(x), dense(x))


def test_under_autocast_a_model_is_planned_as_without():
    with torch.autocast("cpu", torch.bfloat16):
        fast, dense = fast_and_dense(MODELS[0])
    with torch.no_grad():
        assert_same(fast(x := images()), dense(x))


def test_what_is_planned_or_loaded_in_inference_mode_can_be_trained(tmp_path):
    torch.manual_seed(0)
    model = model_of(MODELS[0])
    so.masks.apply_(model, masks_of(model))
    with torch.inference_mode():
        x = images()
        fast = so.plan(model, x, measure=says(2.0), progress=False).apply(model)
        assert_same(fast(x), model(x))
        so.save(fast, tmp_path / "fast.safetensors")
        loaded = so.load(tmp_path / "fast.safetensors", model)
        assert_same(loaded(x), model(x))
    for trained in (fast, loaded):
        trained.train()(images()).sum().backward()
        assert all(p.grad is not None for p in trained.parameters())


def test_a_channel_pruned_layer_that_was_there_is_a_step(tmp_path):
    torch.manual_seed(0)
    model = model_of(MODELS[0])
    name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    mask = torch.ones_like(conv.weight, dtype=torch.bool)
    mask[1::3], mask[:, -1] = False, False
    model.set_submodule(name, so.ChannelPrunedConv2d.from_dense(conv, mask))
    masks = {n: m for n, m in masks_of(model).items() if n != f"{name}.values"}
    plan = so.plan(model, images(16), masks, measure=says(2.0), progress=False)
    fast = plan.apply(model)
    so.masks.apply_(model, masks)
    so.save(fast, tmp_path / "fast.safetensors")
    alone = so.load(tmp_path / "fast.safetensors")
    with torch.no_grad():
        for x in (images(1), images(16)):
            assert_same(fast(x), model(x))
            assert_same(alone(x), model(x))
        for each in (fast, model):
            each.get_submodule(name).values.mul_(2)
        assert_same(fast(x), model(x))


@pytest.mark.parametrize("slopes", [1, 8])
def test_prelu_is_a_step_or_a_part_of_one(slopes, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(slopes), nn.Conv2d(8, 4, 3)).eval()
    nn.init.uniform_(model[1].weight, -1, 1)
    mask = torch.rand(4, 8, 3, 3) > 0.5
    x = torch.randn(16, 3, 9, 8)
    plan = so.plan(model, x, {"2.weight": mask}, measure=says(2.0), progress=False)
    fast = plan.apply(model)
    so.masks.apply_(model, {"2.weight": mask})
    with torch.no_grad():
        y, programs = ran(fast, x)
        assert programs == 1
        assert_same(y, model(x))
        (segment, *_) = programs_of(fast).whole(fast)
        kinds = [step.kind for step in segment.program.steps]
        assert kinds.count("prelu") == (slopes > 1) and kinds.count("conv") == 2
        so.save(fast, tmp_path / "fast.safetensors")
        alone = so.load(tmp_path / "fast.safetensors")
        assert_same(alone(x), y)
        for each in (fast, model, alone):
            each.get_submodule("1").weight.neg_()
        assert_same(fast(x), model(x))
        assert_same(alone(x), model(x))
        for each in (fast, model):
            each[1].weight.data.mul_(0.5)
        assert_same(fast(x), model(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.data.mul_(2),
        lambda p: p.data.copy_(torch.rand_like(p)),
        lambda p: setattr(p, "data", torch.rand_like(p)),
    ],
    ids=["written to", "copied to", "exchanged"],
)
def test_what_is_changed_through_data_is_noticed(change):
    fast, _ = fast_and_dense(MODELS[0])
    x = images()
    with torch.no_grad():
        before = fast(x)
        for parameter in fast.parameters():
            change(parameter)
        after = fast(x)
        # Node by node, on what the tensors hold now.
        with torch.enable_grad():
            expected = fast(x).detach()
        assert not torch.allclose(before, after)
        assert_same(after, expected)
        assert torch.equal(fast(x), after)


class Closed(nn.Module):
    """Calls its layer through a function that was made with the model."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.run = lambda x: self.a(x)

    def forward(self, x):
        return self.b(self.run(x))


def test_a_model_whose_functions_hold_its_layers_is_refused_in_words():
    with pytest.raises(ValueError, match="holds on to its modules"):
        fast_and_dense(Closed)
