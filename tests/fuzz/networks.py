"""Random networks, masks and options: planned, applied, called, saved and loaded, by float64."""

import contextlib
import copy
import os
import random
import tempfile
import zlib
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves

import sparse_ops as so
from sparse_ops.planning.checkpoint import NeedsModel
from sparse_ops.planning.measure import Comparison
from tests.convert.small_networks import MODELS
from tests.fuzz import NoCase
from tests.passes.networks import KINDS, Random

SMALL = {model.__name__: model for model in MODELS}
SIMPLER = {
    "masks": ["none", "random", "rows", "classes", "channels", "everything", "nothing"],
    "dtype": ["float32", "bfloat16", "float16", "float64"],
    "layout": ["contiguous", "channels_last"],
    "name": [],
    "kinds": [],
}
DENSITIES = (0.02, 0.1, 0.3, 0.6, 0.9)
# As `planning.verify` allows it: a small multiple of what the dense model itself is off by, or some
# units in the last place of the largest output.
FACTOR, ULPS = 8.0, 64.0
QUIET = {"progress": False, "compile": False}


def draw(chance):
    name = chance.choice(list(SMALL)) if chance.random() < 0.2 else None
    count = chance.choice((1, 1, 2, 3, 16, 17))
    size = [12, 12] if name else [chance.randint(2, 9), chance.randint(2, 9)]
    calls = [[chance.choice((1, 2, 5, 16, 17, 33)), *size] for _ in range(2)]
    if name is None:
        calls.append([chance.choice((1, 3)), chance.randint(2, 11), chance.randint(2, 11)])
    return {
        "seed": chance.randrange(10**6),
        "name": name,
        "kinds": [[kind] for kind in chance.choices(KINDS, k=chance.randint(1, 10))],
        "masks": chance.choice(SIMPLER["masks"]),
        "density": chance.randrange(len(DENSITIES)),
        "dtype": chance.choices(SIMPLER["dtype"], (12, 1, 1, 1))[0],
        "example": [count, *size],
        "calls": calls,
        "layout": chance.choices(SIMPLER["layout"], (3, 1))[0],
        "clock": chance.randrange(10**6),
        "dense_wins": chance.random() < 0.1,
        "mixed": chance.random() < 0.4,
        "unfolded": chance.random() < 0.1,
        "unshrunk": chance.random() < 0.2,
        "threads": chance.choice((1, 1, 1, 2)),
        "onednn": chance.random() < 0.1,
    }


def prepare():
    """What planning imports when it is first asked for, some seconds."""
    planned = so.plan(MODELS[0]().eval(), torch.randn(2, 3, 12, 12), {}, **QUIET)
    planned.apply(MODELS[0]().eval())


def choose_convolutions(onednn):
    """PyTorch's own: those of oneDNN compile code for every shape, which takes most of a case.

    Those from 16 images on without oneDNN are off by more than the sums explain.
    """
    torch._C._set_mkldnn_enabled(onednn)
    torch.backends.nnpack.set_flags(False)


def model_of(case):
    torch.manual_seed(case["seed"])
    if case["name"]:
        model = SMALL[case["name"]]()
    else:
        model = Random(random.Random(case["seed"]), [kind for (kind,) in case["kinds"]])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval().to(getattr(torch, case["dtype"])).requires_grad_(False)


