"""Writes the README's tables from committed results: `python -m benchmarks.readme`.

Between `<!-- results: FILE -->` and `<!-- end -->` in README.md stands the table of
benchmarks/results/FILE; nothing there is written by hand.
"""

import json
import re
import sys
from pathlib import Path

from benchmarks.methods_table import methods_table
from sparse_ops._files import replacing

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- results: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
NAMES = {
    "periodic": "`periodic_conv2d`",
    "csr": "`csr_conv2d`",
    "channels": "`channel_pruned_conv2d`",
    "linear": "`csr_linear`",
}


def table(data: dict) -> str:
    """The rows of one results file as Markdown, under the machine and the command."""
    here = data["machine"]
    lines = [
        f"{here['cpu']} ({here['isa']}), {data['rows'][0]['threads']} thread(s), "
        f"torch {here['torch']}, float32; `{data['command']}`.",
        "",
        "| operator | layer | kept | batch | backend | dense ms (form) | packed ms (form) "
        "| speed-up (10–90 %) | ideal |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for r in data["rows"]:
        against = "" if r["dense_form"] != "torch.sparse_csr" else " vs torch's CSR"
        lines.append(
            f"| {NAMES[r['operator']]} {r['what']} | {r['layer']} | {r['kept']:.1%} | {r['batch']} "
            f"| {r['backend']}{against} | {r['dense_ms']:.3f} ({r['dense_form']}) "
            f"| {r['packed_ms']:.3f} ({r['packed_form']}) "
            f"| **{r['speedup']:.2f}×** ({r['low']:.2f}–{r['high']:.2f}) | {r['ideal']:.2f}× |"
        )
    return "\n".join(lines)


def gpu_table(data: dict) -> str:
    """The convolutions of one run of gpu_run.py as Markdown, under the card and the versions.

    Raises:
        ValueError: it was a dry run.
    """
    if not data["gpu"]:
        raise ValueError("these are the results of a dry run: there was no GPU")
    rows = {n: (s["figures"] or {}).get("rows", []) for n, s in data["stages"].items()}
    here = rows["env"][0]
    keys = ("network", "layer", "precision", "batch")
    tuned = {
        tuple(r[key] for key in keys): r["max_autotune_ms"]
        for r in rows.get("compiled", [])
        if "max_autotune_ms" in r
    }
    lines = [
        f"{here['device']}, torch {here['torch']}, Triton {here['triton']}, commit "
        f"{data['commit']}; `python benchmarks/gpu_run.py`. "
        "L2 is emptied before each call; no bias on either side.",
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


def filled(text: str) -> str:
    """The README with its tables made anew."""

    def fill(match: re.Match) -> str:
        data = json.loads((ROOT / "benchmarks" / "results" / match[1]).read_text())
        kinds = {"runs": methods_table, "stages": gpu_table}
        make = next((kinds[key] for key in kinds if key in data), table)
        made = make(data)
        return f"<!-- results: {match[1]} -->\n{made}\n<!-- end -->"

    return BLOCK.sub(fill, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    new = filled(readme.read_text())
    if "--check" in sys.argv:
        sys.exit(0 if new == readme.read_text() else "README.md: run python -m benchmarks.readme")
    with replacing(readme) as temporary:
        temporary.write_text(new)
