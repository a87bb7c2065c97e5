"""The report: what it reads, what it draws, and that the page stands alone."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import sparse_ops as so
from sparse_ops.report.chart import Bars, Chart, Series, extent, number, ticks
from sparse_ops.report.drawings import figures
from sparse_ops.report.evidence import Evidence
from sparse_ops.report.page import page, table
from sparse_ops.report.reading import gather
from sparse_ops.report.svg import svg
from tests.cli.running import run

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MACHINE = {"cpu": "a CPU", "threads": 1, "isa": "avx2", "torch": "2.13"}


def result(folder: Path, sparsity: float, seed: int, accuracy: float) -> None:
    folder.mkdir(parents=True)
    content = {
        "model": "lenet300",
        "method": "magnitude",
        "options": {"sparsity": sparsity},
        "data": "some",
        "epochs": 2,
        "seed": seed,
        "accuracy": accuracy,
        "sparsity": sparsity,
    }
    (folder / "result.json").write_text(json.dumps(content))


def race(batch: int, kept: float, speedup: float) -> dict:
    measured = {
        "dense_ms": 1.0,
        "packed_ms": 1 / speedup,
        "speedup": speedup,
        "low": 0.9 * speedup,
        "high": 1.1 * speedup,
    }
    return {
        "batch": batch,
        "threads": 1,
        "kept": kept,
        "name": "net",
        "measured": measured,
    }


@pytest.fixture
def runs(tmp_path):
    """A sweep of three levels and two seeds; a run with a log, masks and a plan; claims."""
    sweep, one = tmp_path / "sweep", tmp_path / "one"
    for level, top1 in ((0.5, 0.9), (0.9, 0.88), (0.99, 0.7)):
        for seed in (0, 1):
            result(sweep / f"{level}-seed{seed}", level, seed, top1 + 0.02 * seed)
    rows = [race(1, 0.5, 0.8), race(1, 0.1, 1.6), race(1, 0.01, 4.0)]
    content = {"machine": MACHINE, "command": "sweep", "rows": rows}
    (sweep / "bench1.json").write_text(json.dumps(content))
    result(one, 0.75, 0, 0.85)
    # The columns of SABR.
    lines = ["epoch,loss,accuracy,lr,seconds,examples_per_second,top1,frozen,last_frozen"]
    for kind in ("strength", "threshold", "kept"):
        lines[0] += "".join(f",{kind}:{name}.weight" for name in ("features.0.conv", "fc1"))
    for e in range(1, 6):
        values = (10.0**-e, 2 * 10.0**-e, 0.01 * e, 0.02 * e, 1 / e, 0.9 / e)
        last = "fc1.weight" if e > 3 else ""
        begin = f"{e},{2 / e},0.5,0.1,1,10,{0.1 * e},{int(e > 3)},{last}"
        lines.append(begin + "".join(f",{value}" for value in values))
    (one / "log.csv").write_text("\n".join(lines))
    masks = {"fc1.weight": torch.arange(40).reshape(4, 10) % 4 == 0}
    so.masks.save(masks, one / "masks.safetensors")
    layer = {
        "name": "fc1",
        "kind": "Linear",
        "shape": [4, 10],
        "nnz": 10,
        "macs": 400,
        "kept_macs": 100,
        "sparsity": 0.75,
        "becomes": "CSRLinear",
        "reason": "<b>1.6 times as fast</b>",
        "measured": race(1, 0.25, 1.6)["measured"],
    }
    plan = {"layers": [layer], "whole": layer["measured"], "notes": ["a & b"]}
    (one / "plan.json").write_text(json.dumps(plan))
    claim = {
        "source": "a paper",
        "claim": "5.6 times fewer operations",
        "quantity": "time",
        "unit": "×",
        "claimed": 5.6,
        "measured": 2.5,
        "low": 2.4,
        "high": 2.6,
        "verdict": "falls short",
        "why": "batch 1",
        "rows": ["a@1"],
    }
    (tmp_path / "claims.json").write_text(json.dumps({"claims": [claim], "rows": []}))
    return tmp_path


class Reader(HTMLParser):
    """The tags of a page, each closed in its turn, and its text."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_stands_alone_and_is_well_formed(runs):
    run("report", runs / "sweep", runs / "one", runs / "claims.json", "--html", runs / "r.html")
    text = (runs / "r.html").read_text()
    reader = read(text)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    # The name of SVG is no address that anything is fetched from.
    assert re.findall(r"https?:[^\"'\s<]+", text.replace("http://www.w3.org/2000/svg", "")) == []
    assert "url(" not in text and "@import" not in text
    for needed in ("prefers-color-scheme:dark", "width=device-width", "overflow-x:auto"):
        assert needed in text
    # What files say is text, whatever is in it.
    assert "<b>1.6 times as fast</b>" in reader.text and "a & b" in reader.text


