"""Training methods: each turns an ordinary training run into a masked model and its masks."""

from sparse_ops.training import hdf5
from sparse_ops.training.art import HyperSparse
from sparse_ops.training.evaluation import Evaluation, evaluate
from sparse_ops.training.fixed import Fixed
from sparse_ops.training.gsm import GSM
from sparse_ops.training.history import History, Row
from sparse_ops.training.loop import fit
from sparse_ops.training.lottery import lottery_ticket
from sparse_ops.training.magnitude import Magnitude, cut_
from sparse_ops.training.method import Dense, Epoch, Settings, SparsityMethod
from sparse_ops.training.penalties import hypersparse, hypersparse_grad_, l1_loss, l2_loss
from sparse_ops.training.predefined import Aperiodic, Predefined
from sparse_ops.training.sabr import SABR, double_softmax_cross_entropy
from sparse_ops.training.schedules import Cosine, Course, MultiStep, Plateau, Schedule
from sparse_ops.training.spred import Spred

# What a script may name on a command line, and what the contract tests run over.
METHODS: dict[str, type[SparsityMethod]] = {
    "magnitude": Magnitude,
    "predefined": Predefined,
    "gsm": GSM,
    "hypersparse": HyperSparse,
    "sabr": SABR,
    "spred": Spred,
    "fixed": Fixed,
}

__all__ = [
    "GSM",
    "METHODS",
    "SABR",
    "Aperiodic",
    "Cosine",
    "Course",
    "Dense",
    "Epoch",
    "Evaluation",
    "Fixed",
    "History",
    "HyperSparse",
    "Magnitude",
    "MultiStep",
    "Plateau",
    "Predefined",
    "Row",
    "Schedule",
    "Settings",
    "SparsityMethod",
    "Spred",
    "cut_",
    "double_softmax_cross_entropy",
    "evaluate",
    "fit",
    "hdf5",
    "hypersparse",
    "hypersparse_grad_",
    "l1_loss",
    "l2_loss",
    "lottery_ticket",
]
