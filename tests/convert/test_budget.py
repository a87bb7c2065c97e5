"""What planning leaves out where calls of the model are slow, and that it computes no less."""

import time

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.graph.inputs import bound
from sparse_ops.graph.ir import Graph
from sparse_ops.ops._program_code import PLANAR
from sparse_ops.planning import deciding, search, verify_model
from sparse_ops.planning.context import Context
from sparse_ops.planning.costs import Costs
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.differences import Mismatch
from sparse_ops.planning.fold import Folding
from sparse_ops.planning.images import FEW, few_images, first_images, images_of, times_over
from sparse_ops.planning.layer_rows import row_of
from sparse_ops.planning.masked import prunable_layers, watch
from sparse_ops.planning.measure import Comparison, compare
from sparse_ops.planning.verify_model import Reference, check_block
from tests.convert.planning import planned

X = torch.randn(16, 8)


slept = [0.0]


@torch.library.custom_op("sparse_ops_tests::rest", mutates_args=())
def rest(x: torch.Tensor, seconds: float) -> torch.Tensor:
    """Takes so long for each image."""
    time.sleep(seconds * len(x))
    slept[0] += seconds * len(x)
    return x.clone()


class Slow(nn.Module):
    """Three layers, two of them alike, whose images take long."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 4)
        with torch.no_grad():
            for layer in self.children():
                layer.weight.mul_(torch.rand(layer.weight.shape) > 0.5)

    def forward(self, x):
        x = rest(x, self.seconds)
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Slow().eval()


def context_of(model, call_s=0.0, **options):
    masks = so.masks.from_zeros(model)
    own = Context(model, model, masks, (X,), Folding(), compare, 10.0, call_s=call_s, **options)
    rows = [row_of(name, m, masks, None) for name, m in prunable_layers(model).items()]
    return own, rows, watch(model, prunable_layers(model), (X,))


@pytest.mark.parametrize("fold", [True, False], ids=["as programs", "layer by layer"])
def test_slow_models_are_planned_within_the_budget(fold):
    torch.manual_seed(0)
    # What planning cannot do without is a good half of that, however slow the machine is.
    model, budget_s = Slow(0.004).eval(), 3.0
    call_s = 0.004 * len(X)
    slept[0] = 0.0
    plan = so.plan(model, X, budget_s=budget_s, compile=False, progress=False, fold=fold)
    assert slept[0] <= 1.2 * budget_s + call_s
    assert torch.allclose(plan.apply(model)(X), model(X), atol=1e-5)


def test_parts_of_an_example_are_images_that_go_together():
    x, scale = torch.randn(5, 3, 4, 4), torch.tensor(2.0)
    few = first_images((x, scale, 7), 2)
    assert few[0].equal(x[:2]) and few[1] is scale and few[2] == 7
    assert times_over(few, 3)[0].equal(torch.cat([x[:2]] * 3))
    # No more than there are; two batches; tensors in lists.
    for example in ((x[:2],), (x, x[:3]), (x, [x])):
        assert first_images(example, 2) is example
    assert (images_of((x, scale)), images_of((x, x[:3]))) == (5, 1)

    def forward(x, *, scale):
        return x * scale

    module = nn.Module()
    module.forward = forward
    assert first_images(bound(module, (x,), {"scale": x}), 2).names == ("scale",)


def test_a_model_for_one_batch_is_compared_on_all_of_it():
    class OneBatch(nn.Module):
        def forward(self, x):
            return x.view(16, 8) * 2

    class Any(nn.Module):
        def forward(self, x):
            return x * 2

    assert few_images(OneBatch(), (X,))[0] is X and len(few_images(Any(), (X,))[0]) == FEW


@pytest.mark.parametrize("place", [0, 7, 15])
def test_one_wrong_image_of_a_block_is_found(place):
    class Wrong(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            y = self.model(x).clone()
            if len(x) > place:
                y[place] += 0.1
            return y

    model = Slow().eval()
    known = Reference(model, few_images(model, (X,)))
    check_block(known, model, (X,))
    with pytest.raises(Mismatch):
        check_block(known, Wrong(model), (X,))


def test_what_dense_gives_is_worked_out_once(monkeypatch):
    def again(*_):
        raise AssertionError("the float64 reference was worked out anew")

    model = Slow().eval()
    monkeypatch.setattr(verify_model, "check_model", again)
    # A batch of a few images, and a larger one.
    for example in (X[:FEW], X):
        check_block(Reference(model, few_images(model, (example,))), model, (example,))


def test_images_that_see_each_other_are_compared_all_together():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x[:1] - x.cumsum(0)

    model = Centred()
    known = Reference(model, few_images(model, (X,)))
    # Over and over the few images give something else than alone.
    check_block(known, Centred(), (X,))


def test_fewer_images_where_calls_are_slow(model):
    context, *_ = context_of(model, call_s=1.0, few=(X[:2],))
    part = context.on_part(calls=10, seconds=4.0)
    assert len(part.example[0]) == 4 and part.scale == 4 and part.is_part
    assert part.of_all.example[0] is X and not part.of_all.is_part
    assert context.on_part(calls=10, seconds=10.0) is context
    assert part.reference is context.reference
    # No fewer than they are compared on.
    assert len(context.on_part(calls=10, seconds=0.1).example[0]) == 2


def decided(model, monkeypatch, late):
    """What becomes of the layers, each of which takes ten seconds, and which were timed."""
    context, rows, calls = context_of(model, ends=now() + 1000)
    timed, clock = [], [now()]

    def decide(context, layer, call, channels_last, share, step):
        timed.append(layer.name)
        clock[0] += 10
        return deciding.replace(
            layer, becomes="CSRLinear", measured=Comparison(2, 1, 2, 2, 2, 3), reason="fastest"
        )

    monkeypatch.setattr(deciding, "decide", decide)
    monkeypatch.setattr(deciding.time, "perf_counter", lambda: clock[0])
    if late:
        monkeypatch.setattr(Context, "has_calls", lambda self, calls: False)
    own = deciding.Deciding(context, calls, False, 1.0, lambda doing: None)
    return {row.name: row for row in own.all(rows)}, timed, own.left_out


now = time.perf_counter


def test_without_time_layers_become_what_those_like_them_do(model, monkeypatch):
    made, timed, left_out = decided(model, monkeypatch, late=False)
    # The layers with most work first, one of each kind.
    assert timed == ["first", "last"]
    assert made["second"].becomes == "CSRLinear" and "as first" in made["second"].reason
    assert made["second"].nnz == int((model.second.weight != 0).sum())
    assert left_out == ("to time layers like others, which are as those: second",)


def test_kinds_that_there_is_no_time_for_stay_dense(model, monkeypatch):
    made, timed, left_out = decided(model, monkeypatch, late=True)
    assert timed == ["first"] and made["last"].becomes is None
    assert made["last"].reason == deciding.NO_TIME and "to time last" in left_out


def test_layers_with_other_numbers_of_weights_are_not_alike(model, monkeypatch):
    with torch.no_grad():
        model.second.weight.mul_(torch.rand(8, 8) > 0.6)
    _, timed, left_out = decided(model, monkeypatch, late=False)
    assert sorted(timed) == ["first", "last", "second"] and not left_out


def test_without_time_a_batch_is_not_tried_in_pieces():
    orders = (("conv", PLANAR),)
    found = search.Found(Graph(nn.Identity()), Decisions((), orders, orders), Costs(), {})
    late = search._in_pieces(found, (torch.randn(16, 3, 8, 8),), seconds=1.0, call_s=1.0)
    assert late.left_out == ("the batch in pieces",) and late.decisions is found.decisions
    # One image has no pieces.
    alone = search._in_pieces(found, (torch.randn(1, 3, 8, 8),), seconds=0.0, call_s=1.0)
    assert alone.left_out == ()


@pytest.mark.parametrize("asks", [True, False])
def test_code_that_asks_for_the_batch_is_compared_on_all_of_it(monkeypatch, asks):
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(x) if not asks or x.shape[0] > 8 else -self.layer(x)

    model, seen = Asks().eval(), []
    with torch.no_grad():
        model.layer.weight.mul_(torch.rand(8, 8) > 0.5)
    own = Reference.__init__

    def init(self, dense, example):
        seen.append(len(example[0]))
        own(self, dense, example)

    monkeypatch.setattr(Reference, "__init__", init)
    plan = planned(model, example=X)
    assert set(seen) == {16 if asks else FEW}
    with torch.no_grad():
        torch.testing.assert_close(plan.apply(model)(X), model(X), rtol=1e-4, atol=1e-6)
