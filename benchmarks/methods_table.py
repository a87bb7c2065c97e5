"""What `benchmarks.methods` has written, as a table: ours beside the published figure."""

from statistics import mean, stdev
from typing import Any

from benchmarks.experiments import EXPERIMENTS, Experiment
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


def methods_table(data: dict[str, Any]) -> str:
    """The runs of a results file as Markdown, one line an experiment, in the order of the list."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in data["runs"]:
        runs.setdefault(run["experiment"], []).append(run)
    here = data["machine"]
    lines = [
        f"{here['cpu']}, torch {here['torch']}, float32; `{data['command']}`. Top-1 in percent on "
        "the test images, mean ± standard deviation over the seeds: after the last epoch, and "
        "after that which was the best on held-out images of those as sparse as the last one.",
        "",
        "| method | network | data | images: learned + tested | kept | dense | ours | best epoch "
        "| seeds | published: method (dense) | that on |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [_line(EXPERIMENTS[name], runs) for name in EXPERIMENTS if name in runs]
    if absent := [name for name in EXPERIMENTS if name not in runs]:
        lines += ["", f"In the list and not run here: {', '.join(absent)}."]
    return "\n".join(lines)


def _line(experiment: Experiment, runs: dict[str, list[dict[str, Any]]]) -> str:
    mine = runs[experiment.name]
    one, best = mine[0], [run["top1_best"] for run in mine]
    kept = mean(run["kept"] for run in mine)
    learned = round(one["train"] * (1 - one["held_out"]))
    width = f", {one['network']['width']} wide" if "width" in one["network"] else ""
    source = read(experiment.source)
    published = source.published.get(experiment.published)
    beside = source.published.get("dense_top1", source.published.get("base_validation_top1"))
    cells = (
        experiment.method,
        NETWORKS[one["network"]["name"]] + width,
        DATA[one["data"]],
        f"{learned:,} + {one['test']:,}",
        f"{kept:,.0f} of {one['weights']:,} ({kept / one['weights']:.2%})",
        accuracy(dense_of(experiment, runs)),
        f"**{accuracy([run['top1'] for run in mine])}**",
        "–" if None in best else accuracy(best),
        str(len(mine)),
        "–"
        if published is None
        else f"{published:.2f}" + (f" ({beside:.2f})" if beside is not None else ""),
        "–"
        if published is None
        else f"{NETWORKS[source.model['name']]}, {DATA[source.data['name']]}",
    )
    return f"| {' | '.join(cells)} |"


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
    if not values:
        return "–"
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}"
