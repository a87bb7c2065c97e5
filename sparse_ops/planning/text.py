"""A plan as plain text: a sentence, a table, and below it what its rows have in common."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from string import ascii_lowercase
from typing import TYPE_CHECKING

from sparse_ops.passes.winograd import LARGE
from sparse_ops.planning.assemble import LayerPlan
from sparse_ops.planning.columns import (
    Column,
    milliseconds,
    percent,
    some,
    table,
    times,
    wrapped,
)
from sparse_ops.planning.forms import COMPILED, EAGER
from sparse_ops.planning.layer_rows import NO_MASK
from sparse_ops.planning.layout import CHANNELS_LAST
from sparse_ops.planning.measure import Comparison
from sparse_ops.planning.programmed import ORDER_NAMES, SHORT_ORDERS

if TYPE_CHECKING:
    from sparse_ops.planning.plans import Plan

# The first words that fit.
SHORT = {"Periodic": "periodic", "CSR": "csr", "ChannelPruned": "channels"}
FORM_WORDS = {
    EAGER: "",
    CHANNELS_LAST: "in channels_last",
    COMPILED: "under torch.compile",
    "program": "as one program",
}


def plan_text(plan: "Plan") -> str:
    """The verdict in a sentence, the layers in a table, and what else there is to know."""
    reasons = _grouped((layer.reason, _name(layer)) for layer in plan.rows if layer.reason)
    letters = dict(zip(reasons, _letters(), strict=False))
    below = [
        *(f"FAILED: {words}" for words in plan.failed),
        *(f"{letters[why]}  {why} ({some(names)})" for why, names in reasons.items()),
        *_orders(plan),
        *_beside(plan),
        *_zeros(plan.layers),
        *_dead(plan.rows),
        *_verdict(plan),
        *_program(plan),
        f"memory: {plan.memory()}",
        *(f"note: {note}" for note in plan.notes),
        *_refusals(plan.layers),
    ]
    parts = [wrapped(sentence(plan)), _table(plan, letters) if plan.rows else []]
    parts.append([line for text in below for line in wrapped(text, 3)])
    return "\n\n".join("\n".join(part) for part in parts if part)


def sentence(plan: "Plan") -> str:
    """What came out."""
    whole = plan.whole
    if whole is None:
        return f"nothing is replaced: {_why_nothing(plan.layers)}"
    speedup = f"{whole.speedup:.{0 if whole.speedup >= 10 else 1 if whole.speedup >= 2 else 2}f}"
    parts = [f"{len(plan.packed)} of {len(plan.layers)} layers packed"]
    if narrower := sum(layer.left is not None or layer.constant for layer in plan.rows):
        parts.append(f"channels removed in {narrower}")
    how = FORM_WORDS[plan.packed_forms.fastest]
    if plan.decisions is not None:
        count = plan.memory().programs
        how = f"as {count} programs" if count > 1 else "as one program"
    dense = FORM_WORDS[plan.dense_forms.fastest]
    return (
        f"{speedup}× faster: {milliseconds(whole.dense_ms)} → {milliseconds(whole.packed_ms)} ms, "
        + ", ".join([*parts, how] if how else parts)
        + (f"; dense runs {dense}" if dense else "")
    )


def _why_nothing(layers: Sequence[LayerPlan]) -> str:
    reasons = {layer.reason for layer in layers}
    if not layers:
        return "the model has no Conv2d, no Conv1d, no ConvTranspose2d and no Linear"
    if reasons == {NO_MASK}:
        return "no weight of the model is zero"
    if len(reasons) == 1:
        return reasons.pop() + (f" (all {len(layers)} layers)" if len(layers) > 1 else "")
    if any(layer.measured for layer in layers):
        return "dense is the fastest that was found"
    return "no layer can be packed"


def _table(plan: "Plan", letters: dict[str, str]) -> list[str]:
    layers = plan.rows
    orders = dict(plan.decisions.orders) if plan.decisions is not None else {}
    measured = [layer.measured for layer in layers]
    columns = [
        Column("weight", [_weight(layer) for layer in layers], right=False),
        Column("kept", [percent(1 - layer.sparsity) for layer in layers]),
        Column("dense\nms", [milliseconds(layer.dense_ms) for layer in layers]),
        Column("packed\nms", [milliseconds(layer.packed_ms) for layer in layers]),
        Column("times\nfaster", [times(layer.speedup) for layer in layers]),
        Column("10 to 90%", [_spread(each) for each in measured], optional=True),
        Column("of\nfloor", [_floor(layer) for layer in layers]),
        Column("becomes", [_becomes(layer, orders) for layer in layers], right=False),
        Column("why", [letters.get(layer.reason, "") for layer in layers], right=False),
    ]
    return table(Column("layer", [_name(layer) for layer in layers], right=False), columns)


def _name(layer: LayerPlan) -> str:
    return layer.name or layer.kind


def _weight(layer: LayerPlan) -> str:
    """ "128×64×3×3", and what is left of its channels: "128×64×3×3→64×64"."""
    shape = "×".join(str(size) for size in layer.shape)
    if layer.left is None:
        return shape
    return f"{shape}→" + "×".join(str(size) for size in layer.left[:2])


def _spread(measured: Comparison | None) -> str:
    return "" if measured is None else f"{measured.low:.2f}–{measured.high:.2f}"


def _floor(layer: LayerPlan) -> str:
    return "" if layer.floor_reached is None else f"{layer.floor_reached:.0%}"


def _becomes(layer: LayerPlan, orders: dict[str, int]) -> str:
    word = "dense"
    if layer.constant:
        word = "constant"
    elif layer.becomes is not None:
        fits = (short for start, short in SHORT.items() if str(layer.becomes).startswith(start))
        word = next(fits, layer.becomes)
    order = orders.get(layer.name)
    return word if order is None or layer.kind == "Linear" else f"{word} {SHORT_ORDERS[order]}"


def _letters() -> Iterable[str]:
    """a to z, aa to zz."""
    for count in (1, 2):
        yield from ("".join(letters) for letters in product(ascii_lowercase, repeat=count))


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Each text once, with the names that it is for."""
    found: dict[str, list[str]] = {}
    for text, name in pairs:
        found.setdefault(text, []).append(name)
    return found


