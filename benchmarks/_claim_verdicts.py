"""The claims, and what the measured rows say of each: holds, falls short, or cannot be tested."""

from collections.abc import Callable, Iterator
from functools import cache
from statistics import mean
from typing import Any

from benchmarks._claim_cases import EQUALS, STEPS_WITH, WIDTHS
from benchmarks._claim_finding import (
    HOLDS,
    NOT_HERE,
    REFUTED,
    SHORT,
    Finding,
    factor_finding,
    order_finding,
    points,
    time_finding,
)
from benchmarks._claim_training import LEVELS, OPTIMIZERS
from sparse_ops import data

Rows = dict[str, dict[str, Any]]


def judge(rows: Rows) -> list[Finding]:
    """All findings that the rows, by "case@batch", are enough for; and what cannot be tested."""
    found = [*_psconv(rows), *_equal_flops(rows), *_levels(rows), *_spred(rows), *_sabr(rows)]
    return [*found, *_hypersparse(rows), *_gsm(rows), *_hardware(rows), *_not_here()]


PSCONV = "pSConv: Kundu et al., arXiv:2001.10710"
SABR = "SABR, the published code and logs"
HYPERSPARSE = "HyperSparse and ART"
GSM = "GSM: Ding et al., arXiv:1909.12778"
SPRED = "structured sparsity by spred, a project's README"


