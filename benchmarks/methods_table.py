"""What `benchmarks.methods` has written, as tables; and what was published, as another."""

from statistics import mean, stdev
from typing import Any

from benchmarks._experiment import Experiment
from benchmarks.experiments import EXPERIMENTS, IN_BLOCK
from sparse_ops.training.recipes import read

NETWORKS = {
    "lenet300": "LeNet-300-100",
    "lenet5": "LeNet-5",
    "small_vgg": "small VGG",
    "vgg11": "VGG11",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
}
DATA = {
    "fashion-mnist": "Fashion-MNIST",
    "fashion-mnist-subset": "part of Fashion-MNIST",
    "digits": "MNIST, 10,000 of 70,000",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "images": "HG14 gestures",
}
# More that were not run are only counted.
MOST_NAMED = 8
# Blocks that are a figure too: its file beside the page, and what its title has in it.
PICTURES = {
    "Patterns and spred on a small VGG, six epochs": ("levels.svg", "fashion-mnist, vgg"),
    "Strengths of spred on a small VGG, six epochs": ("strengths.svg", "fashion-mnist, sweep"),
}


def methods_table(data: dict[str, Any]) -> str:
    """The runs of a results file as Markdown: a table for each block, one line an experiment.

    What was published is a table of its own: it is of other networks, data and lengths.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in data["runs"]:
        runs.setdefault(run["experiment"], []).append(run)
    machines = dict.fromkeys(f"{run['cpu']}, torch {run['torch']}" for run in data["runs"])
    lines = [
        f"{'; '.join(machines)}, float32; `{data['command']}`. Top-1 in percent on the test images "
        "after the last epoch, mean ± standard deviation over the seeds; *dense* is the network "
        "before the method, or beside it, *epochs* are all that a run had, and *as long* is: in as "
        "many epochs.",
    ]
    for title, names in IN_BLOCK.items():
        lines += ["", f"### {title}", "", *_block(names, runs)]
        if title in PICTURES:
            lines += ["", f"![Accuracy against sparsity]({PICTURES[title][0]})"]
    done = [EXPERIMENTS[name] for name in EXPERIMENTS if name in runs]
    return "\n".join([*lines, "", "### Published", "", *_published(done)])


def _block(names: list[str], runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What it is of, the table, where ART was stopped, and what was not run."""
    done = [EXPERIMENTS[name] for name in names if name in runs]
    lines = []
    if done:
        about = dict.fromkeys(_about(run) for one in done for run in runs[one.name])
        lines = [
            f"{'; '.join(about)}.",
            "",
            "| method | epochs | kept | dense | top-1 | seeds |",
            "|---|--:|--:|--:|--:|--:|",
            *(_line(experiment, runs) for experiment in done),
        ]
        lines += _limits(done, runs) + _uncut(done, runs)
        lines.append("")
    absent = [name for name in names if name not in runs]
    if not absent:
        return lines[:-1]
    # Those of a block begin alike.
    words = f"{len(absent)} experiments, {absent[0].partition('-')[0]}-…"
    if len(absent) <= MOST_NAMED:
        words = ", ".join(absent)
    return [*lines, f"In the list and not run here: {words}."]


def _about(run: dict[str, Any]) -> str:
    """Network, data, and images."""
    learned = round(run["train"] * (1 - run["held_out"]))
    width = f", {run['network']['width']} wide" if "width" in run["network"] else ""
    held_out = f", {run['train'] - learned:,} held out" if run["held_out"] else ""
    return (
        f"{NETWORKS[run['network']['name']]}{width}, {DATA[run['data']]}: {learned:,} images to "
        f"learn from{held_out}, {run['test']:,} to test on"
    )


def _line(experiment: Experiment, runs: dict[str, list[dict[str, Any]]]) -> str:
    mine = runs[experiment.name]
    cells = (
        experiment.method,
        _spread([run["epochs"] for run in mine], ".0f"),
        f"{_spread([100 * run['kept'] / run['weights'] for run in mine], '.2f')} % "
        f"of {mine[0]['weights']:,}",
        accuracy(dense_of(experiment, runs)),
        f"**{accuracy([run['top1'] for run in mine])}**",
        str(len(mine)),
    )
    return f"| {' | '.join(cells)} |"


