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
    """A column for each network (of two libraries' the first), a line for what was removed."""
    found = {(r["network"], r["masks"], r["batch"]): r for r in data["rows"]}
    kinds = list(dict.fromkeys((r["masks"], r["batch"]) for r in data["rows"]))
    kinds.sort(key=lambda kind: (kind[0] != "90%", kind))
    networks: dict[str, str] = {}
    for name in dict.fromkeys(r["network"] for r in data["rows"]):
        networks.setdefault(_short(name), name)
    lines = [
        f"{_machine(data)}, random masks:",
        "",
        "| removed | " + " | ".join(networks) + " |",
        "|---" + "|--:" * len(networks) + "|",
    ]
    for masks, batch in kinds:
        cells = [_speedup(found.get((name, masks, batch))) for name in networks.values()]
        lines.append(f"| {masks}, batch {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(name: str) -> str:
    """ "torchvision mobilenet_v3_large" and timm's mobilenetv3_large_100 -> "mobilenet v3"."""
    plain = name.removeprefix("torchvision ").removeprefix("timm ")
    plain = plain.replace("mobilenetv3", "mobilenet_v3")
    words = plain.split("_")
    return " ".join(word for word in words if word not in ("large", "100", "x1", "0"))


def _machine(data: dict) -> str:
    here = data["machine"]
    threads = data["rows"][0]["threads"]
    return f"{here['cpu']} ({here['isa']}), torch {here['torch']}, {threads} thread(s), float32"


def _speedup(row: Row | None) -> str:
    return "" if row is None else f"{row['speedup']:.2f}×"
