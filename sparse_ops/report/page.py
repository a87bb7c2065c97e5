"""The report as one page: no script, nothing from a network, for phones and for the dark too."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from sparse_ops.report.chart import Bars, Figure, number
from sparse_ops.report.drawings import figures
from sparse_ops.report.evidence import Evidence, PlanTable
from sparse_ops.report.page_style import page_style
from sparse_ops.report.svg import svg

# The beginning of a figure's key -> the section that it stands in, and what that is about.
SECTIONS = {
    "accuracy": ("Accuracy", "What is left of accuracy, on images that were not learned from."),
    "latency": (
        "Time",
        "Packed against the fastest form of the dense network, by turns in one process. Below the "
        "dashed line packed is faster; bars are the 10th and 90th percentile.",
    ),
    "layers": ("Layers", "Where the zeros are, and which operations they save."),
    "roofline": ("Roofline", "How near kernels come to what the machine can do."),
    "history": ("Training", "What changed from epoch to epoch."),
}
# A section of more figures is opened by whoever wants them.
MANY = 16
# What a column of amounts holds: a number with its unit, and between which two it lies; or a dash.
_NUMBER = r"-?\d[\d.,×e+-]*"
_AMOUNT = re.compile(rf"(–|{_NUMBER}( ?[%×M]| points)?( \({_NUMBER} to {_NUMBER}\))?)?")
VERDICTS = {"holds": "good", "falls short": "bad", "refuted": "bad"}


def page(found: Evidence, title: str, command: str) -> str:
    """The report's HTML.

    Args:
        found: with something in it.
        title: of the page.
        command: that made it.
    """
    drawn = figures(found)
    sections = [*_claims(found.claims), *_figures(drawn), *_plans(found.plans)]
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{escape(name)}</h2>{html}</section>'
        for key, name, html in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{page_style()}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{_tiles(found)}<nav>{links}</nav></header>"
        f"<main>{body}{_end(found, command)}</main></body></html>\n"
    )


def _tiles(found: Evidence) -> str:
    """What one wants to know first."""
    tiles = []
    whole = [t for t in found.timings if t.whole]
    if whole:
        best = max(whole, key=lambda t: t.speedup)
        tiles.append((f"{best.speedup:.2f}×", f"most, over the fastest dense form: {best.where}"))
        slower = sum(t.speedup < 1 for t in whole)
        tiles.append((f"{slower} of {len(whole)}", "whole networks slower than dense"))
    if found.trainings:
        most = max(found.trainings, key=lambda r: r.sparsity)
        tiles.append((f"{most.sparsity:.1%}", f"most removed: {most.method}, {most.model}"))
        tiles.append((str(len(found.trainings)), "trained networks"))
    if found.claims:
        held = sum(c["verdict"] == "holds" for c in found.claims)
        tiles.append((f"{held} of {len(found.claims)}", "claims hold as measured here"))
    inner = "".join(
        f'<div class="tile"><b>{escape(b)}</b><span>{escape(s)}</span></div>' for b, s in tiles
    )
    return f'<div class="tiles">{inner}</div>'


def _figures(drawn: Sequence[Figure]) -> list[tuple[str, str, str]]:
    """(anchor, heading, HTML) of each section that has figures; they are numbered throughout."""
    numbered = list(enumerate(drawn, start=1))
    found = []
    for key, (name, about) in SECTIONS.items():
        mine = [pair for pair in numbered if pair[1].key.startswith(f"{key}-")]
        if mine:
            inner = "".join(_figure(n, figure) for n, figure in mine)
            html = f'<div class="figures">{inner}</div>'
            if len(mine) > MANY:
                html = f"<details><summary>{len(mine)} figures</summary>{html}</details>"
            found.append((key, name, f'<p class="note">{escape(about)}</p>{html}'))
    return found


def _figure(n: int, figure: Figure) -> str:
    sources = ", ".join(f"<code>{escape(source)}</code>" for source in figure.sources)
    return (
        f"<figure><h3>{escape(figure.title)}</h3>{svg(figure)}"
        f"<figcaption><b>Figure {n}.</b> {escape(figure.said)} Source: {sources}"
        f"<details><summary>numbers</summary>{_numbers(figure)}</details></figcaption></figure>"
    )


def _numbers(figure: Figure) -> str:
    """The numbers of a figure as a table."""
    if isinstance(figure, Bars):
        return table(("", figure.label), [(name, words) for name, _, words in figure.bars])
    head = ("", figure.x_label, figure.y_label, "from", "to")
    rows = [
        (name, *("" if v is None else number(v) for v in p))
        for s in figure.series
        for name, p in zip(s.named(), s.points, strict=True)
    ]
    return table(head, rows)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], raw: Sequence[int] = (), cards: bool = False
) -> str:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        raw: the columns that are HTML already.
        cards: whether its rows stand one below the other on a phone, instead.
    """

    rows, right = list(rows), ' class="n"'
    amounts = {
        column
        for column in range(len(head))
        if all(_AMOUNT.fullmatch(row[column]) for row in rows)
        and any(row[column].strip("–") for row in rows)
    }

    def cell(column: int, words: str) -> str:
        kind = right if column in amounts else ""
        name = f' data-name="{escape(head[column])}"' if cards else ""
        return f"<td{kind}{name}>{words if column in raw else escape(words)}</td>"

    top = "".join(
        f"<th{right if column in amounts else ''}>{escape(words)}</th>"
        for column, words in enumerate(head)
    )
    lines = ("".join(cell(c, words) for c, words in enumerate(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    inner = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    look = ' class="cards"' if cards else ""
    return f'<div class="wide"><table{look}>{inner}</table></div>'


def _claims(claims: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    if not claims:
        return []
    rows = []
    for claim in claims:
        unit, ends = claim["unit"], (claim["low"], claim["high"])
        kind = VERDICTS.get(claim["verdict"], "note")
        spread = "" if None in ends else " ({} to {})".format(*map(number, ends))
        rows.append(
            (
                claim["claim"],
                claim["quantity"],
                _amount(claim["claimed"], unit),
                _amount(claim["measured"], unit) + spread,
                f'<b class="{kind}">{escape(claim["verdict"])}</b>',
                claim["why"],
                claim["source"],
            )
        )
    head = ("claim", "measured as", "claimed", "here", "verdict", "how, or why not", "whose")
    files = dict.fromkeys(claim["file"] for claim in claims)
    named = ", ".join(f"<code>{escape(file)}</code>" for file in files)
    shown = table(head, rows, raw=(4,), cards=True)
    html = f'<div class="card">{shown}<p class="note">Source: {named}</p></div>'
    return [("claims", "Claims", html)]


def _amount(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{number(value)} {unit}"


def _plans(plans: Sequence[PlanTable]) -> list[tuple[str, str, str]]:
    if not plans:
        return []
    html = "".join(_plan(plan) for plan in plans)
    return [("plans", "Plans", html)]


def _plan(plan: PlanTable) -> str:
    rows = []
    for layer in plan.layers:
        m = layer.get("measured") or {}
        times = (m.get("dense_ms"), m.get("packed_ms"))
        rows.append(
            (
                layer["name"] or layer["kind"],
                "×".join(str(size) for size in layer["shape"]),
                f"{layer['sparsity']:.1%}",
                layer["becomes"] or ("constant" if layer.get("constant") else "dense"),
                *("–" if ms is None else f"{ms:.3f}" for ms in times),
                f"{m['speedup']:.2f}×" if m else "–",
                layer.get("reason", ""),
            )
        )
    head = ("layer", "weight", "zeros", "becomes", "dense ms", "packed ms", "speed-up", "why")
    notes = "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
    notes = f"<ul>{notes}</ul>" if notes else ""
    return (
        f'<div class="card"><h3>{escape(plan.title)}</h3><p>Whole model: {escape(plan.verdict)}. '
        f"Source: <code>{escape(plan.source)}</code></p><details open><summary>layers</summary>"
        f"{table(head, rows, cards=True)}</details>{notes}</div>"
    )


def _end(found: Evidence, command: str) -> str:
    machines: dict[str, list[str]] = {}
    for source, words in found.machines.items():
        machines.setdefault(words, []).append(source)
    lines = [f"{', '.join(names)}: {words}" for words, names in machines.items()]
    lines += [f"passed over: {why}" for why in found.passed_over.values()]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<footer><ul>{items}</ul><p>Made by <code>{escape(command)}</code>.</p></footer>"