def _orders(plan: "Plan") -> list[str]:
    """What the short names of orders mean, of those that layers have."""
    if plan.decisions is None:
        return []
    orders = dict(plan.decisions.orders)
    images = (layer for layer in plan.layers if layer.kind != "Linear")
    used = {orders[layer.name] for layer in images if layer.name in orders}
    words = [f"{SHORT_ORDERS[order]}: {ORDER_NAMES[order]}" for order in sorted(used)]
    return [f"values lie {'; '.join(words)}"] if words else []


def _beside(plan: "Plan") -> list[str]:
    """What layers do beside."""
    pairs = []
    for layer in plan.layers:
        does = [layer.activation] if layer.activation else []
        for fusion in plan.fusions:
            if fusion.layer == layer.name:
                does += ["residual"] if fusion.residual else []
                does += [fusion.activation] if fusion.activation else []
        does += ["cat"] if any(layer.name in each.layers for each in plan.concatenations) else []
        if does:
            pairs.append((" + ".join(does), _name(layer)))
    return [f"with {does}: {some(names)}" for does, names in _grouped(pairs).items()]


def _zeros(layers: Sequence[LayerPlan]) -> list[str]:
    """The regularity of zeros: layers alike but for numbers are told together."""
    groups: dict[str, list[LayerPlan]] = {}
    for layer in layers:
        if layer.zeros:
            # The numbers of a period are what it is.
            fixed = layer.zeros.startswith("periodic")
            key = layer.zeros if fixed else re.sub(r"\d+", "#", layer.zeros)
            groups.setdefault(key, []).append(layer)
    lines = []
    for key, alike in groups.items():
        numbers = [[int(n) for n in re.findall(r"\d+", layer.zeros)] for layer in alike]
        words = key
        for column in zip(*numbers, strict=True) if "#" in key else ():
            least, most = min(column), max(column)
            words = words.replace("#", str(least) if least == most else f"{least} to {most}", 1)
        lines.append(f"zeros: {words} ({some([_name(layer) for layer in alike])})")
    return lines


def _dead(layers: Sequence[LayerPlan]) -> list[str]:
    pairs = [
        (layer.dead_why.removeprefix(f"{layer.dead_kept} "), f"{layer.dead_kept} of {_name(layer)}")
        for layer in layers
        if layer.dead_kept
    ]
    return [f"dead outputs stay, {why}: {some(names)}" for why, names in _grouped(pairs).items()]


def _verdict(plan: "Plan") -> list[str]:
    """What was compared with what, and how it came out."""
    lines = []
    whole = plan.whole
    if whole is not None:
        lines.append(
            f"whole model: {milliseconds(whole.dense_ms)} ms dense ({plan.dense_forms.fastest}), "
            f"{milliseconds(whole.packed_ms)} ms packed ({plan.packed_forms.fastest}), "
            f"speed-up {whole.speedup:.2f} ({whole.low:.2f} to {whole.high:.2f}), "
            f"{whole.pairs} pairs" + (f", {whole.dropped} dropped" if whole.dropped else "")
        )
    for name, forms in (("dense", plan.dense_forms), ("packed", plan.packed_forms)):
        taken = [f"{form} {milliseconds(ms)} ms" for form, ms in forms.milliseconds.items()]
        left_out = [f"{form} left out: {reason}" for form, reason in forms.skipped.items()]
        if taken or left_out:
            lines.append(f"forms of the {name} model: {'; '.join(taken + left_out)}")
    return lines


def _program(plan: "Plan") -> list[str]:
    """How the network runs as a program, and when."""
    if plan.decisions is None:
        return []
    counts = Counter(order for _, order in plan.decisions.orders)
    ways = ", ".join(f"{counts[order]} {SHORT_ORDERS[order]}" for order in sorted(counts))
    lines = [
        f"program: {len(plan.decisions.orders)} operations ({ways}) run without Python between "
        "them, in calls without gradients in eval mode; other calls run layer by layer"
    ]
    if plan.decisions.winograd == LARGE:
        lines.append("program: dense 3×3 layers by Winograd's F(4×4, 3×3) where that is faster")
    if plan.decisions.piece:
        lines.append(f"program: {plan.decisions.piece} images of a batch run at a time")
    return lines


def _refusals(layers: Sequence[LayerPlan]) -> list[str]:
    """Candidate -> the layers that refuse it, for each reason once."""
    refused = _grouped((words, _name(layer)) for layer in layers for words in layer.refused)
    lines = [f"refused: {words} ({some(names)})" for words, names in refused.items()]
    slower = sum(len(layer.slower) for layer in layers)
    return [*lines, f"slower: {slower} other candidates; to_json() has all"] if slower else lines