def masks_of(case, model):
    """Parameter name -> mask; None: the model's own zeros."""
    how, density = case["masks"], DENSITIES[case["density"]]
    if how == "none":
        return None
    masks = {}
    for name, weight in so.masks.weights(model).items():
        shape = weight.shape
        if how == "random":
            mask = torch.rand(shape) < density
        elif how == "rows":
            mask = (torch.rand(shape[0]) < density).view(-1, *[1] * (len(shape) - 1)).expand(shape)
        elif how == "classes":
            few = torch.rand(min(3, shape[0]), *shape[1:]) < density
            mask = few.repeat(-(-shape[0] // len(few)), *[1] * (len(shape) - 1))[: shape[0]]
        elif how == "channels":
            mask = torch.rand(shape[1]) < density
            mask = mask.view(1, -1, *[1] * (len(shape) - 2)).expand(shape)
        else:
            mask = torch.full(shape, how == "everything")
        masks[name] = mask.contiguous()
    return masks


class Clock:
    """A measurement that calls nothing, and says what a case wants it to."""

    def __init__(self, case):
        self.chance = random.Random(case["clock"])
        self.ratios = (0.5, 1.1, 2.0, 3.0) if case["mixed"] else (2.0,)
        self.ratios = (0.5,) if case["dense_wins"] else self.ratios

    def __call__(self, dense, packed, budget_s):
        ratio = self.chance.choice(self.ratios)
        return Comparison(ratio, 1.0, ratio, 0.9 * ratio, 1.1 * ratio, 20)


def check(case):
    shapes = [case["example"], *case["calls"]]
    if any(len(shape) != 3 or min(shape) < 1 for shape in shapes):
        raise NoCase
    choose_convolutions(case["onednn"])
    model = model_of(case)
    masks = masks_of(case, model)
    torch.set_num_threads(case["threads"])
    x = images(case, case["example"])
    dense = copy.deepcopy(model)
    if masks is not None:
        so.masks.apply_(dense, masks)
    try:
        truths = {tuple(shape): truth_of(dense, images(case, shape)) for shape in shapes}
    except (RuntimeError, ValueError) as error:
        # A reflection that is larger than its image, an operation that a type does not have.
        raise NoCase from error
    plan = so.plan(
        model, x, masks, measure=Clock(case), fold=not case["unfolded"],
        shrink=not case["unshrunk"], **QUIET,
    )  # fmt: skip
    fast = plan.apply(model)
    for shape in shapes:
        compare(fast, truths[tuple(shape)], images(case, shape), "apply")
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        path = Path(folder) / "x.safetensors"
        so.save(fast, path)
        others = {"load": so.load(path, model_of(case))}
        with contextlib.suppress(NeedsModel):
            others["load without a model"] = so.load(path)
    for shape in shapes:
        for what, other in others.items():
            compare(other, truths[tuple(shape)], images(case, shape), what)
    return "a program" if len(others) == 2 else "packed" if plan.packed else "dense"


def scratch():
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def images(case, shape):
    chance = torch.Generator().manual_seed(zlib.crc32(repr(shape).encode()))
    x = torch.randn(shape[0], 3, *shape[1:], generator=chance).to(getattr(torch, case["dtype"]))
    last = case["layout"] == "channels_last"
    return x.contiguous(memory_format=torch.channels_last) if last else x


@torch.no_grad()
def truth_of(dense, x):
    """(what the dense model gives, what it gives in float64)."""
    plain = tree_leaves(copy.deepcopy(dense)(x.clone()))
    return plain, tree_leaves(copy.deepcopy(dense).double()(x.double()))


@torch.no_grad()
def compare(fast, truth, x, what):
    ours, (theirs, wide) = tree_leaves(fast(x.clone())), truth
    assert len(ours) == len(theirs)
    for y, plain, exact in zip(ours, theirs, wide, strict=True):
        assert y.shape == plain.shape and y.dtype == plain.dtype, (what, y.shape, plain.shape)
        judged = exact.isfinite() & plain.isfinite()
        if not judged.any():
            continue
        error = (y.double() - exact)[judged].abs().nan_to_num(nan=float("inf")).max()
        own = (plain.double() - exact)[judged].abs().max()
        ulp = torch.finfo(y.dtype).eps / 2 * exact[judged].abs().max()
        smallest = torch.finfo(y.dtype).tiny
        allowed = max(FACTOR * own, ULPS * ulp) + smallest
        assert error <= allowed, f"{what} {tuple(x.shape)}: off by {error:.3g}, dense by {own:.3g}"
