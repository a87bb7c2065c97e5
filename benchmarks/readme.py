"""Writes docs/results.md, and tables and pictures of other pages: `python -m benchmarks.readme`.

Nothing of it is written by hand: docs/results.md is a section for each file of benchmarks/results
that is there; between `<!-- results: highlights -->` and `<!-- end -->` the README has some of
their rows, docs/gpu.md those of a card. `--check` writes nothing, and fails where something would
change.
"""

import json
import re
import sys
from pathlib import Path

from benchmarks.claims_table import claims_table
from benchmarks.ecosystem_table import ecosystem_table, speedups_table
from benchmarks.gpu_table import configs_table, gpu_table, layers_table
from benchmarks.methods_table import PICTURES as METHODS_PICTURES
from benchmarks.methods_table import methods_table
from sparse_ops._files import replacing
from sparse_ops.report.drawings import figures
from sparse_ops.report.reading import gather
from sparse_ops.report.svg import svg

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"<!-- results: highlights -->\n.*?<!-- end -->", re.DOTALL)
CARD = re.compile(r"<!-- results: gpu -->\n.*?<!-- end -->", re.DOTALL)
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


def networks_table(data: dict, only: tuple[tuple[str, str, int], ...] = ()) -> str:
    """Whole networks as Markdown; all rows, or only some (network, masks, batch)."""
    here = data["machine"]
    lines = [
        f"{here['cpu']} ({here['isa']}), torch {here['torch']}, {data['rows'][0]['threads']} "
        f"thread(s), float32; `{data['command']}`:",
        "",
        "| network | masks | batch | dense ms (form) | converted ms | speed-up (10–90 %) "
        "| over the fastest engine |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for r in data["rows"]:
        if only and (r["network"], r["masks"], r["batch"]) not in only:
            continue
        beside = ""
        if r["engines"]:
            engine, found = min(r["engines"].items(), key=lambda item: item[1]["ms"])
            beside = f"{found['speedup']:.2f}× ({engine})"
        lines.append(
            f"| {r['network']} | {r['masks']} | {r['batch']} | {r['dense_ms']:.3f} "
            f"({r['dense_form']}) | {r['packed_ms']:.3f} | **{r['speedup']:.2f}×** "
            f"({r['low']:.2f}–{r['high']:.2f}) | {beside} |"
        )
    return "\n".join(lines)


# The sections of docs/results.md: file, heading, what it is. A file that is not there has none.
SECTIONS = (
    (
        "networks.json",
        "Whole networks",
        "Planned and applied as a user would: what a call takes from images to logits, against the "
        "fastest form of the masked network that torch has here (eager, channels_last, "
        "`torch.compile` with frozen weights), and against the fastest of ONNX Runtime, OpenVINO "
        "and MNN, dense; of networks that lost channels these run what is left. *F(4×4)*: planned "
        'with `winograd="4x4"`.',
    ),
    ("networks_two_threads.json", "Whole networks on two threads", "The same with two threads."),
    (
        "ecosystem.json",
        "Other people's networks",
        "Networks of torchvision and timm, and of tasks other than classification, planned and "
        "applied as they are, against torch's fastest form of the masked network. *Peak memory* is "
        "that of the process that planned and converted it, torch and all; beside it the bytes of "
        "the dense weights.",
    ),
    (
        "claims.json",
        "Claims of the documents",
        "Each claim beside what was measured by `sparse-ops claims`. *holds*: the median reaches "
        "the claimed figure; *falls short*: it does not; *refuted*: the contrary was measured.",
    ),
    (
        "operators.json",
        "Operators",
        "Single layers, and the sum over a network's layers, each in the form that is fastest for "
        "it.",
    ),
    (
        "chains.json",
        "Chains",
        "All 3×3 convolutions of a network one after the other, ReLU and pooling between them, "
        "activations blocked by 16 images from layer to layer; the way into blocks and out of them "
        "is counted. `0% removed` is the same kernel as a dense convolution.",
    ),
    ("chains_two_threads.json", "Chains on two threads", "The same with two threads."),
    ("two_threads.json", "Operators on two threads", "Sums over a network's layers."),
    ("gpu.json", "GPU", "What `python benchmarks/gpu_run.py` has measured."),
    (
        "methods.json",
        "What the methods learn",
        "The published recipes on data that can be had without an account, most of them in a "
        "part of their epochs; `benchmarks/experiments.py` says what else is another. What can be "
        "compared is what a method costs against its own dense network, and the methods of a "
        "block with each other, with gradual magnitude in as many epochs first of all. What was "
        "published is of **other data, other networks and longer schedules**, and stands apart.",
    ),
)
HEAD = """# Results

Generated from the JSON files in `benchmarks/results` by `python -m benchmarks.readme`; a test holds
that they agree. Every time is a ratio from one run against the fastest dense form that torch has
(eager, channels_last, prepacked), by turns, with the same threads, precision and fused bias;
*ideal* is dense multiply-accumulates over kept ones. Slow cases are shown too. What was tried, and
why it came out so, is in `benchmarks/NOTES.md`.
"""


def _gpu_tables(data: dict) -> str:
    return "\n\n".join(filter(None, (gpu_table(data), configs_table(data))))


def on_a_card() -> str:
    """The block of docs/gpu.md."""
    if not (RESULTS / "gpu.json").is_file():
        return "Nothing has been measured."
    data = json.loads((RESULTS / "gpu.json").read_text(encoding="utf-8"))
    return (
        "3×3 layers of ResNet-18, the fastest of our kernels (rows without a spread: of several "
        "configurations, against the best that cuDNN was seen at):\n\n" + layers_table(data)
    )


def results_page() -> str:
    """docs/results.md."""
    kinds = {"claims": claims_table, "runs": methods_table, "stages": _gpu_tables}
    parts = [HEAD]
    for file, heading, about in SECTIONS:
        if not (RESULTS / file).is_file():
            continue
        data = json.loads((RESULTS / file).read_text(encoding="utf-8"))
        make = next((kinds[key] for key in kinds if key in data), table)
        make = networks_table if file.startswith("networks") else make
        make = ecosystem_table if file.startswith("ecosystem") else make
        parts.append(f"## {heading}\n\n{about} (`{file}`)\n\n{make(data)}\n")
    return "\n".join(parts)


# Rows of the README: file, and what a row has to have.
HIGHLIGHTS: tuple[tuple[str, dict], ...] = (
    ("chains.json", {"network": "resnet18-cifar", "what": "PSD2_P8"}),
    ("chains.json", {"network": "resnet18-cifar", "what": "0% removed"}),
    ("operators.json", {"layer": "784→300", "what": "90.0%", "batch": 1}),
    ("operators.json", {"layer": "4096→4096", "what": "98.3%", "batch": 1}),
)
WHOLE_NETWORKS = (
    ("lenet300", "60× fewer weights", 1),
    ("small_vgg", "PSD2_P8", 64),
    ("resnet18", "75% of filters", 1),
    ("resnet18", "90%", 16),
    ("resnet18", "95%", 1),
    ("resnet18", "95%", 64),
    ("resnet18", "ERK 90%", 16),
    ("resnet18", "ERK 90%, F(4×4)", 16),
    ("resnet18", "PSD2_P8", 16),
    ("vgg16", "95%", 16),
)
# Figures, by name: which results file of, and what its title there has in it. The first is the
# README's.
PICTURES = {
    "measured.svg": ("chains.json", "chain of resnet18-cifar"),
    **{name: ("methods.json", words) for name, words in METHODS_PICTURES.values()},
}


def highlights() -> str:
    """A dozen rows, or as many of them as the results have, with the slow ones among them."""
    whole = ""
    if (RESULTS / "networks.json").is_file():
        data = json.loads((RESULTS / "networks.json").read_text(encoding="utf-8"))
        whole = networks_table(data, WHOLE_NETWORKS) + "\n\n"
    if (RESULTS / "ecosystem.json").is_file():
        data = json.loads((RESULTS / "ecosystem.json").read_text(encoding="utf-8"))
        whole += "Other people's networks; " + speedups_table(data) + "\n\n"
    whole += "Layers, and chains of them; " if whole else ""
    lines = [
        "| | removed | batch | dense ms | packed ms | speed-up (10–90 %) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    machines = []
    for file, wanted in HIGHLIGHTS:
        data = json.loads((RESULTS / file).read_text(encoding="utf-8"))
        here = data["machine"]
        machines.append(f"{here['cpu']} ({here['isa']}), torch {here['torch']}")
        for r in data["rows"]:
            if all(r[key] == value for key, value in wanted.items()) and (
                r["dense_form"] != "torch.sparse_csr"
            ):
                lines.append(
                    f"| {NAMES[r['operator']]} {r['what']}, {r['layer']} "
                    f"| {1 - r['kept']:.0%} | {r['batch']} "
                    f"| {r['dense_ms']:.3f} | {r['packed_ms']:.3f} "
                    f"| **{r['speedup']:.2f}×** ({r['low']:.2f}–{r['high']:.2f}) |"
                )
    where = "; ".join(dict.fromkeys(machines))
    return "\n".join([f"{whole}{where}, one thread, float32:", "", *lines])


def picture(file: str, words: str) -> str:
    """One figure of a results file, as SVG."""
    drawn = figures(gather([RESULTS / file]))
    return svg(next(figure for figure in drawn if words in figure.title), alone=True) + "\n"


def made() -> dict[Path, str]:
    """Every file that is generated, and what has to stand in it."""
    readme = ROOT / "README.md"
    block = f"<!-- results: highlights -->\n{highlights()}\n<!-- end -->"
    text = BLOCK.sub(lambda _: block, readme.read_text(encoding="utf-8"))
    drawn = {ROOT / "docs" / name: picture(*which) for name, which in PICTURES.items()}
    card = ROOT / "docs" / "gpu.md"
    block_of_card = f"<!-- results: gpu -->\n{on_a_card()}\n<!-- end -->"
    about_cards = CARD.sub(lambda _: block_of_card, card.read_text(encoding="utf-8"))
    pages = {readme: text, card: about_cards, ROOT / "docs" / "results.md": results_page()}
    return {**pages, **drawn}


if __name__ == "__main__":
    files = made()
    if "--check" in sys.argv:
        old = [
            path.relative_to(ROOT).as_posix()
            for path, text in files.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text
        ]
        sys.exit(f"{', '.join(old)}: run python -m benchmarks.readme" if old else 0)
    for path, text in files.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
