"""An experiment, what several of them have in common, and what a method is compared with."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sparse_ops.training.recipes import Recipe, read, shortened


@dataclass(frozen=True)
class Experiment:
    """One line of the table.

    Attributes:
        name: of the runs; a group's experiments begin alike.
        method: as the table calls it.
        source: a recipe of the package.
        network: what takes the place of the recipe's.
        changes: values in place of the recipe's, by dotted keys.
        unset: dotted keys of what is taken out of the recipe before.
        shorten: the factor on the epochs of what the changes leave.
        published: the key of the recipe's accuracy that stands beside ours; "" for none.
        dense: the experiment whose first phase is the dense network to compare with; its own, if
            that is dense.
    """

    name: str
    method: str
    source: str
    network: dict[str, Any]
    changes: dict[str, Any] = field(default_factory=dict)
    shorten: float = 1.0
    published: str = "top1"
    dense: str = ""
    unset: tuple[str, ...] = ()

    def recipe(self) -> Recipe:
        recipe = replace(read(self.source, self.changes, self.unset), model=self.network)
        # The committed runs are of the strengths that are said here.
        return shortened(recipe, self.shorten, counts_only=True)


# 5,000 of Fashion-MNIST's 60,000 training images; 800 of the 8,004 digits.
FASHION = {"data.name": "fashion-mnist", "data.validation": 1 / 12}
DIGITS = {"data.name": "digits", "data.validation": 0.1}
# The authors' drops to a tenth would leave most of a short run at rates of no effect.
COSINE = {"name": "cosine", "warm_up": 5}
LENET300 = {"name": "lenet300", "xavier": True}
LENET5 = {"name": "lenet5", "xavier": True}
SMALL_VGG = {"name": "small_vgg", "width": 16}
# What makes a phase a dense one, or one that cuts by and by, over the first half of its epochs.
BARE = ("retrain.options",)


def baselines(
    name: str,
    network: dict[str, Any],
    changes: dict[str, Any],
    epochs: int,
    shorten: float,
    *,
    dense: str,
    said: str = "",
) -> Iterator[Experiment]:
    """Dense, and gradual magnitude, trained for as long as the methods beside them.

    Args:
        name: what the names begin with.
        changes: of data, base and retrain; with the sparsity, of gradual magnitude.
        epochs: of the phase after the base.
        dense: as of an experiment.
        said: what the table adds to the method's name.
    """
    source, common = "magnitude-lenet300-60x", {"retrain.epochs": epochs}
    common |= {"retrain.schedule": COSINE}
    plain = {k: v for k, v in changes.items() if k != "retrain.options.sparsity"}
    if "retrain.options.sparsity" not in changes:
        yield Experiment(
            f"{name}-dense-long",
            f"dense, as long{said}",
            source,
            network,
            common | plain | {"retrain.method": "dense"},
            shorten,
            "",
            dense,
            BARE,
        )
        return
    cut = {"retrain.options.begin": 0, "retrain.options.end": epochs // 2}
    yield Experiment(
        f"{name}-gradual-long",
        f"gradual magnitude, as long{said}",
        source,
        network,
        common | changes | cut,
        shorten,
        "",
        dense,
    )
