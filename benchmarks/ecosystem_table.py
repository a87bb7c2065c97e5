"""The results of `benchmarks.ecosystem` as Markdown: all of them, and speed-ups alone."""

from typing import Any

Row = dict[str, Any]


def ecosystem_table(data: dict) -> str:
    """Every row, under the machine and the command; below it what failed."""
    lines = [
        f"{_machine(data)}; `{data['command']}`:",
        "",
        "| network | removed | batch | dense ms (form) | converted ms | speed-up (10–90 %) "
        "| packed, narrower, of | planned in | peak memory, of the model |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in data["rows"]:
        peak = f"{r['peak_bytes'] / 1e6:.0f} MB, {r['model_bytes'] / 1e6:.0f} MB"
        lines.append(
            f"| {r['network']} | {r['masks']} | {r['batch']} "
            f"| {r['dense_ms']:.2f} ({r['dense_form']}) | {r['packed_ms']:.2f} "
            f"| **{r['speedup']:.2f}×** ({r['low']:.2f}–{r['high']:.2f}) "
            f"| {r['packed']}, {r['narrower']}, {r['layers']} | {r['plan_s']:.0f} s | {peak} |"
        )
    failed = [
        f"{r['network']}, {r['masks']}, batch {r['batch']}: {r['failed']}"
        for r in data.get("failed", [])
    ]
    return "\n".join(lines + (["", "Without a result: " + "; ".join(failed) + "."] * bool(failed)))


def speedups_table(data: dict) -> str:
    """A line for each network, a column for what was removed and each batch."""
    found = {(r["network"], r["masks"], r["batch"]): r for r in data["rows"]}
    columns = list(dict.fromkeys((r["masks"], r["batch"]) for r in data["rows"]))
    columns.sort(key=lambda column: (column[0] != "90%", column))
    lines = [
        f"{_machine(data)}:",
        "",
        "| network | " + " | ".join(f"{masks}, batch {batch}" for masks, batch in columns) + " |",
        "|---" + "|--:" * len(columns) + "|",
    ]
    for name in dict.fromkeys(r["network"] for r in data["rows"]):
        cells = [_speedup(found.get((name, *column))) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _machine(data: dict) -> str:
    here = data["machine"]
    threads = data["rows"][0]["threads"]
    return f"{here['cpu']} ({here['isa']}), torch {here['torch']}, {threads} thread(s), float32"


def _speedup(row: Row | None) -> str:
    return "" if row is None else f"{row['speedup']:.2f}×"
