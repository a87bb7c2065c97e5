"""What `sparse-ops claims` has written, as a table: the claim, what was measured, the verdict."""

from typing import Any

from sparse_ops.report.chart import number


def claims_table(data: dict[str, Any]) -> str:
    """The claims of a results file as Markdown, in its order."""
    here = data["machine"]
    lines = [
        f"{here['cpu']} ({here['isa']}), torch {here['torch']}, float32; `{data['command']}`.",
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
