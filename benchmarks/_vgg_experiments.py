"""What is run on a small VGG of 16 channels: patterns, spred, and magnitude beside them."""

from collections.abc import Iterator

from benchmarks._experiment import COSINE, FASHION, SMALL_VGG, Experiment

GROUPS = {"filter": "whole filters", "channel": "input channels", "weight": "single weights"}
# With the rates of the package's recipes; AdamW has Adam's.
OPTIMIZERS = {"adam": ("Adam", 1e-3), "adamw": ("AdamW", 1e-3), "adagrad": ("Adagrad", 1e-2)}
LEVELS = (80, 60, 40, 20)
# What each pattern keeps of the network's 18,896 weights.
PATTERNS = {"psd4-p8": 9_936, "psd2-p8": 6_352, "psd1-p8": 4_560}


def patterns(name: str, factor: float) -> Iterator[Experiment]:
    """A part of 120 epochs; and gradual magnitude that keeps as many weights as each pattern."""
    changes = {
        **FASHION,
        "data.batch_size": 128,
        "train.epochs": 120,
        "train.schedule": COSINE | {"warm_up": 40},
    }
    for pattern in ("dense", *PATTERNS):
        yield Experiment(
            f"{name}-{pattern}",
            "dense" if pattern == "dense" else pattern.upper().replace("-", "_"),
            f"predefined-vgg16-{pattern}",
            SMALL_VGG,
            changes,
            factor,
            dense=f"{name}-dense",
        )
    for pattern, kept in PATTERNS.items():
        options = {"sparsity": 1 - (kept - 0.5) / 18_896, "begin": 0, "end": 60}
        yield Experiment(
            f"{name}-{pattern}-gradual-long",
            f"gradual magnitude, as many as {pattern.upper().replace('-', '_')}",
            "predefined-vgg16-dense",
            SMALL_VGG,
            changes | {"train.method": "magnitude", "train.options": options},
            factor,
            "",
            f"{name}-dense",
        )


def predefined() -> Iterator[Experiment]:
    """Three epochs for 120."""
    yield from patterns("predefined", 1 / 40)


def spred() -> Iterator[Experiment]:
    """Four epochs for 30, the last two of them after the cut.

    Filters go by the scales of the BatchNorms behind them, at ten times the strength: that left
    83.7 % on held-out images, in six epochs; filters themselves 82.7 %, and 76.2 % at ten times the
    strength.
    """
    scales = {"spred.options.gate": "bn", "spred.options.strength": 1e-3}
    for mode, method, more in (
        ("weight", "spred, single weights", {}),
        ("filter", "spred, whole filters", scales),
    ):
        yield Experiment(
            f"spred-{mode}",
            method,
            f"spred-resnet18-cifar10-{mode}-80",
            SMALL_VGG,
            {**FASHION, "spred.options.fine_tune": 15, **more},
            2 / 15,
            "",
            "predefined-dense",
            # As the committed runs were: all is cut at once.
            ("spred.options.begin", "spred.options.end", "spred.options.strength"),
        )
    # The same cuts by magnitude, by and by before the last two epochs; and no cut at all.
    magnitude = {"spred.options.gate": "none", "spred.options.begin": 7, "spred.options.end": 15}
    for mode, groups in (("weight", "single weights"), ("filter", "whole filters")):
        yield Experiment(
            f"spred-{mode}-gradual-long",
            f"gradual magnitude, {groups}",
            "spred-resnet18-cifar10-weight-80",
            SMALL_VGG,
            {**FASHION, "spred.options.fine_tune": 15, "spred.options.mode": mode, **magnitude},
            2 / 15,
            "",
            "predefined-dense",
        )
    yield Experiment(
        "spred-dense-long",
        "dense, as long",
        "spred-resnet18-cifar10-weight-80",
        SMALL_VGG,
        {**FASHION, "spred.method": "dense"},
        2 / 15,
        "",
        "predefined-dense",
        ("spred.options",),
    )


def vgg() -> Iterator[Experiment]:
    """Six epochs for 30, and for the 120 of the patterns, at four levels.

    spred is as strong in a step as the command line makes it at that level; what is cut is cut from
    the third epoch to the fourth, and the last two are without a penalty. Magnitude cuts the same
    share of the same groups in the same epochs, without products and without a penalty.
    """
    yield from patterns("vgg", 1 / 20)
    for percent in LEVELS:
        for mode, words in GROUPS.items():
            for name, method, more in (
                ("spred", "spred", _strength(percent)),
                ("magnitude", "gradual magnitude", {"spred.options.gate": "none"}),
            ):
                yield _level(
                    f"vgg-{name}-{mode}", f"{method}, {percent} % of {words}", mode, percent, more
                )


def optimizers() -> Iterator[Experiment]:
    """The same with three other optimizers than SGD, and dense networks beside them."""
    for name, (words, rate) in OPTIMIZERS.items():
        own = {"spred.optimizer": name, "spred.lr": rate}
        yield Experiment(
            f"optimizers-{name}-dense",
            f"dense, {words}",
            "spred-resnet18-cifar10-weight-80",
            SMALL_VGG,
            {**FASHION, **own, "spred.method": "dense"},
            1 / 5,
            "",
            unset=("spred.options", "spred.momentum"),
        )
        for percent in LEVELS:
            for mode, groups in GROUPS.items():
                yield _level(
                    f"optimizers-{name}-spred-{mode}",
                    f"spred, {words}, {percent} % of {groups}",
                    mode,
                    percent,
                    own | _strength(percent),
                    f"optimizers-{name}-dense",
                    ("spred.momentum",),
                )


def _strength(percent: int) -> dict[str, float]:
    """As the command line makes it at a level."""
    return {"spred.options.strength": round(6e-6 * percent, 6)}


def _level(
    name: str,
    method: str,
    mode: str,
    percent: int,
    more: dict[str, object],
    dense: str = "vgg-dense",
    unset: tuple[str, ...] = (),
) -> Experiment:
    return Experiment(
        f"{name}-{percent}",
        method,
        f"spred-resnet18-cifar10-{mode}-80",
        SMALL_VGG,
        {**FASHION, "spred.options.sparsity": percent / 100, **more},
        1 / 5,
        "",
        dense,
        unset,
    )


def sweep() -> Iterator[Experiment]:
    """Accuracy against compression, as spred's authors have it: a strength, and what it leaves.

    Every convolution takes part; the penalty acts for four epochs, then what is smaller than 0.01,
    the largest of the authors' thresholds, is cut, and two epochs follow. Their weight decays, each
    half of which is a κ, go from 1e-6 to 1e-2; this run is short, and needs eight times as much of
    it in a step. Magnitude is told how many weights to remove, from all layers together as a
    threshold does, and removes them by and by.
    """
    every = {"spred.options.exempt": [], "spred.options.fine_tune": 10}
    at_once = ("spred.options.begin", "spred.options.end")
    for strength in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
        yield Experiment(
            f"sweep-spred-{strength:g}",
            f"spred, κ = {strength:g}",
            "spred-resnet18-cifar10-weight-80",
            SMALL_VGG,
            {
                **FASHION,
                **every,
                "spred.options.strength": strength,
                "spred.options.threshold": 0.01,
            },
            1 / 5,
            "",
            "vgg-dense",
            at_once,
        )
    for percent in (50, 70, 80, 90, 95, 98):
        yield _level(
            "sweep-magnitude",
            f"gradual magnitude over all layers, {percent} %",
            "weight",
            percent,
            every | {"spred.options.gate": "none", "spred.options.scope": "global"},
        )
