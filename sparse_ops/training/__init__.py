"""Training methods: each turns an ordinary training run into a masked model and its masks."""

from sparse_ops.training.evaluation import Evaluation, evaluate
from sparse_ops.training.gsm import GSM
from sparse_ops.training.history import History, Row
from sparse_ops.training.loop import fit
from sparse_ops.training.magnitude import Magnitude
from sparse_ops.training.method import Dense, Epoch, Settings, SparsityMethod
from sparse_ops.training.predefined import Aperiodic, Predefined
from sparse_ops.training.schedules import Cosine, MultiStep, Plateau, Schedule

# What a script may name on a command line, and what the contract tests run over.
METHODS: dict[str, type[SparsityMethod]] = {
    "magnitude": Magnitude,
    "predefined": Predefined,
    "gsm": GSM,
}

__all__ = [
    "GSM",
    "METHODS",
    "Aperiodic",
    "Cosine",
    "Dense",
    "Epoch",
    "Evaluation",
    "History",
    "Magnitude",
    "MultiStep",
    "Plateau",
    "Predefined",
    "Row",
    "Schedule",
    "Settings",
    "SparsityMethod",
    "evaluate",
    "fit",
]
