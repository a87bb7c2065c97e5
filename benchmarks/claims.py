"""Holds the claims of the five documents against measurements, and keeps both: `sparse-ops claims`.

Each measurement (a network, its masks, a batch size) is written to the JSON as soon as it is done,
and is not done again; networks that are trained go on from what is in the work folder. The verdicts
are computed anew each time, from the measurements alone. How things are measured: both sides in
one process by turns, against the fastest form of the dense network, after a comparison with
float64; `_claim_measure.py` has it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import _claim_cases as cases
from benchmarks._claim_measure import Pace, measure
from benchmarks._claim_training import few
from benchmarks._claim_verdicts import Finding, judge
from sparse_ops._files import replacing
from sparse_ops.data import load
from sparse_ops.report.machine import keep_freed_memory, machine

RESULTS = Path(__file__).parent / "results" / "claims.json"


def run(
    out: Path,
    work: Path,
    pace: Pace,
    *,
    only: Sequence[str] = (),
    train_only: bool = False,
    data: str = "fashion-mnist-subset",
    folder: Path | None = None,
    command: str = "sparse-ops claims",
    say: Callable[[str], None] = print,
) -> list[Finding]:
    """Measures what is not in `out` yet, and judges all that is.

    Args:
        out: the JSON file; read and written.
        work: where networks that are trained are kept.
        only: beginnings of cases, in the order they are wanted in; none: all.
        train_only: whether to train what has to be, and measure nothing: that needs no quiet
            machine.

    Raises:
        ValueError: `only` is the beginning of no case, or `out` is of another machine.
        OSError: a file cannot be read or written.
    """
    asked = only or ("",)
    chosen = {n: c for o in asked for n, c in cases.CASES.items() if n.startswith(o)}
    if not chosen:
        raise ValueError(f"--only {' '.join(only)}: there are {', '.join(cases.CASES)}")
    keep_freed_memory()
    content = _content(out, command)
    images = None
    for name, case in chosen.items():
        missing = [b for b in case.batches if f"{name}@{b}" not in content["rows"]]
        if not missing or (train_only and case.train is None):
            continue
        say(f"{name}: {case.masked}")
        if case.train is not None and images is None:
            images = few(load(data, folder), pace.images)
        build, shape = cases.NETWORKS[case.network]
        model, masks, about = _made(case, build, shape, images, pace, work)
        if train_only:
            say(f"  {about['accuracy']:.2%} of {about['tested']} test images")
            continue
        if case.steps is not None:
            about |= {"steps": case.steps(case.network, build, shape, pace)}
        for batch in missing:
            generator = torch.Generator().manual_seed(batch)
            example = torch.randn(batch, *shape, generator=generator)
            found = measure(model, masks, example, pace)
            here = asdict(machine())
            content["rows"][f"{name}@{batch}"] = {
                "case": name,
                "network": case.network,
                "masks": case.masked,
                "pace": asdict(pace),
                **{key: here[key] for key in ("commit", "torch", "isa")},
                **about,
                **found,
            }
            _write(out, content)
            say(f"  batch {batch}: {found['speedup']:.2f}×, ideal {found['ideal']:.2f}×")
    if not train_only:
        _write(out, content)
    return judge(content["rows"])


def _made(
    case: cases.Case, build: Any, shape: tuple[int, ...], images: Any, pace: Pace, work: Path
) -> cases.Made:
    """The masked network in eval mode, its masks, and what is known of its training."""
    if case.train is not None:
        model, masks, about = case.train(build, images, pace, work)
        return model.eval(), masks, about
    assert case.masks is not None
    torch.manual_seed(0)
    model = build().eval()
    return model, case.masks(model, torch.zeros(1, *shape)), {}


def _content(out: Path, command: str) -> dict[str, Any]:
    """What is in the file; rows by "case@batch"."""
    here = asdict(machine())
    if not out.is_file():
        return {"machine": here, "command": command, "rows": {}}
    content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if content["machine"]["cpu"] != here["cpu"]:
        raise ValueError(
            f"{out} was measured on {content['machine']['cpu']}, this is {here['cpu']}: "
            "ratios of two machines do not go into one table; name another --out"
        )
    content["rows"] = {f"{r['case']}@{r['batch']}": r for r in content["rows"]}
    return content


def _write(out: Path, content: dict[str, Any]) -> None:
    """Rows in the order of the cases, and the findings, which follow from them."""
    order = list(cases.CASES)
    rows = sorted(
        content["rows"].values(),
        key=lambda r: (order.index(r["case"]) if r["case"] in order else len(order), r["batch"]),
    )
    findings = [asdict(finding) for finding in judge(content["rows"])]
    with replacing(out) as temporary:
        temporary.write_text(
            json.dumps(content | {"rows": rows, "claims": findings}, indent=1) + "\n",
            encoding="utf-8",
        )
