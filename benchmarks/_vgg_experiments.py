"""What is run on a small VGG of 16 channels: patterns, spred, and magnitude beside them."""

from collections.abc import Iterator

from benchmarks._experiment import COSINE, FASHION, SMALL_VGG, Experiment

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
    groups = {"filter": "whole filters", "channel": "input channels", "weight": "single weights"}
    for percent in (80, 60, 40, 20):
        for mode, words in groups.items():
            level = percent / 100
            for name, method, more in (
                ("spred", "spred", {"spred.options.strength": round(6e-4 * level, 6)}),
                ("magnitude", "gradual magnitude", {"spred.options.gate": "none"}),
            ):
                yield Experiment(
                    f"vgg-{name}-{mode}-{percent}",
                    f"{method}, {percent} % of {words}",
                    f"spred-resnet18-cifar10-{mode}-80",
                    SMALL_VGG,
                    {**FASHION, "spred.options.sparsity": level, **more},
                    1 / 5,
                    "",
                    "vgg-dense",
                )
