"""Where the time of a program goes, and what it needs."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.graph.capture import capture
from sparse_ops.ops import _native
from sparse_ops.ops._program_code import CHANNELS, IMAGES, PLANAR
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.layout import uniform
from sparse_ops.passes.pack import pack
from sparse_ops.patterns import PSD2_P8
from sparse_ops.planning import floors as roofline
from sparse_ops.planning import profiling
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.memory import Memory, memory_of
from sparse_ops.planning.programmed import with_programs_
from sparse_ops.planning.work import kind_of, order_of, pieces_of, shapes_of, work
from sparse_ops.program.segments import cut
from tests.convert.models import EXAMPLE, masks_of_net, net
from tests.convert.planning import planned

needs_compiled = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """One that does 1e6 multiply-accumulates and moves 1e6 bytes a second."""
    monkeypatch.setattr(profiling, "floors", lambda cache: roofline.Floors(1e6, {1: 1e6}))
    monkeypatch.setenv("SPARSE_OPS_CACHE", "off")


class Parts(nn.Module):
    """A step of every kind that has work of its own."""

    def __init__(self):
        super().__init__()
        self.csr = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.periodic = nn.Conv2d(6, 12, 3)
        self.alone = nn.Conv2d(12, 12, 3, groups=12)
        self.fc = nn.Linear(48, 5)

    def forward(self, x):
        x = torch.relu(self.csr(x))
        x = torch.cat([x.sigmoid(), x], 1)[:, :6]
        x = self.alone(self.periodic(x))
        return self.fc(torch.flatten(nn.functional.max_pool2d(x, 2), 1))


MASKS = {
    "csr.weight": torch.arange(6 * 4 * 9).reshape(6, 4, 3, 3) % 12 == 0,
    "periodic.weight": PSD2_P8.mask((12, 6, 3, 3)),
}


def program_of(model, example, order, forms, piece=0):
    graph = capture(model.eval(), (example,))
    fuse(graph)
    pack(graph, forms, MASKS)
    (item,) = cut(graph, uniform(graph, order), piece)
    return item.program


def steps_of(order=PLANAR):
    example = torch.randn(16, 4, 8, 8)
    program = program_of(Parts(), example, order, {"csr": "csr", "periodic": "periodic"})
    shapes = shapes_of(program, [tuple(example.shape)])
    return program, shapes, {step.name: step for step in program.steps}


def test_dense_3x3_convolutions_take_16_products_for_36():
    model = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, stride=2)
    )
    example = torch.randn(16, 16, 7, 8)
    for order, name in ((IMAGES, "winograd"), (CHANNELS, "winograd"), (PLANAR, "dense")):
        program = program_of(model.eval(), example, order, {})
        shapes = shapes_of(program, [tuple(example.shape)])
        first, second = [step for step in program.steps if step.kind == "conv"]
        assert kind_of(program, first, shapes[first.out]) == f"conv {name}"
        products = {"winograd": 16 * 4 * 4, "dense": 9 * 7 * 8}[name]
        assert work(program, first, shapes)[0] == 16 * 16 * 32 * products
        assert kind_of(program, second, shapes[second.out]) == "conv dense"


def test_steps_are_told_in_words():
    program, shapes, steps = steps_of()
    words = {name: kind_of(program, step, shapes[step.out]) for name, step in steps.items()}
    assert words["csr"] == "conv csr + relu" and words["periodic"] == "conv periodic"
    assert words["alone"] == "conv depthwise" and words["fc"] == "linear dense"
    assert words["sigmoid"] == "sigmoid" and words["max_pool2d"] == "max pool"
    assert order_of(program, steps["csr"], shapes) == "planar"
    assert order_of(program, steps["fc"], shapes) == ""
    program, shapes, steps = steps_of(IMAGES)
    assert order_of(program, steps["csr"], shapes) == "n16"
    assert order_of(program, program.steps[0], shapes) == "planar→n16"


def test_work_is_what_cannot_be_done_without():
    program, shapes, steps = steps_of()
    macs, moved = work(program, steps["csr"], shapes)
    kept = int(MASKS["csr.weight"].sum())
    assert macs == 16 * 8 * 8 * kept
    assert moved == 4 * (16 * 4 * 64 + 16 * 6 * 64 + 7 + 2 * kept)
    macs, moved = work(program, steps["periodic"], shapes)
    kept = int(MASKS["periodic.weight"].sum())
    classes = int(MASKS["periodic.weight"][:8].sum())
    assert macs == 16 * 6 * 6 * kept
    assert moved == 4 * (16 * 6 * 64 + 16 * 12 * 36 + 9 + classes + kept + 12)
    assert work(program, steps["alone"], shapes)[0] == 16 * 4 * 4 * 12 * 9
    assert work(program, steps["fc"], shapes) == (
        16 * 5 * 48,
        4 * (16 * 48 + 16 * 5 + 5 * 48 + 5),
    )
    assert work(program, steps["sigmoid"], shapes) == (0, 4 * 2 * 16 * 6 * 64)


def test_what_lies_where_it_is_wanted_costs_nothing():
    program, shapes, _ = steps_of()
    # Both parts are written to their places; flattened values are the same memory.
    (concat,) = (step for step in program.steps if step.kind == "concat")
    inside = [program.values[v].whole == concat.out for v in concat.inputs]
    moved = sum(16 * 6 * 64 for is_there in inside if not is_there)
    assert any(inside) and work(program, concat, shapes) == (0, 2 * 4 * moved)
    (flat,) = (step for step in program.steps if step.kind == "flatten")
    assert work(program, flat, shapes) == (0, 0)
    program, shapes, _ = steps_of(IMAGES)
    (flat,) = (step for step in program.steps if step.kind == "flatten")
    assert work(program, flat, shapes) == (0, 4 * 2 * 16 * 48)
    (part,) = (step for step in program.steps if step.kind == "slice")
    assert work(program, part, shapes) == (0, 4 * 2 * 16 * 6 * 64)


def test_a_batch_is_told_in_its_pieces():
    example = torch.randn(7, 4, 8, 8)
    program = program_of(Parts(), example, PLANAR, {}, piece=3)
    assert pieces_of(program, [(7, 4, 8, 8)]) == [(2, [(3, 4, 8, 8)]), (1, [(1, 4, 8, 8)])]
    assert pieces_of(program, [(2, 4, 8, 8), (1, 4, 1, 1)]) == [(1, [(2, 4, 8, 8), (1, 4, 1, 1)])]
    # Blocks of images are whole.
    program = program_of(Parts(), torch.randn(32, 4, 8, 8), IMAGES, {}, piece=3)
    assert pieces_of(program, [(32, 4, 8, 8)]) == [(2, [(16, 4, 8, 8)])]


def running(order=PLANAR, piece=0, batch=16):
    """A dense model and the same as programs, and its input."""
    dense, x = Parts().eval(), torch.randn(batch, 4, 8, 8)
    model = copy.deepcopy(dense)
    graph = capture(model, (x,))
    fuse(graph)
    ways = (tuple(uniform(graph, way).items()) for way in (order, PLANAR))
    return dense, with_programs_(model, Decisions((), *ways, piece), (x,)), x


@needs_compiled
@pytest.mark.parametrize(("order", "piece"), [(PLANAR, 0), (PLANAR, 5), (IMAGES, 0)])
def test_every_step_has_its_time_floor_and_bytes(order, piece):
    _, model, x = running(order, piece)
    found = so.profile(model, x, repeats=3)
    names = [row.name for row in found.rows]
    assert [name for name in names if name in ("csr", "periodic", "alone", "fc")] == [
        "csr", "periodic", "alone", "fc",
    ]  # fmt: skip
    rows = {row.name: row for row in found.rows}
    assert rows["csr"].shape == (16, 6, 8, 8) and rows["fc"].shape == (16, 5)
    macs = 16 * 64 * 6 * 4 * 9
    assert rows["csr"].floor_ms == pytest.approx(1e3 * macs / 1e6)
    assert rows["csr"].macs == macs and found.floors.peak == 1e6
    pieces = 1 if piece == 0 else 4
    weights = 4 * (5 * 48 + 5)
    assert rows["fc"].bytes == pieces * weights + 4 * 16 * (48 + 5)
    assert all(row.ms >= 0 for row in found.rows) and found.call_ms > 0
    assert sum(row.share for row in found.rows) == pytest.approx(1)


@needs_compiled
def test_the_profile_prints_as_a_table_of_100_columns():
    _, model, x = running()
    found = so.profile(model, x, repeats=1)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].split()[:4] == ["step", "kind", "order", "shape"]
    assert lines[-1].startswith(f"{len(found.rows)} steps take ")
    (line,) = (line for line in lines if line.startswith("csr "))
    assert "conv dense + relu" in line and "16×6×8×8" in line


@needs_compiled
def test_what_pytorch_runs_between_programs_is_a_row():
    class Between(Parts):
        def forward(self, x):
            return super().forward(torch.roll(self.csr(x), 1, 1)[:, :4])

    x = torch.randn(2, 4, 8, 8)
    model = Between().eval()
    graph = capture(model, (x,))
    fuse(graph)
    way = tuple(uniform(graph, PLANAR).items())
    model = with_programs_(model, Decisions((), way, way), (x,))
    found = so.profile(model, x, repeats=2)
    (row,) = (row for row in found.rows if row.kind == "call in PyTorch")
    assert row.name == "roll" and row.ms > 0 and row.floor_ms is None
    assert "call in PyTorch" in str(found)
    assert memory_of(Between(), model).programs == 2


@needs_compiled
def test_a_network_that_was_loaded_without_its_class_is_told_as_it_was(tmp_path):
    _, model, x = running(piece=5)
    so.save(model, tmp_path / "x.safetensors")
    loaded = so.load(tmp_path / "x.safetensors")
    found, before = (so.profile(each, x, repeats=1) for each in (loaded, model))
    assert [replace(row, ms=0.0, share=0.0) for row in found.rows] == [
        replace(row, ms=0.0, share=0.0) for row in before.rows
    ]
    assert found.call_ms > 0
    assert (
        "must be (N, 4, H, W), got (2, 3, 8, 8)"
        in so.profile(loaded, torch.ones(2, 3, 8, 8)).reason
    )
    assert "must be float32" in so.profile(loaded, x.double()).reason


@needs_compiled
def test_a_model_that_does_not_run_as_a_program_says_why():
    dense, model, x = running()
    for given, x_, words in (
        (dense, x, "it is not converted"),
        (planned(net(), masks_of_net(), fold=False).apply(net()), torch.randn(EXAMPLE), "by layer"),
        (model, x.double(), "got float64 (16, 4, 8, 8) on cpu"),
        (model, torch.randn(2, 3, 8, 8), "got float32 (2, 3, 8, 8) on cpu"),
        (copy.deepcopy(model).train(), x, "training mode"),
    ):
        found = so.profile(given, x_, repeats=1)
        assert not found.rows and words in found.reason
        assert str(found).replace("\n ", "").startswith("the model does not run as a program here")
    model.csr.register_forward_hook(lambda *_: None)
    assert "hooks" in so.profile(model, x).reason


def test_repeats_must_be_one_at_least():
    with pytest.raises(ValueError, match="repeats must be 1 or more, got 0"):
        so.profile(Parts(), torch.randn(1, 4, 8, 8), repeats=0)


@needs_compiled
def test_a_plan_tells_the_memory_of_weights_and_of_the_program():
    model, masks = net(), masks_of_net()
    plan = planned(model, masks)
    fast = plan.apply(model)
    took = plan.memory()
    own = sum(tensor.nbytes for tensor in fast.state_dict().values())
    # Indices that follow from the pattern are held, but not saved.
    assert own <= took.packed < took.dense
    assert took.programs == 1 and took.piece == EXAMPLE[0]
    assert 0 < took.largest <= took.arena
    assert plan.as_data()["memory"]["arena"] == took.arena
    assert f"memory: {took}" in " ".join(str(plan).split())


def test_where_nothing_is_replaced_both_sides_take_the_same():
    took = planned(net(), masks_of_net(), ratio=0.5).memory()
    assert took.packed == took.dense > 0 and took.programs == took.arena == 0
    assert str(took) == f"weights {took.dense / 1e3:.1f} kB dense, {took.dense / 1e3:.1f} kB packed"


@needs_compiled
def test_smaller_pieces_take_less_memory():
    dense, model, _ = running(piece=4)
    small, large = memory_of(dense, model), memory_of(*running()[:2])
    assert small.piece == 4 and large.piece == 16
    assert small.arena < large.arena and small.largest < large.largest
    assert small.dense == small.packed == large.dense


def test_memory_is_told_in_words():
    took = Memory(44_700_000, 4_600_000, 1_200_000, 300_000, 16, 1)
    assert str(took) == (
        "weights 44.7 MB dense, 4.6 MB packed; values inside 1.2 MB a call, 16 images at a time, "
        "the largest 300.0 kB"
    )
