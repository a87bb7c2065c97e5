"""What `sparse-ops claims` has written, as a table: the claim, what was measured, the verdict."""

from typing import Any

from sparse_ops.report.chart import number


def claims_table(data: dict[str, Any]) -> str:
    """The claims of a results file as Markdown, in its order."""
    here = data["machine"]
    lines = [
        f"{here['cpu']} ({here['isa']}), torch {here['torch']}, float32; `{data['command']}`."
        + "".join(f" {words}" for words in _trained(data["rows"])),
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
    return "\n".join(lines)


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
