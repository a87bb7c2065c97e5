"""Rooflines: layers of benchmarks, plans and profiles, under what the machine can do."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.convert import Comparison
from sparse_ops.ops import _native
from sparse_ops.planning.floors import Floors
from sparse_ops.planning.profiling import Profile, ProfileRow
from sparse_ops.report.chart import Chart, Series
from sparse_ops.report.drawings import figures
from sparse_ops.report.page import page
from sparse_ops.report.plots import _draw_chart
from sparse_ops.report.reading import gather
from sparse_ops.report.rooflines import rooflines
from sparse_ops.report.svg import svg
from sparse_ops.report.versus import dense_against_packed
from tests.report.test_page import RESULTS, read

needs_compiled = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))
FLOORS = {"peak": 4e9, "bandwidths": {"32768": 8e9, "1048576": 2e9}}


def layer(name, becomes, **more):
    measured = {"dense_ms": 0.5, "packed_ms": 0.25, "speedup": 2.0, "low": 1.9, "high": 2.1}
    common = {"name": name, "kind": "Linear", "shape": [100, 100], "nnz": 1000, "macs": 40_000}
    common |= {"kept_macs": 4000, "sparsity": 0.9, "becomes": becomes, "reason": ""}
    return common | {"measured": measured} | more


def charts(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    return list(rooflines(gather([folder])))


def network():
    """A network of three layers that runs as one program, its masks, and what it is given."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 10)).eval()
    masks = {name: w.abs() > w.abs().quantile(0.95) for name, w in so.masks.prunable(model).items()}
    return model, masks, torch.randn(2, 8, 8, 8)


def test_the_roofline_has_every_layer_under_the_roof():
    (chart,) = [
        f for f in figures(gather([RESULTS / "operators.json"])) if f.key.startswith("roofline")
    ]
    points = [p for series in chart.series for p in series.points]
    rows = json.loads((RESULTS / "operators.json").read_text())["rows"]
    layers = [r for r in rows if " of " not in r["layer"] and r["dense_form"] != "torch.sparse_csr"]
    assert len(points) == len(layers) > 40
    # Of memory: what caches can do was not measured.
    (((x, y), *_, (_, top)),) = chart.roofs
    content = json.loads((RESULTS / "operators.json").read_text())
    assert y == pytest.approx(x * content["bytes_per_second"] / 1e9)
    assert top == pytest.approx(content["macs_per_second"] / 1e9)
    assert all(point[1] <= top for point in points)


def test_layers_of_a_plan_are_drawn_as_what_they_become_under_both_roofs(tmp_path):
    layers = [
        layer("a", "CSRLinear", bytes=2000),
        layer("b", None, bytes=8000),
        layer("never timed", None, measured=None),
        layer("empty", None, kept_macs=0, nnz=0),
    ]
    (chart,) = charts(tmp_path, "plan.json", {"layers": layers, "whole": None, "floors": FLOORS})
    points = {
        name: point[:2]
        for s in chart.series
        for name, point in zip(s.named(), s.points, strict=True)
    }
    assert points == {
        # 4000 multiply-accumulates in a quarter of a millisecond; the dense one takes half of one.
        "CSRLinear, a": (2.0, pytest.approx(0.016)),
        "dense is faster, b": (0.5, pytest.approx(0.008)),
    }
    memory, cache = chart.roofs
    assert [corner[1] for corner in memory] == pytest.approx([2 * 0.5 / 1.5, 4, 4])
    assert [corner[1] for corner in cache] == pytest.approx([8 * 0.5 / 1.5, 4, 4])
    assert "of the 4 G/s that dense products reach here; memory moves 2 GB/s" in chart.said
    # Which point is which layer is told, in the figure and in the table.
    assert "<title>CSRLinear, a: 2, 0.016</title>" in svg(chart)
    assert "dense is faster, b" in read(page(gather([tmp_path]), "t", "c")).text


def test_a_plan_from_before_there_were_floors_has_points_without_a_roof(tmp_path):
    plan = {"layers": [layer("a", "CSRLinear")], "whole": None}
    (chart,) = charts(tmp_path, "plan.json", plan)
    # 1000 weights, four positions of 100 inputs and 100 outputs.
    assert chart.series[0].points[0][0] == 4000 / (4 * (1000 + 4 * 200)) and chart.roofs == ()