def _of(rows: Rows, case: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a case, the smallest batch first."""
    mine = [(key, row) for key, row in rows.items() if row["case"] == case]
    yield from sorted(mine, key=lambda pair: pair[1]["batch"])


def _psconv(rows: Rows) -> Iterator[Finding]:
    for network, operations, saved in (("resnet18", 5.6, 0.8193), ("vgg16", 5.8, 0.8322)):
        claim = f"{network} under PSD1_P16 does {operations}× fewer operations"
        smaller = f"{network} under PSD1_P16 has {saved:.1%} fewer parameters"
        for number, (key, row) in enumerate(_of(rows, f"psconv-{network}")):
            if number == 0:
                yield factor_finding(PSCONV, claim, "operations", operations, row["ideal"], key)
                sizes = row["bytes"]
                wanted = 1 / (1 - saved)
                disk = sizes["dense_disk"] / sizes["packed_disk"]
                why = (
                    f"{sizes['dense_disk']:,} to {sizes['packed_disk']:,} bytes, every layer packed"
                )
                yield factor_finding(PSCONV, smaller, "bytes on disk", wanted, disk, key, why)
            held = row["bytes"]["dense_memory"] / row["bytes"]["planned_memory"]
            why = f"as planned for speed at batch {row['batch']}; activations come on top"
            yield factor_finding(
                PSCONV, smaller, "bytes in memory", 1 / (1 - saved), held, key, why
            )
            yield time_finding(PSCONV, claim, operations, key, row)


def _equal_flops(rows: Rows) -> Iterator[Finding]:
    for wide, pattern in WIDTHS.items():
        for key, ours in _of(rows, f"equal{wide}-resnet18"):
            for other in EQUALS:
                theirs = f"equal{wide}-{other}@{ours['batch']}"
                if theirs in rows:
                    yield from _beside_dense(f"ResNet18 under {pattern}", other, rows, key, theirs)


def _beside_dense(name: str, other: str, rows: Rows, mine: str, others: str) -> Iterator[Finding]:
    """A sparse network beside a dense one that is as large: accuracy once, time at each batch."""
    ours, theirs, keys = rows[mine], rows[others], (mine, others)
    macs = f"{ours['kept_macs'] / 1e6:.1f} M against {theirs['kept_macs'] / 1e6:.1f} M MACs"
    equal = f"{other} of about as many operations"
    if ours["batch"] == 1:
        ahead, chance = points(ours, theirs)
        claim, why = f"{name} is more accurate than {equal}", f"{macs}; {_learned(ours)}"
        yield order_finding(PSCONV, claim, "accuracy", "points", ahead, why, keys, chance=chance)
    ratio = theirs["packed_ms"] / ours["packed_ms"]
    why = f"batch {ours['batch']}: {ours['packed_ms']:.2f} and {theirs['packed_ms']:.2f} ms; {macs}"
    # What was raced by turns is each with its own dense forms.
    why += "; medians of two races"
    yield order_finding(
        PSCONV, f"{name} needs no longer than {equal}", "time", "×", ratio, why, keys, equal=1.0
    )


def _levels(rows: Rows) -> Iterator[Finding]:
    """Time and memory of ResNet18 at the four levels, which need no training."""
    for batch in (1, 16):
        mine, others = (
            {
                level: rows[key]
                for level in LEVELS
                if (key := f"levels-{mode}-{round(100 * level)}@{batch}") in rows
            }
            for mode in ("filter", "weight")
        )
        if len(mine) < len(LEVELS):
            continue
        keys = tuple(f"levels-filter-{round(100 * level)}@{batch}" for level in LEVELS)
        yield _saved("whole filters removed take up to 25 % off the time", mine, keys, batch)
        if len(others) < len(LEVELS):
            continue
        pairs = {level: (mine[level], others[level]) for level in LEVELS}
        keys = (f"levels-filter-80@{batch}", f"levels-weight-80@{batch}")
        for quantity in ("inference time", "bytes in memory"):
            yield _beside(quantity, pairs, keys, f"batch {batch}: ")


def _saved(
    claim: str, mine: dict[float, dict[str, Any]], keys: tuple[str, ...], batch: int
) -> Finding:
    """How much of the dense time the four levels take off, by the best of them."""
    saved = {level: 100 * (1 - 1 / r["speedup"]) for level, r in mine.items()}
    best = max(saved, key=lambda level: saved[level])
    return Finding(
        SPRED,
        claim,
        "time saved",
        "%",
        25.0,
        saved[best],
        100 * (1 - 1 / mine[best]["low"]),
        100 * (1 - 1 / mine[best]["high"]),
        HOLDS if saved[best] >= 25 else SHORT,
        f"batch {batch}, at "
        + ", ".join(f"{level:.0%}: {percent:.0f} %" for level, percent in saved.items()),
        keys,
    )


def _spred(rows: Rows) -> Iterator[Finding]:
    def row(mode: str, optimizer: str, level: float) -> dict[str, Any] | None:
        return rows.get(f"spred-{mode}-{optimizer}-{round(100 * level)}@16")

    means = {}
    for optimizer in OPTIMIZERS:
        mine = {level: found for level in LEVELS if (found := row("filter", optimizer, level))}
        if len(mine) < len(LEVELS):
            continue
        means[optimizer] = mean(r["accuracy"] for r in mine.values())
        claim = f"whole filters removed (trained with {optimizer}) take up to 25 % off the time"
        keys = tuple(f"spred-filter-{optimizer}-{round(100 * level)}@16" for level in LEVELS)
        yield _saved(claim, mine, keys, 16)
    if len(means) == len(OPTIMIZERS):
        others = max(value for name, value in means.items() if name != "adagrad")
        why = ", ".join(f"{name} {100 * value:.2f} %" for name, value in means.items())
        keys = tuple(key for key in rows if key.startswith("spred-filter-"))
        lead = 100 * (means["adagrad"] - others)
        claim = "Adagrad is the best of the four optimizers, over the four levels"
        yield order_finding(
            SPRED,
            claim,
            "accuracy",
            "points",
            lead,
            f"mean top-1: {why}; {_learned(rows[keys[0]])}",
            keys,
        )
    yield from _structured(row)
    yield from _training_time(rows)


# quantity -> unit, and by how much the structured network is ahead of the unstructured one.
AHEAD: dict[str, tuple[str, Callable[[dict, dict], float], float]] = {
    "accuracy": ("points", lambda s, u: points(s, u)[0], 0.0),
    "inference time": ("×", lambda s, u: s["speedup"] / u["speedup"], 1.0),
    "bytes in memory": (
        "×",
        lambda s, u: u["bytes"]["planned_memory"] / s["bytes"]["planned_memory"],
        1.0,
    ),
}


def _structured(row: Callable[[str, str, float], dict[str, Any] | None]) -> Iterator[Finding]:
    pairs = {level: (row("filter", "sgd", level), row("weight", "sgd", level)) for level in LEVELS}
    whole = {level: (s, u) for level, (s, u) in pairs.items() if s is not None and u is not None}
    if 0.8 not in whole:
        return
    keys = ("spred-filter-sgd-80@16", "spred-weight-sgd-80@16")
    for quantity in AHEAD:
        yield _beside(quantity, whole, keys, f"{_learned(whole[0.8][0])}: ")


def _beside(
    quantity: str,
    pairs: dict[float, tuple[dict[str, Any], dict[str, Any]]],
    keys: tuple[str, ...],
    about: str,
) -> Finding:
    """By how much whole filters are ahead of single weights at 80 %; the other levels in words."""
    unit, ahead, equal = AHEAD[quantity]
    figures = {level: ahead(s, u) for level, (s, u) in pairs.items()}
    each = ", ".join(f"{level:.0%}: {figure:.2f} {unit}" for level, figure in figures.items())
    claim = f"at 80 % whole filters removed beat single weights removed in {quantity}"
    why = f"{about}at {each}"
    chance = points(*pairs[0.8])[1] if quantity == "accuracy" else None
    return order_finding(SPRED, claim, quantity, unit, figures[0.8], why, keys, equal, chance)


def _training_time(rows: Rows) -> Iterator[Finding]:
    key = f"{STEPS_WITH}@1"
    steps = rows.get(key, {}).get("steps")
    if steps is None:
        return
    why = (
        f"a step of {steps['batch']} images, by turns: {steps['filter_ms']:.0f} ms for whole "
        f"filters, {steps['weight_ms']:.0f} ms for single weights"
    )
    yield Finding(
        SPRED,
        "whole filters removed beat single weights removed in training time",
        "training time",
        "×",
        None,
        steps["ratio"],
        steps["low"],
        steps["high"],
        HOLDS if steps["low"] > 1 else SHORT,
        why,
        (key,),
    )
    filters, weights = steps.get("filter_bytes"), steps.get("weight_bytes")
    if filters is not None and weights is not None:
        why = (
            f"two steps of {steps['batch']} images, beside what torch takes: "
            f"{filters / 1e6:,.0f} MB for whole filters, {weights / 1e6:,.0f} MB for single weights"
        )
        claim = "whole filters removed beat single weights removed in memory while training"
        ratio = weights / filters
        yield order_finding(SPRED, claim, "bytes in training", "×", ratio, why, (key,), 1.0)


def _learned(row: dict[str, Any]) -> str:
    return f"{row['images']:,} images of {row['data']}, one seed"


def _sabr(rows: Rows) -> Iterator[Finding]:
    for network, gone, fewer in (("vgg11", 0.9766, 0.9372), ("mobilenet_v2", 0.9561, 0.8534)):
        for key, row in _of(rows, f"sabr-{network}"):
            claim = f"{network} on gestures keeps {1 - gone:.2%} of its weights"
            yield from _smaller(SABR, claim, 1 / (1 - gone), key, row)
            claim = f"{network} on gestures does {fewer:.2%} fewer operations"
            yield factor_finding(SABR, claim, "operations", 1 / (1 - fewer), row["ideal"], key)
            yield time_finding(SABR, claim, 1 / (1 - fewer), key, row)


def _smaller(
    source: str, claim: str, factor: float, key: str, row: dict[str, Any]
) -> Iterator[Finding]:
    """By how much a network is smaller: in weights, as is claimed, and as a file."""
    yield factor_finding(source, claim, "weights", factor, row["weights"] / row["kept"], key)
    sizes = row["bytes"]
    disk = sizes["dense_disk"] / sizes["packed_disk"]
    why = f"{sizes['dense_disk']:,} to {sizes['packed_disk']:,} bytes: indices take room"
    yield factor_finding(source, claim, "bytes on disk", factor, disk, key, why)


def _hypersparse(rows: Rows) -> Iterator[Finding]:
    for network in ("resnet32", "vgg19"):
        for percent in ("90", "98", "99.5"):
            for key, row in _of(rows, f"hypersparse-{network}-{percent}"):
                claim = (
                    f"{network} without {percent} % of its weights is faster (no figure is given)"
                )
                yield time_finding(HYPERSPARSE, claim, 1.0, key, row)


def _gsm(rows: Rows) -> Iterator[Finding]:
    for case in ("resnet56-10x", "lenet300-60x", "lenet5-125x", "lenet5-300x"):
        network, _, factor = case.removesuffix("x").rpartition("-")
        claim = f"{network} is {factor}× smaller"
        for number, (key, row) in enumerate(_of(rows, f"gsm-{case}")):
            if number == 0:
                yield from _smaller(GSM, claim, float(factor), key, row)
            yield time_finding(GSM, claim, float(factor), key, row)


def _hardware(rows: Rows) -> Iterator[Finding]:
    """Of all rows of single weights removed: does any get faster, here, on an ordinary machine?"""
    single = {
        key: row
        for key, row in rows.items()
        if key.startswith(("hypersparse-", "gsm-", "sabr-", "spred-weight-", "levels-weight-"))
    }
    if not single:
        return
    faster = {key: row for key, row in single.items() if row["low"] > 1}
    key, best = max(single.items(), key=lambda pair: pair[1]["speedup"])
    yield Finding(
        "all five documents",
        "standard frameworks cannot use such zeros: special hardware is needed",
        "time",
        "×",
        None,
        best["speedup"],
        best["low"],
        best["high"],
        REFUTED if faster else HOLDS,
        f"{len(faster)} of {len(single)} networks of single weights removed are surely faster than "
        f"the fastest dense form, on an ordinary CPU; the most in {key}",
        tuple(single),
    )


# Whose accuracy cannot be held against anything here: claim, the data it needs.
NEEDS = (
    (PSCONV, "92.0 % on CIFAR-10 with 5.6× fewer operations (ResNet18)", "cifar10"),
    (PSCONV, "81.3 % top-5 on Tiny ImageNet under PSD1_P16 (ResNet18)", "tiny-imagenet"),
    (HYPERSPARSE, "94.22 / 92.69 / 89.35 % at 90 / 98 / 99.5 % (ResNet32)", "cifar10"),
    (HYPERSPARSE, "73.23 / 71.83 / 69.02 % at 90 / 98 / 99.5 % (VGG19)", "cifar100"),
    (GSM, "93.80 % with a tenth of the weights (ResNet-56)", "cifar10"),
    (SPRED, "45.46 / 44.88 / 48.71 % at 20 / 40 / 60 % (ResNet18)", "cifar100"),
    (SABR, "99.14 % with 2.34 % of the weights (VGG11)", "images"),
)


def _not_here() -> Iterator[Finding]:
    for source, claim, name in NEEDS:
        yield Finding(
            source, claim, "accuracy", "%", None, None, None, None, NOT_HERE, _missing(name), ()
        )


@cache
def _missing(name: str) -> str:
    """Why this data set's claims are not tested: its files are not here, or it takes too long."""
    try:
        data.load(name)
    except (OSError, ValueError) as error:
        return f"its images are not here: {' '.join(str(error).split())}"
    return "the images are here, but it takes days on a CPU: sparse-ops train --recipe"
