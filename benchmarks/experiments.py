"""What `benchmarks.methods` runs: the published recipes, on what fits here, shortened.

Each experiment is a recipe of the package and what is changed in it. Schedules keep their form: all
epochs are multiplied by one factor. Nothing was chosen on test images: what is not the authors' was
chosen on images held out of the training ones, or follows from the factor, and is said here.
"""

from dataclasses import dataclass, field
from typing import Any

from sparse_ops.training.recipes import Recipe, read, shortened


@dataclass(frozen=True)
class Experiment:
    """One line of the table.

    Attributes:
        name: of the run; a group's experiments begin alike.
        method: as the table calls it.
        source: a recipe of the package.
        changes: values in place of the recipe's, by dotted keys.
        shorten: the factor on the epochs of what the changes leave.
        published: the key of the recipe's accuracy that stands beside ours; "" for none.
    """

    name: str
    method: str
    source: str
    changes: dict[str, Any] = field(default_factory=dict)
    shorten: float = 1.0
    published: str = "top1"

    def recipe(self) -> Recipe:
        return shortened(read(self.source, self.changes), self.shorten)


# 5,000 of Fashion-MNIST's 60,000 training images; 800 of the 8,004 digits.
FASHION = {"data.name": "fashion-mnist", "data.validation": 1 / 12}
DIGITS = {"data.name": "digits", "data.validation": 0.1}


# The authors' steps, four drops to a tenth, would leave most of a short run at rates of no effect.
COSINE = {"name": "cosine", "warm_up": 5}


def lenet300() -> list[Experiment]:
    """A tenth of the epochs, so ten times GSM's decay: what never learns decays as far."""
    base = FASHION | {"base.schedule": COSINE}
    gsm, ticket = {"gsm.weight_decay": 5e-3}, {"ticket.schedule": COSINE}
    retrain = {"retrain.schedule": COSINE}
    runs = (
        ("gsm", "GSM, then one cut", "gsm-lenet300-60x", gsm, "top1"),
        ("ticket-gsm", "lottery ticket, GSM", "lottery-gsm-lenet300-60x", gsm | ticket, "top1"),
        (
            "ticket-magnitude",
            "lottery ticket, magnitude",
            "lottery-magnitude-lenet300-60x",
            ticket,
            "top1",
        ),
        ("magnitude", "magnitude, retrained", "magnitude-lenet300-60x", retrain, ""),
    )
    return [
        Experiment(f"lenet300-{name}", method, source, base | changes, 0.1, published)
        for name, method, source, changes, published in runs
    ]


EXPERIMENTS = {e.name: e for e in [*lenet300()]}
