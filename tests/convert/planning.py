"""What the tests of plans share."""

import copy

import torch

import sparse_ops as so
from sparse_ops.nn import SparseLayer
from tests.convert.models import EXAMPLE, says


def planned(model, masks=None, ratio=2.0, example=None, **options):
    example = torch.randn(EXAMPLE) if example is None else example
    return so.plan(model, example, masks, measure=says(ratio), progress=False, **options)


def is_packed(call):
    """Whether this is a call of a `Net` with packed layers."""
    return of_net(call) and any(isinstance(m, SparseLayer) for m in call.func.modules())


def of_net(call):
    """Whether this is a call of a whole `Net`, maybe as a graph."""
    return hasattr(call.func, "periodic")


def row(plan, name):
    return next(layer for layer in plan.layers if layer.name == name)


def masked(model, masks):
    model = copy.deepcopy(model)
    so.masks.apply_(model, masks)
    return model
