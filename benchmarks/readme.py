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


def filled(text: str) -> str:
    """The README with its tables made anew."""

    def fill(match: re.Match) -> str:
        data = json.loads((ROOT / "benchmarks" / "results" / match[1]).read_text())
        made = methods_table(data) if "runs" in data else table(data)
        return f"<!-- results: {match[1]} -->\n{made}\n<!-- end -->"

    return BLOCK.sub(fill, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    new = filled(readme.read_text())
    if "--check" in sys.argv:
        sys.exit(0 if new == readme.read_text() else "README.md: run python -m benchmarks.readme")
    with replacing(readme) as temporary:
        temporary.write_text(new)
