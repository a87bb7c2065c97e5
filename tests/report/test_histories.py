"""Histories of training runs as figures."""

import pytest

import sparse_ops as so
from sparse_ops.report.evidence import History
from sparse_ops.report.histories import MOST_LINES, history_charts
from sparse_ops.report.reading import gather
from tests.training.small import small_net, small_task


def charts(columns):
    epochs = [float(e) for e in range(1, 1 + len(next(iter(columns.values()))))]
    history = History("run/log.csv", "run", {"epoch": epochs, **columns})
    return {chart.title: chart for chart in history_charts(history)}


def test_of_many_tensors_those_at_both_ends_and_the_median_are_drawn():
    # A ResNet-56 has 57 tensors; the last of them keeps least.
    columns = {f"kept:stage.{n}.weight": [1.0, 1 - n / 100] for n in range(57)}
    (chart,) = charts(columns).values()
    ends = [*range(5), *range(52, 57)]
    assert [s.name for s in chart.series] == [
        "median of 57",
        *(f"stage.{n}.weight" for n in ends),
    ]
    assert [p[:2] for p in chart.series[0].points] == [(1, 1), (2, pytest.approx(0.72))]
    assert "stage.56.weight (0.44) is least and stage.0.weight (1) most, 0.72 the" in chart.said
    assert "Of 57 tensors the 5 that end lowest and the 5 that end highest" in chart.said


def test_as_many_tensors_as_can_be_told_apart_are_all_drawn():
    columns = {f"kept:{n}.weight": [1.0, 0.5] for n in range(MOST_LINES)}
    (chart,) = charts(columns).values()
    assert len(chart.series) == MOST_LINES and chart.said.endswith(", ….")


def test_a_figure_of_all_tensors_stands_with_those_of_each():
    columns = {"threshold": [0.1, 0.2], "threshold:fc.weight": [0.3, 0.4], "removed": [0, 0.5]}
    found = charts(columns)
    assert list(found) == ["run: threshold", "run: removed"]
    assert [s.name for s in found["run: threshold"].series] == ["threshold", "fc.weight"]


def test_a_line_begins_where_its_column_does():
    # As in a log of a run that was resumed with a newer version.
    (chart,) = charts({"kept:fc.weight": [None, None, 0.5, 0.25]}).values()
    assert [p[:2] for p in chart.series[0].points] == [(3, 0.5), (4, 0.25)]


@pytest.mark.parametrize(
    ("method", "titles"),
    [
        (lambda: so.training.SABR(), ["strength", "threshold", "kept"]),
        (lambda: so.training.GSM(0.8), ["threshold", "kept"]),
        (lambda: so.training.Magnitude(0.8, begin=0, end=2), ["threshold", "kept"]),
        (lambda: so.training.Spred(0.8, begin=0, end=2), ["kept"]),
    ],
)
def test_every_method_is_drawn_with_a_figure_a_kind(method, titles, tmp_path):
    path = tmp_path / "log.csv"
    arguments = {"epochs": 2, "batch_size": 16, "progress": False, "log": path}
    so.training.fit(small_net(), small_task(), method(), **arguments)
    (history,) = gather([path]).histories
    found = {c.title.rpartition(": ")[2]: c for c in history_charts(history)}
    for title in titles:
        lines = {series.name for series in found[title].series}
        assert "3.weight" in lines or lines == {"threshold"}
    assert not any("weight" in title for title in found)
