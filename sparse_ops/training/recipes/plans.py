"""A whole run of each method, where no published experiment is asked for.

At the length that the method's authors give it, if they do: what is trained before, the method, and
what comes after its cut. `planned` brings it to the length that is asked for, as `shortened` does.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparse_ops.training.recipes.recipe import Recipe, as_content, made
from sparse_ops.training.recipes.shorten import LENGTHS, Pace, shortened
from sparse_ops.training.recipes.strengths import rounded
from sparse_ops.training.sabr import SABR
from sparse_ops.training.spred import Spred

Content = dict[str, Any]

# Steps of the authors' epochs: MNIST in batches of 256, CIFAR-10 in 64, HG14 in 64; of spred, whose
# settings are ours, CIFAR-10 in 128.
STEPS = {"gsm": 235, "hypersparse": 782, "sabr": 158, "spred": 391}
# What SABR watches, if nothing else is said: a tenth of the images.
HELD_OUT = 0.1


def planned(
    method: str,
    options: Mapping[str, Any],
    *,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    images: int,
    norms: bool,
    epochs: int,
    started: bool = False,
    lr: float | None = None,
) -> Recipe:
    """A run of about so many epochs in all.

    Args:
        method: a name in METHODS.
        options: of the method; they are taken as they are.
        model, data: as in a recipe's file.
        images: how many there are to learn from, those held out included.
        norms: whether the network has BatchNorm, which bears larger steps.
        epochs: 0 for none: the method then masks the network as it is.
        started: whether the network is a trained one: nothing is trained before the method then.
        lr: of the phase that the method is.

    Raises:
        ValueError: the method does not take these options.
    """
    data, options = dict(data), dict(options)
    if method == "sabr" and epochs:
        held_out = images * data.setdefault("validation", HELD_OUT)
        # Two standard deviations of the share of so many that is right, where nine in ten are: what
        # is within is chance. The authors' is for 2,520 images with next to none wrong.
        options.setdefault("tolerance", max(SABR.tolerance, rounded(0.6 / held_out**0.5)))
    phases = _phases(method, norms)
    if method == "spred":
        # As in the recipes: the more is to go the stronger, and filters by the BatchNorm behind.
        level = float(options.get("sparsity", Spred.sparsity))
        phases[0]["options"]["strength"] = rounded(max(1e-4, 6e-4 * level))
        if options.get("mode") == "filter" and norms:
            options.setdefault("gate", "bn")
    if started or not epochs:
        phases = [phase for phase in phases if phase["method"] != "dense"]
        for phase in phases:
            phase.pop("from_best", None)
            if not epochs:
                phase.pop("schedule", None)
    if lr is not None:
        phases[-1]["lr"] = lr
    if method == "fixed":
        phases[0]["options"] = dict(options)
    content: Content = {
        "title": f"{method} on {model['name']} and {data['name']}",
        "source": "a plan of this package",
        "data": data,
        "model": dict(model),
        "phases": phases,
    }
    plan = made(method, content)
    here = Pace.of(plan, plan, images).now
    if not epochs:
        short = replace(plan, phases=tuple(replace(p, epochs=0, schedule={}) for p in plan.phases))
    else:
        given = [] if lr is None else [f"{method}.lr"]
        pace = Pace(STEPS.get(method, here), here)
        length = sum(phase.epochs for phase in plan.phases)
        short = shortened(plan, epochs / length, pace, given=given)
    content = as_content(short)
    last = content["phases"][-1]
    last["options"] = {**last["options"], **options}
    if LENGTHS & set(options) and set(last["options"]) >= LENGTHS and epochs:
        last["epochs"] = sum(last["options"][key] for key in LENGTHS)
    return made(method, content)


def _phases(method: str, norms: bool) -> list[Content]:
    sgd = {"lr": 0.1 if norms else 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}

    def learned(name: str, kind: str, epochs: int, **more: Any) -> Content:
        schedule = {"name": "cosine", "warm_up": epochs / 20}
        return {"name": name, "method": kind, "epochs": epochs, "schedule": schedule} | sgd | more

    if method == "gsm":
        return [
            learned("base", "dense", 200),
            {
                "name": "gsm",
                "method": "gsm",
                "epochs": 280,
                "schedule": {"name": "multi-step", "boundaries": [160, 200, 240], "warm_up": 5},
                **{"lr": 1e-2, "momentum": 0.99, "nesterov": True, "weight_decay": 5e-4},
            },
        ]
    if method == "hypersparse":
        lengths = {"warm_up": 60, "max_epochs": 200, "fine_tune": 160, "drops": [80, 120]}
        # The authors' 0.1 is for their networks, which have BatchNorm; without it 0.03 is borne.
        rate = {"lr": 0.1 if norms else 0.03, "momentum": 0.9, "weight_decay": 1e-4}
        options = {"strength": 5e-6, "growth": 1.05, **lengths}
        return [{"name": method, "method": method, "epochs": 420, "options": options, **rate}]
    if method == "sabr":
        adam = {"optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0}
        falls = {"name": "plateau", "gamma": 0.51, "patience": 3}
        first = {"name": "base", "method": "dense", "epochs": 20, "schedule": falls, **adam}
        then = {"schedule": {**falls, "least": 0.1}, "from_best": True}
        return [first, {"name": method, "method": method, "epochs": 50, **then, **adam}]
    if method == "magnitude":
        half = {"options": {"begin": 0, "end": 60}}
        return [learned("base", "dense", 100), learned(method, method, 100, **half)]
    if method == "spred":
        # Without their weight decay: the penalty is in its place.
        cut = {"options": {"begin": 10, "end": 20, "fine_tune": 10}, "weight_decay": 0.0}
        return [learned(method, method, 30, **cut)]
    return [learned(method, method, 100)]
