"""What `sparse-ops claims` has written, as a table: the claim, what was measured, the verdict."""

from typing import Any

from benchmarks._claim_training import LEVELS, OPTIMIZERS
from sparse_ops.report.chart import number


def claims_table(data: dict[str, Any]) -> str:
    """The claims of a results file as Markdown, in its order."""
    here = data["machine"]
    lines = [
        f"{here['cpu']} ({here['isa']}), torch {here['torch']}, float32; `{data['command']}`."
        + "".join(f" {words}" for words in (*_trained(data["rows"]), *_left_out(data["rows"]))),
        "",
        "| claim | measured as | claimed | here (10–90 %) | verdict | how, or why not |",
        "|---|---|--:|--:|---|---|",
    ]
    for claim in data["claims"]:
        unit = claim["unit"]
        ends = claim["low"], claim["high"]
        spread = "" if None in ends else f" ({number(ends[0])}–{number(ends[1])})"
        cells = (
            f"{claim['claim']} ({claim['source']})",
            claim["quantity"],
            "–" if claim["claimed"] is None else f"{number(claim['claimed'])} {unit}",
            "–" if claim["measured"] is None else f"{number(claim['measured'])} {unit}{spread}",
            f"**{claim['verdict']}**",
            claim["why"].replace("|", "/").replace("<", "&lt;"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *_levels({f"{r['case']}@{r['batch']}": r for r in data["rows"]})])


def _levels(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The experiment of whole filters against single weights: a line for each level of both."""
    lines = []
    for mode, words in (("filter", "whole filters"), ("weight", "single weights")):
        for level in LEVELS:
            name = f"{mode}-{round(100 * level)}"
            one, many = rows.get(f"levels-{name}@1"), rows.get(f"levels-{name}@16")
            if one is None or many is None:
                continue
            learned = [rows.get(f"spred-{name.replace('-', f'-{o}-')}@16") for o in OPTIMIZERS]
            sizes = one["bytes"]
            cells = (
                f"{level:.0%} of {words}",
                *("–" if r is None else f"{100 * r['accuracy']:.1f}" for r in learned),
                *(f"{r['speedup']:.2f}× ({r['low']:.2f}–{r['high']:.2f})" for r in (one, many)),
                *(f"{sizes[f'planned_{where}'] / 1e6:.1f} MB" for where in ("memory", "disk")),
            )
            lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return []
    return [
        "",
        "ResNet18, whole filters removed from each layer against single weights. Top-1 in percent "
        "after spred with each optimizer, one seed; time of a network of three colours over dense "
        "(10–90 %); what its tensors take as it is planned for batch 1, and its file then:",
        "",
        f"| removed | {' | '.join(OPTIMIZERS)} | batch 1 | batch 16 | memory | file |",
        "|---|" + "--:|" * (len(OPTIMIZERS) + 4),
        *lines,
    ]


def _trained(rows: list[dict[str, Any]]) -> list[str]:
    """How long the networks learned that had to; most have masks that need no training."""
    found = dict.fromkeys(
        (row["images"], row["data"], row["pace"]["batch_size"], row["pace"]["amp"], row["tested"])
        for row in rows
        if "images" in row
    )
    return [
        f"Networks that are trained saw {images:,} images of {data} a few times, in batches of "
        f"{batch}{f', in {amp}' if amp else ''}; accuracy is that on {tested:,} others."
        for images, data, batch, amp, tested in found
    ]


def _left_out(rows: list[dict[str, Any]]) -> list[str]:
    """That torch.compile was no form of the dense network, where it was not."""
    without = sum("torch.compile" in row.get("skipped", ()) for row in rows)
    if not without:
        return []
    return [f"torch.compile was not among the dense forms in {without} of {len(rows)} rows."]
