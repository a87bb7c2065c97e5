"""What acts step by step or epoch by epoch, made stronger for a run of fewer of them.

`factor` is on the epochs of a run, `share` on its steps; both are below 1.

    weight decay of GSM     what an inactive weight decays to is what it was, or a thousandth
    momentum of GSM         ** 1 / share, but no less than 0.9, at the same lr / (1 - momentum)
    growth of penalties     ** 1 / factor
    strength of penalties   / share; that of spred no more than 3e-3
    rate of Adam and AdamW  / share, but no more than 1e-3: it is how far a weight goes in a step
    ... for spred's gates   on BatchNorm, up to 1e-2; that of Adagrad too, up to 0.1

Weight decay elsewhere is left alone: it says what is learned, not how fast.
"""

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

from sparse_ops.training.decay import least_decay, left_over
from sparse_ops.training.gsm import GSM
from sparse_ops.training.sabr import SABR
from sparse_ops.training.schedules import Course
from sparse_ops.training.spred import Spred

# Cut from there on, GSM's networks were as good as before the cut: LeNet-300-100 at 60x on 10,000
# images in 1,008 steps 85.0 % after 85.1 %, on images held out; LeNet-5 at 300x on 7,200 digits in
# 812 steps 96.5 % after 96.6 %. More than this buys nothing there, and costs decay.
GOAL = 1e-3
# Networks here learn as well with it, and swing less.
LEAST_MOMENTUM = 0.9
# torch's own for Adam; above it networks with and without BatchNorm begin to be unstable.
MOST_ADAM = 1e-3
# Scales of BatchNorm begin at 1: in 120 steps of 1e-3 none comes below 0.88, and all come as far. A
# VGG of 8 channels, 240 steps, penalty 3e-3: Adam at 1e-3 had 55 % right, at 1e-2 77 %; Adagrad at
# 1e-2 53 %, at 0.1 71 %. Scales to be cut were to the others, before the first cut, as 0.94 and
# 0.69; as 0.91 and 0.49.
MOST_GATES = {"adam": 1e-2, "adamw": 1e-2, "adagrad": 0.1}
# A penalty is also a part of what is learned, as decay is: at 6e-2, in 192 steps, a VGG of 16
# channels had 21 % of the images held out right, at 6e-3 80 %, without any 83 %.
MOST_SPRED = 3e-3
ADAMS = ("adam", "adamw")


def gsm(
    fit: dict[str, Any], own: Course, now: Course, given: Collection[str] = ()
) -> dict[str, Any]:
    """GSM's arguments of `fit` for another course than the authors'.

    Args:
        fit: as in the recipe: of lr, momentum, weight_decay and nesterov what is not GSM's own.
        own, now: the run that they are for, and the one that is wanted.
        given: which of them are to stay.
    """
    before = replace(
        GSM.settings, **{key: value for key, value in fit.items() if key in asdict(GSM.settings)}
    )
    lr, momentum = before.lr, before.momentum
    kept = momentum, before.weight_decay, before.nesterov
    goal = max(GOAL, left_over(own.rates(lr), *kept))
    if "weight_decay" in given or left_over(now.rates(lr), *kept) <= goal:
        return fit
    if not {"lr", "momentum"} & set(given):
        share = (now.epochs * (now.steps or 1)) / max(1, own.epochs * (own.steps or 1))
        momentum = max(before.momentum ** (1 / share), min(before.momentum, LEAST_MOMENTUM))
        lr = before.lr * (1 - momentum) / (1 - before.momentum)
    begin = before.weight_decay
    decay = least_decay(now.rates(lr), momentum, before.nesterov, goal=goal, begin=begin)
    return fit | {"lr": rounded(lr), "momentum": rounded(momentum), "weight_decay": rounded(decay)}


def hypersparse(options: dict[str, Any], factor: float, share: float) -> dict[str, Any]:
    """HyperSparse's options; the growth from epoch to epoch and the strength of the first."""
    found = dict(options)
    for key, value in (("growth", 1.05), ("strength", 5e-6)):
        found.setdefault(key, value)
    found["growth"] = rounded(found["growth"] ** (1 / factor))
    found["strength"] = rounded(found["strength"] / share)
    return found


def sabr(options: dict[str, Any], factor: float, share: float) -> dict[str, Any]:
    """SABR's options; `share` is of how far a weight goes in all, where the rate is another too."""
    found = dict(options)
    for key in ("increase", "decrease", "strength", "patience"):
        found.setdefault(key, getattr(SABR, key))
    for key in ("increase", "decrease"):
        found[key] = rounded(found[key] ** (1 / factor))
    found["strength"] = rounded(found["strength"] / share)
    # One bad epoch may be chance, however few there are.
    found["patience"] = max(min(found["patience"], 2), round(found["patience"] * factor))
    return found


def spred(options: dict[str, Any], share: float) -> dict[str, Any]:
    """spred's options."""
    strength = options.get("strength", Spred.strength)
    return dict(options) | {"strength": rounded(max(strength, min(MOST_SPRED, strength / share)))}


def adam(fit: dict[str, Any], share: float, most: float = MOST_ADAM) -> dict[str, Any]:
    """The rate of Adam and AdamW, where one is said."""
    if "lr" not in fit or fit["lr"] >= most:
        return fit
    return fit | {"lr": rounded(min(most, fit["lr"] / share))}


def gates(fit: dict[str, Any], optimizer: str, share: float) -> dict[str, Any]:
    """The rate of spred's gates on BatchNorm, where one is said; that of SGD is large enough."""
    if optimizer not in MOST_GATES:
        return fit
    return adam(fit, share, MOST_GATES[optimizer])


def rounded(value: float) -> float:
    """To four digits, which is more than any of these settings is known to."""
    return float(f"{value:.4g}")