def _limits(done: list[Experiment], runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Where ART was stopped by its limit of epochs, or may have been."""
    stopped, unknown = [], []
    for experiment in done:
        planned = {phase.name: phase.epochs for phase in experiment.recipe().phases}
        phases = [phase for run in runs[experiment.name] for phase in run["phases"]]
        arts = [phase for phase in phases if phase["method"] == "hypersparse"]
        level = experiment.name.split("-")[1] if "-" in experiment.name else experiment.name
        words = f"{experiment.method} at {level} %"
        said = [p["findings"]["art_ended_by_itself"] for p in arts if p.get("findings")]
        if not all(said):
            stopped.append(f"{words}, {said.count(False)} of {len(said)}")
        # Runs from before it was noted: fewer epochs than planned tell that it ended by itself.
        silent = [p["epochs"] == planned[p["name"]] for p in arts if not p.get("findings")]
        if any(silent):
            unknown.append(f"{words}, {sum(silent)} of {len(silent)}")
    lines = []
    if stopped:
        lines += ["", f"ART was stopped at its limit of epochs: {'; '.join(stopped)}."]
    if unknown:
        lines += [
            "",
            "ART had all of its epochs, and the file does not say whether it was stopped or done "
            f"with the last one: {'; '.join(unknown)}.",
        ]
    return lines


def _uncut(done: list[Experiment], runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What those had before their last cut that lost a point or more by it."""
    told = []
    for experiment in done:
        lasts = [
            (run["phases"][-1].get("uncut_top1"), run["top1"]) for run in runs[experiment.name]
        ]
        known = [(before, after) for before, after in lasts if before is not None]
        if known and mean(before - after for before, after in known) >= 0.01:
            before = accuracy([before for before, _ in known])
            after = accuracy([after for _, after in known])
            told.append(f"{experiment.method}, {before} before it and {after} after it")
    return ["", f"The cut itself costs a point or more: {'; '.join(told)}."] if told else []


def _published(done: list[Experiment]) -> list[str]:
    """What the sources report, with their networks and data, in percent."""
    lines = [
        "Published, by the sources of these methods, on networks and data of theirs; top-1 in "
        "percent on test images, in most after the epoch that was best on these:",
        "",
        "| method | network | data | kept | dense | top-1 |",
        "|---|---|---|--:|--:|--:|",
    ]
    for experiment in done:
        source = read(experiment.source)
        if experiment.published not in source.published:
            continue
        sparsity = source.published.get("sparsity", source.published.get("parameters_saved", 0.0))
        kept = 100 * (1 - sparsity) if sparsity < 1 else 100 - sparsity
        # Validation is no test: the base of SABR is known by that alone.
        dense = source.published.get("dense_top1")
        cells = (
            experiment.method,
            NETWORKS[source.model["name"]],
            DATA[source.data["name"]],
            f"{kept:.2f} %",
            "–" if dense is None else f"{dense:.2f}",
            f"{source.published[experiment.published]:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    # A recipe may be the source of several experiments.
    return list(dict.fromkeys(lines))


def dense_of(experiment: Experiment, runs: dict[str, list[dict[str, Any]]]) -> list[float]:
    """Top-1 of the dense networks to compare with; of the same seeds, where there are such."""
    seeds = {run["seed"] for run in runs[experiment.name]}
    return [
        run["phases"][0]["top1"]
        for run in runs.get(experiment.dense or experiment.name, [])
        if run["seed"] in seeds and run["phases"][0]["method"] == "dense"
    ]


def accuracy(values: list[float]) -> str:
    """Mean and standard deviation in percent; one value has no spread, and none is a dash."""
    return _spread([100 * value for value in values], ".2f") if values else "–"


def _spread(values: list[float], form: str) -> str:
    """Mean ± standard deviation; values that are all alike, or one alone, have none."""
    spread = f" ± {stdev(values):{form}}" if len(set(values)) > 1 else ""
    return f"{mean(values):{form}}{spread}"