def test_columns_of_amounts_stand_to_the_right_with_their_heads():
    head = ("claim", "claimed", "here", "none of them")
    rows = [
        ("10 × smaller", "5.6 ×", "2 × (1.8 to 2.2)", "–"),
        ("6", "–", "-0.4 points", "–"),
        ("seven", "11,808", "", "–"),
    ]
    found = table(head, rows)
    amounts = re.findall(r'<(t[hd]) class="n">([^<]*)', found)
    heads = [words for kind, words in amounts if kind == "th"]
    cells = [words for kind, words in amounts if kind == "td"]
    assert heads == ["claimed", "here"]
    assert cells == ["5.6 ×", "2 × (1.8 to 2.2)", "–", "-0.4 points", "11,808", ""]


def test_every_figure_has_its_numbers_in_text_and_its_source(runs):
    found = gather([runs / "sweep", runs / "one", runs / "claims.json"])
    drawn = figures(found)
    titles = [figure.title for figure in drawn]
    for words in (
        "Accuracy against",
        "Time against",
        "Sparsity by layer",
        "Roofline",
        "one: strength",
        "one: kept",
    ):
        assert any(words in title for title in titles), words
    text = read(page(found, "A title", "command")).text
    for n, figure in enumerate(drawn, start=1):
        assert f"Figure {n}. {figure.said}" in text
        assert figure.sources and all(source in text for source in figure.sources)
        values = (
            [words for _, _, words in figure.bars]
            if isinstance(figure, Bars)
            else [number(p[1]) for series in figure.series for p in series.points]
        )
        assert values and all(value in text for value in values)
    for words in ("5.6 times fewer operations", "falls short", "2.5 × (2.4 to 2.6)", "a CPU"):
        assert words in text


def test_accuracy_is_the_mean_over_seeds_with_its_spread(runs):
    (chart,) = [f for f in figures(gather([runs / "sweep"])) if f.key.startswith("accuracy")]
    (series,) = chart.series
    x, y, low, high = series.points[1]
    assert (x, y) == (90.0, pytest.approx(89.0))
    # Standard deviation of 88 and 90.
    assert (y - low, high - y) == (pytest.approx(2**0.5), pytest.approx(2**0.5))
    assert "Sparsest: 99.00 % removed leaves 71.00 % (magnitude)" in chart.said


def test_experiments_are_lines_over_their_levels_in_figures_of_their_groups(tmp_path):
    kept = {"vgg-spred-filter-80": 20, "vgg-spred-filter-40": 60, "vgg-dense": 100}
    kept |= {"vgg-psd4-p8": 50, "vgg-psd2-p8": 25}
    kept |= {"art-98-rate-0.1-l1": 2, "art-99.5-rate-0.1-l1": 1, "sweep-spred-1e-05": 90}
    common = {"network": {"name": "small_vgg"}, "data": "digits", "weights": 100, "epochs": 6}
    runs = [
        common | {"experiment": name, "kept": k, "top1": k / 100, "seed": 0}
        for name, k in kept.items()
    ]
    content = {"machine": MACHINE, "command": "methods", "runs": runs}
    (tmp_path / "methods.json").write_text(json.dumps(content))
    drawn = {f.title.rpartition(": ")[2]: f for f in figures(gather([tmp_path]))}
    assert list(drawn) == [f"small_vgg on digits, {group}" for group in ("vgg", "art", "sweep")]
    assert len({figure.key for figure in drawn.values()}) == 3
    points = [
        {s.name: [(round(p[0]), round(p[1])) for p in s.points] for s in figure.series}
        for figure in drawn.values()
    ]
    assert points == [
        {
            "spred-filter": [(40, 60), (80, 20)],
            "dense": [(0, 100)],
            "patterns": [(50, 50), (75, 25)],
        },
        # A learning rate is no level.
        {"rate-0.1-l1": [(98, 2), (99, 1)]},
        {"spred": [(10, 90)]},
    ]


def test_the_crossover_to_dense_is_marked_where_it_is(runs):
    (chart,) = [f for f in figures(gather([runs / "sweep"])) if f.key.startswith("latency")]
    # From 1.25 at 50 % to 0.625 at 90 %: 1 at 50 + 40 · 0.25/0.625 = 66.
    assert chart.marks == ((pytest.approx(66.0), 1.0, "as fast as dense at 66 %"),)
    assert "net 0.80 to 4.00×, as fast as dense at 66 % sparsity" in chart.said


def test_layers_say_what_they_save(runs):
    bars = {f.key: f for f in figures(gather([runs / "one"])) if f.key.startswith("layers")}
    planned = next(b for key, b in bars.items() if "planned" in key)
    assert planned.bars == (("fc1", 0.75, "75.0% of 400"),)
    assert "Of 400 multiply-accumulates 100 are kept: 75.00% saved, 4.0× fewer" in planned.said


