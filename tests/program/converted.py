"""Converted models for tests: small networks, pruned, that run as programs."""

import torch
from torch import nn

import sparse_ops as so
from sparse_ops.graph.capture import capture
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.layout import uniform
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.programmed import with_programs_
from sparse_ops.program.program import CHANNELS, IMAGES, PLANAR
from tests.convert.small_networks import images, masks_of, model_of

DENSE = ("stem", "0", "gate")
KINDS = {
    nn.Conv2d: so.nn.CSRConv2d,
    nn.ConvTranspose2d: so.nn.CSRConvTranspose2d,
    nn.Linear: so.nn.CSRLinear,
}


def converted(kind, order=CHANNELS, count=16, piece=0):
    """A model whose layers are packed, but for the first, and that runs as a program."""
    torch.manual_seed(1)
    return in_order(packed(model_of(kind)), order, images(count), piece)


def packed(model):
    """The same with its layers packed, in place."""
    for name, mask in masks_of(model, DENSE).items():
        owner, _, last = name.removesuffix(".weight").rpartition(".")
        if last in DENSE:
            continue
        parent = model.get_submodule(owner)
        layer = getattr(parent, last)
        setattr(parent, last, KINDS[type(layer)].from_dense(layer, mask))
    return model.eval()


def in_order(model, order, x, piece=0):
    """The same, running as a program, in place."""
    graph = capture(model, (x,))
    fuse(graph)
    orders = tuple(uniform(graph, order).items())
    small = tuple(uniform(graph, PLANAR).items())
    return with_programs_(model, Decisions((), orders, small, piece), (x,))


ORDERS = {"planar": PLANAR, "channels": CHANNELS, "images": IMAGES}
