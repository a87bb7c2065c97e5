#!/usr/bin/env python3
"""Everything that a GPU is wanted for, by one command, from a bare clone, within nine minutes.

python benchmarks/gpu_run.py                 all stages; results in ./gpu-run/, the table last
python benchmarks/gpu_run.py smoke dense     these stages only
python benchmarks/gpu_run.py --out FOLDER    or OUT=FOLDER

Each stage is a process with a deadline of its own; what would start too late is left out, and said
so. Without a GPU this is a dry run: it shows what would be run, and that it can start.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BUDGET_S = 540.0


class Stage(NamedTuple):
    """One step.

    Attributes:
        most_s: its deadline.
        least_s: with less time left than this it is not worth starting.
        gpu: whether it needs one.
        command: what python is called with.
    """

    name: str
    most_s: float
    least_s: float
    gpu: bool
    command: tuple[str, ...]


MEASURE = "benchmarks/_gpu_measure.py"
STAGES = (
    Stage("env", 30, 5, False, (MEASURE, "env")),
    Stage("build", 150, 60, True, ("setup.py", "-q", "build_ext", "--inplace")),
    Stage("smoke", 60, 15, True, (MEASURE, "smoke")),
    Stage("ceilings", 30, 10, True, (MEASURE, "ceilings")),
    Stage("dense", 120, 30, True, (MEASURE, "dense")),
    Stage("ours", 120, 20, True, (MEASURE, "ours")),
    Stage("tests", 120, 30, True, ("-m", "pytest", "-q", "-m", "gpu", "tests")),
    Stage("compiled", 150, 60, True, (MEASURE, "compiled")),
)


def has_gpu() -> bool:
    """Whether torch, in a process of its own, sees a GPU."""
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def commit() -> str | None:
    """Of this checkout, or None where it is none."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def run_stage(stage: Stage, left_s: float, out: Path) -> dict:
    """Runs one stage; its words go to a file, its figures come from one that it writes."""
    result = out / f"{stage.name}.json"
    result.unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SPARSE_OPS_RESULT": str(result),
        "SPARSE_OPS_SECONDS": str(min(stage.most_s, left_s) - 5),
        "TRITON_CACHE_DIR": str(out / "triton-cache"),
    }
    environment.pop("TRITON_INTERPRET", None)
    start, state = time.monotonic(), "failed"
    with open(out / f"{stage.name}.log", "w") as log:
        try:
            done = subprocess.run(
                [sys.executable, *stage.command],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=min(stage.most_s, left_s),
            )
            # 5: pytest found no test.
            state = "done" if done.returncode in (0, 5) else f"failed ({done.returncode})"
        except subprocess.TimeoutExpired:
            state = "out of time"
    figures = json.loads(result.read_text()) if result.exists() else None
    return {"state": state, "seconds": round(time.monotonic() - start, 1), "figures": figures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", help=", ".join(s.name for s in STAGES))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-run")))
    given = parser.parse_args()
    if unknown := set(given.stages) - {s.name for s in STAGES}:
        parser.error(f"no stage {', '.join(sorted(unknown))}; have {parser.format_usage()}")
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    start, gpu, rows = time.monotonic(), has_gpu(), {}
    for stage in STAGES:
        if given.stages and stage.name not in given.stages:
            continue
        left = BUDGET_S - (time.monotonic() - start)
        if stage.gpu and not gpu:
            rows[stage.name] = {"state": "dry run: no GPU", "seconds": 0.0, "figures": None}
        elif left < stage.least_s:
            rows[stage.name] = {"state": "no time left", "seconds": 0.0, "figures": None}
        else:
            rows[stage.name] = run_stage(stage, left, out)
        print(f"{stage.name}: {rows[stage.name]['state']}", flush=True)
        # Written after each stage: whatever happens next, what was found is kept.
        whole = {"commit": commit(), "gpu": gpu, "stages": rows}
        partial = out / "gpu.json.partial"
        partial.write_text(json.dumps(whole, indent=1) + "\n")
        partial.replace(out / "gpu.json")
    for name in ("ceilings", "dense", "ours", "compiled"):
        for row in (rows.get(name, {}).get("figures") or {}).get("rows", []):
            print("  ".join(str(value) for value in row.values()))
    print(f"\n{'stage':10} {'seconds':>8}  state")
    for name, row in rows.items():
        print(f"{name:10} {row['seconds']:8.1f}  {row['state']}")
    print(f"written to {out / 'gpu.json'}")
    bad = [r for r in rows.values() if r["state"].startswith(("failed", "out of time"))]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