def profile(ms):
    rows = (
        ProfileRow("conv", "conv csr + relu", "c16", (1, 8), ms, 0.1, 0.5, 4000, 2000),
        ProfileRow("pool", "max pool", "c16", (1, 8), ms, 0.1, 0.1, 4000, 0),
        ProfileRow("roll", "roll in PyTorch", "", (), ms),
        ProfileRow("fc", "linear dense", "", (1, 8), ms, 0.1, 0.4, 800, 100),
    )
    return asdict(Profile(rows, 4 * ms, floors=Floors(4e9, {32768: 8e9})))


def timed_row(batch, **more):
    measured = {"dense_ms": 2.0, "packed_ms": 1.0, "speedup": 2.0, "low": 1.9, "high": 2.1}
    return {"batch": batch, "threads": 1, "ideal": 4.0, "measured": measured} | more


def test_a_bench_has_a_roofline_a_batch_with_each_step_that_multiplies(tmp_path):
    rows = [timed_row(1, profile=profile(0.5)), timed_row(64, profile=profile(2.0)), timed_row(8)]
    found = charts(tmp_path, "bench.json", {"rows": rows})
    titles = [chart.title.partition("bench.json, ")[2] for chart in found]
    assert titles == ["batch 1", "batch 64"]
    for chart in found:
        assert [(s.name, s.names) for s in chart.series] == [
            ("CSRConv2d", ("conv",)),
            ("linear dense", ("fc",)),
        ]
        assert len(chart.roofs) == 2
    assert found[0].series[0].points[0][:2] == (0.5, pytest.approx(2000 / 0.5 / 1e6))


def test_of_a_demo_the_profile_is_drawn_and_not_the_plan_that_it_came_of(tmp_path):
    plan = {"layers": [layer("a", "CSRLinear")], "whole": None, "floors": FLOORS}
    network = {
        **{"name": "net", "method": "gsm", "sparsity": 0.9, "parameters": 100},
        **{"accuracy_dense": 0.9, "accuracy_sparse": 0.8, "kept_parameters": 10},
        "rows": [timed_row(1, profile=profile(0.5)), timed_row(64)],
        "plans": {"1": plan, "64": plan},
    }
    found = charts(tmp_path, "results.json", {"data": "some", "networks": [network]})
    assert [chart.title.partition(".json, ")[2] for chart in found] == [
        "net, gsm, batch 1",
        "net, gsm, batch 64",
    ]
    assert [s.name for s in found[0].series] == ["CSRConv2d", "linear dense"]
    assert [s.name for s in found[1].series] == ["CSRLinear"] and found[1].roofs


@needs_compiled
def test_a_network_that_is_converted_here_has_all_its_layers_under_a_roof(tmp_path):
    model, masks, x = network()
    plan = so.plan(model, x, masks, budget_s=0.5, compile=False, progress=False)
    (tmp_path / "plan.json").write_text(plan.to_json())

    def measure(one, other, seconds):
        return Comparison(2.0, 1.0, 2.0, 2.0, 2.0, 20)

    options = {"compile_s": None, "seconds": 0.1, "measure": measure}
    row = dense_against_packed(model, plan.apply(model), (x,), **options)
    (tmp_path / "bench.json").write_text(json.dumps({"rows": [asdict(row)]}))
    bench, planned = rooflines(gather([tmp_path]))
    for chart in (bench, planned):
        assert {name for s in chart.series for name in s.names} == {"0", "2", "4"}
        assert len(chart.roofs) == 2
    # What the machine can do is measured once.
    assert asdict(row)["profile"]["floors"]["peak"] == plan.as_data()["floors"]["peak"]


def test_a_model_without_programs_has_no_profile():
    model, _, x = network()
    row = dense_against_packed(model, model, (x,), compile_s=None, seconds=0.1)
    assert row.profile is None


def test_points_that_are_no_line_are_not_joined_in_a_plot():
    matplotlib = pytest.importorskip("matplotlib.figure")
    axis = matplotlib.Figure().subplots()
    points = ((1.0, 2.0, None, None), (2.0, 1.0, None, None))
    series = Series("apart", points, line=False), Series("joined", points)
    _draw_chart(axis, Chart("k", "t", "s", "x", "y", series, ("f",)))
    assert [line.get_linestyle() for line in axis.lines] == ["None", "-"]
