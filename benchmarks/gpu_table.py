"""The results of gpu_run.py as Markdown: all convolutions, and the best of a layer."""

from typing import Any

Row = dict[str, Any]
# What a layer is to be asked for where there is one column for each.
PATTERNS = ("PSD1_P8 sorted", "PSD2_P8 sorted", "PSD4_P16 sorted")
SMALLER = "dense, smaller"
HALVES = ("bf16", "fp16")


def _rows(data: dict) -> dict[str, list[Row]]:
    """The rows of each stage.

    Raises:
        ValueError: it was a dry run.
    """
    if not data["gpu"]:
        raise ValueError("these are the results of a dry run: there was no GPU")
    return {n: (s["figures"] or {}).get("rows", []) for n, s in data["stages"].items()}


def _card(data: dict, rows: dict[str, list[Row]]) -> str:
    here = rows["env"][0]
    return (
        f"{here['device']}, torch {here['torch']}, Triton {here['triton']}, commit "
        f"{data['commit']}; `python benchmarks/gpu_run.py`. "
        "L2 is emptied before each call; no bias on either side."
    )


def gpu_table(data: dict) -> str:
    """The convolutions of one run of gpu_run.py, under the card and the versions.

    Raises:
        ValueError: it was a dry run.
    """
    rows = _rows(data)
    keys = ("network", "layer", "precision", "batch")
    tuned = {
        tuple(r[key] for key in keys): r["max_autotune_ms"]
        for r in rows.get("compiled", [])
        if "max_autotune_ms" in r
    }
    lines = [
        _card(data, rows),
        "",
        "| network | layer | type | batch | removed | cuDNN ms | packed ms | speed-up (10–90 %) "
        "| vs max-autotune | ideal |",
        "|---|---|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for r in rows.get("ours", []):
        if "ours_ms" not in r:
            continue
        removed = ", ".join(r[key] for key in ("removed", "backend", "fused") if key in r)
        compiled = tuned.get(tuple(r[key] for key in keys))
        against = "" if compiled is None else f"{compiled / r['ours_ms']:.2f}×"
        lines.append(
            f"| {r['network']} | {r['layer']} | {r['precision']} | {r['batch']} | {removed} "
            f"| {r['dense_ms']:.4f} | {r['ours_ms']:.4f} "
            f"| **{r['speedup']:.2f}×** ({r['low']:.2f}–{r['high']:.2f}) | {against} "
            f"| {r['ideal']:.2f}× |"
        )
    return "\n".join(lines)


def configs_table(data: dict) -> str:
    """What benchmarks/gpu_wgmma.py has measured, if anything: the stage `configs`."""
    stage = data["stages"].get("configs")
    if stage is None:
        return ""
    lines = [
        "Configurations of the kernel by wgmma (eights, groups, warpgroups, chunk, places, stages, "
        f"at_once, loops; `python benchmarks/gpu_wgmma.py`). {stage.get('about', '')}",
        "",
        "| layer | batch | removed | configuration | off | cuDNN ms | packed ms | speed-up |",
        "|---|--:|---|---|--:|--:|--:|--:|",
    ]
    for r in stage["figures"]["rows"]:
        if "ours_ms" in r:
            numbers = ", ".join(map(str, r["config"]))
            lines.append(
                f"| {r['layer']} | {r['batch']} | {r['removed']} | {numbers} | {r['off']:.4f} "
                f"| {r['dense_ms']:.4f} | {r['ours_ms']:.4f} | {_cell(r)} |"
            )
    return "\n".join(lines)


def layers_table(data: dict) -> str:
    """A line for each layer and batch: the fastest of our kernels in each pattern, and half of the
    channels taken out, which the dense library runs. Of the stage `configs` there may be rows
    without a spread.
    """
    rows = _rows(data)
    best: dict[tuple[str, int], dict[str, Row]] = {}
    seen: dict[tuple[str, int], float] = {}
    raced = [r for stage in ("dense", "ours", "configs") for r in rows.get(stage, [])]
    for r in raced:
        if r.get("precision") in HALVES and "fused" not in r:
            times = [r[key] for key in ("dense_ms", "nchw_ms", "channels_last_ms") if key in r]
            where = r["layer"], r["batch"]
            seen[where] = min([*times, seen.get(where, float("inf"))])
    more = []
    for r in rows.get("configs", []):
        # cuDNN does not choose the same way in every process: against the best that it was seen at.
        dense = seen[r["layer"], r["batch"]]
        more.append(r | {"backend": "wgmma", "dense_ms": dense, "speedup": dense / r["ours_ms"]})
    for r in (*rows.get("ours", []), *more):
        if "speedup" not in r or "fused" in r or r["precision"] not in HALVES:
            continue
        kind = SMALLER if r["backend"] == SMALLER else r["removed"]
        own = best.setdefault((r["layer"], r["batch"]), {})
        if kind not in own or own[kind]["speedup"] < r["speedup"]:
            own[kind] = r
    heads = [name.removesuffix(" sorted") for name in PATTERNS] + ["half the channels, dense"]
    lines = [
        _card(data, rows),
        "",
        "| layer | batch | cuDNN ms | " + " | ".join(heads) + " |",
        "|---|--:|--:" + "|--:" * len(heads) + "|",
    ]
    for (layer, batch), own in best.items():
        dense = seen[layer, batch]
        cells = " | ".join(_cell(own.get(kind)) for kind in (*PATTERNS, SMALLER))
        lines.append(f"| {layer} | {batch} | {dense:.4f} | {cells} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    backend = f" {row['backend']}" if row.get("backend", SMALLER) != SMALLER else ""
    spread = f" ({row['low']:.2f}–{row['high']:.2f})" if "low" in row else ""
    return f"**{row['speedup']:.2f}×**{spread}{backend}"