def test_a_methods_own_columns_are_drawn_words_are_not(runs):
    charts = {f.title: f for f in figures(gather([runs / "one"])) if f.key.startswith("history")}
    assert list(charts) == [
        f"one: {title}"
        for title in (
            *("loss", "accuracy", "learning rate", "frozen"),
            *("strength", "threshold", "kept"),
        )
    ]
    # A figure for each kind, a line for each tensor.
    for title in ("strength", "threshold", "kept"):
        names = [series.name for series in charts[f"one: {title}"].series]
        assert names == ["features.0.conv.weight", "fc1.weight"]
    said = charts["one: kept"].said
    assert said == "After the last epoch: features.0.conv.weight 0.2, fc1.weight 0.18."
    # Over four powers of ten: as a logarithm.
    assert charts["one: strength"].y_log and not charts["one: threshold"].y_log


def test_all_committed_results_are_understood_or_passed_over_in_words():
    found = gather([RESULTS])
    assert found.timings and found.trainings
    assert list(found.passed_over) == ["results/gpu.json", "results/training.json"]
    networks = [t for t in found.timings if t.source == "results/networks.json"]
    lines = {t.format for t in networks if t.group == "resnet18, batch 16, threads: 1"}
    plain = {"filters", "single weights", "ERK", "PSD2_P8"}
    assert lines == plain | {"filters F(4×4)", "ERK F(4×4)"}
    for figure in figures(found):
        ElementTree.fromstring(svg(figure))


def test_a_plan_that_was_made_here_is_read(tmp_path):
    model = so.models.lenet300().eval()
    masks = so.masks.keep_largest({n: w.abs() for n, w in so.masks.prunable(model).items()}, 9000)
    so.masks.apply_(model, masks)
    plan = so.plan(model, torch.randn(8, 784), masks, budget_s=0.1, compile=False, progress=False)
    (tmp_path / "plan.json").write_text(plan.to_json())
    found = gather([tmp_path])
    assert [layer["name"] for layer in found.plans[0].layers] == ["fc1", "fc2", "fc3"]
    assert found.passed_over == {}
    read(page(found, "plan", ""))


def test_what_holds_nothing_is_refused_and_what_is_not_ours_is_named(tmp_path, runs):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        gather([tmp_path / "no"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no JSON, CSV or mask in it"):
        gather([tmp_path / "empty"])
    (runs / "one" / "other.json").write_text("[1, 2]")
    (runs / "one" / "broken.csv").write_text("a,b\n1,2\n")
    found = gather([runs / "one"])
    assert set(found.passed_over) == {"one/other.json", "one/broken.csv"}
    assert "passed over" in read(page(found, "t", "c")).text
    message = run("report", runs / "one" / "other.json", "--html", tmp_path / "x", ok=False).output
    assert "holds nothing to report on" in message
    assert "--html FILE or --plots FOLDER" in run("report", runs / "one", ok=False).output


def test_plots_are_pictures_of_the_same_figures(runs):
    pytest.importorskip("matplotlib")
    run("report", runs / "one", "--plots", runs / "plots")
    files = sorted((runs / "plots").iterdir())
    assert len(files) == 2 * len(figures(gather([runs / "one"])))
    for file in files:
        if file.suffix == ".svg":
            root = ElementTree.fromstring(file.read_text())
            assert root.tag == "{http://www.w3.org/2000/svg}svg" and "--s0" in file.read_text()
        else:
            assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_no_two_of_many_series_look_alike():
    names = [f"series {n}" for n in range(30)]
    series = tuple(Series(name, ((1.0, 2.0, None, None),)) for name in names)
    drawn = svg(Chart("k", "t", "s", "x", "y", series, ("f",)))
    seen = {}
    for kind, colour, words in re.findall(
        r'<(circle|rect|polygon) class="(\w+)"[^>]*><title>([^:<]*)', drawn
    ):
        seen.setdefault(words, set()).add((kind, colour))
    # The dot in the legend is that of the chart, and no other series has it.
    assert list(seen) == names and all(len(looks) == 1 for looks in seen.values())
    assert len(set().union(*seen.values())) == len(names)


@pytest.mark.parametrize(
    ("low", "high", "log", "wanted"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (1.0, 3.0, False, [1, 1.5, 2, 2.5, 3]),
        (0.1, 3.0, True, [0.1, 0.2, 0.5, 1, 2]),
        (1e-6, 1.0, True, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]),
        (22.0, 31.0, True, [22, 24, 26, 28, 30]),
    ],
)
def test_axes_have_round_numbers(low, high, log, wanted):
    assert ticks(low, high, log) == pytest.approx(wanted)


def test_epochs_are_whole_numbers_and_one_value_has_an_axis():
    assert ticks(0.9, 2.1, False, whole=True) == [1, 2]
    low, high = extent([0.05, 0.05], False)
    assert low < 0.05 < high
    chart = Chart("k", "t", "s", "x", "y", (Series("a", ((1.0, 2.0, None, None),)),), ("f",))
    ElementTree.fromstring(svg(chart, alone=True))
    assert asdict(Evidence())["trainings"] == [] and Evidence().empty
