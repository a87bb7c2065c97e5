#!/usr/bin/env python3
"""Everything that a GPU is wanted for, by one command, from a bare clone, within nine minutes.

python benchmarks/gpu_run.py                 all stages; results in ./gpu-run/, the table last
python benchmarks/gpu_run.py smoke dense     these stages only; one alone has all of the time
python benchmarks/gpu_run.py --out FOLDER    or OUT=FOLDER

Each stage is a process with a deadline of its own; what would start too late is left out, and said
so. Every figure is written down as soon as it is known. Without a GPU this is a dry run: the same
code, on the CPU, on shapes that nothing can be learnt from.
"""

import argparse
import importlib.util
import json
import os
import shutil
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
        most_s: its deadline; all of them together are more than the budget, but few take theirs.
        least_s: with less time left than this it is not worth starting.
        command: what is run; `python` is this one.
        kernels: whether it runs our kernels.
    """

    name: str
    most_s: float
    least_s: float
    command: tuple[str, ...]
    kernels: bool = False


MEASURE = ("python", "benchmarks/_gpu_measure.py")
NCU = ("ncu", "--clock-control", "none", "--set", "detailed", "-k", "regex:conv2d|csr_linear")
CHECK = ("compute-sanitizer", "--error-exitcode", "9", "--tool")
STAGES = (
    Stage("env", 30, 5, (*MEASURE, "env")),
    Stage("ceilings", 20, 10, (*MEASURE, "ceilings")),
    Stage("dense", 80, 30, (*MEASURE, "dense")),
    Stage("smoke", 60, 15, (*MEASURE, "smoke"), True),
    Stage("ours", 110, 20, (*MEASURE, "ours"), True),
    Stage("linear", 30, 15, (*MEASURE, "linear"), True),
    Stage("graphs", 40, 15, (*MEASURE, "graphs"), True),
    Stage("tests", 100, 30, ("python", "-m", "pytest", "-q", "-m", "gpu", "tests/kernels"), True),
    Stage("tune", 60, 30, (*MEASURE, "tune"), True),
    Stage("compiled", 60, 30, (*MEASURE, "compiled")),
    Stage("ncu", 40, 20, (*NCU, *MEASURE, "profile"), True),
    Stage("memcheck", 50, 20, (*CHECK, "memcheck", *MEASURE, "smoke"), True),
    Stage("racecheck", 50, 20, (*CHECK, "racecheck", *MEASURE, "smoke"), True),
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


def missing(stage: Stage, gpu: bool) -> str | None:
    """What a stage wants and is not here, in words, or None."""
    tool = stage.command[0]
    if tool != "python" and not (gpu and shutil.which(tool)):
        return f"dry run: {tool} is not run" if not gpu else f"{tool} is not here"
    if stage.kernels and importlib.util.find_spec("triton") is None:
        return "there is no Triton"
    return None


def run_stage(stage: Stage, seconds: float, out: Path, gpu: bool) -> dict:
    """Runs one stage; its words go to a file, its figures come from one that it writes."""
    result = out / f"{stage.name}.json"
    result.unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SPARSE_OPS_RESULT": str(result),
        "SPARSE_OPS_SECONDS": str(seconds - 5),
        "SPARSE_OPS_TUNED": str(out / "tuned.json"),
        "TRITON_CACHE_DIR": str(out / "triton-cache"),
    }
    environment.pop("TRITON_INTERPRET", None)
    if not gpu:
        environment |= {"SPARSE_OPS_DRY": "1", "TRITON_INTERPRET": "1"}
    if stage.name in ("memcheck", "racecheck"):
        # Else torch's own pool of memory would hide what is read beyond the end of a tensor.
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    command = [sys.executable if word == "python" else word for word in stage.command]
    start, state = time.monotonic(), "failed"
    with open(out / f"{stage.name}.log", "w") as log:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
            # 5: pytest found no test.
            state = "done" if done.returncode in (0, 5) else f"failed ({done.returncode})"
        except subprocess.TimeoutExpired:
            state = "out of time"
    figures = json.loads(result.read_text()) if result.exists() else None
    return {"state": state, "seconds": round(time.monotonic() - start, 1), "figures": figures}


def show(rows: dict[str, dict]) -> None:
    """The figures, then what became of each stage."""
    for name in ("ceilings", "dense", "compiled", "ours", "linear", "graphs", "tune"):
        for row in (rows.get(name, {}).get("figures") or {}).get("rows", []):
            words = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
            print(f"{name}  " + "  ".join(words))
    print(f"\n{'stage':10} {'seconds':>8}  state")
    for name, row in rows.items():
        print(f"{name:10} {row['seconds']:8.1f}  {row['state']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", help=", ".join(s.name for s in STAGES))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-run")))
    given = parser.parse_args()
    if unknown := set(given.stages) - {s.name for s in STAGES}:
        have = ", ".join(s.name for s in STAGES)
        parser.error(f"no stage {', '.join(sorted(unknown))}; have {have}")
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    start, gpu, rows = time.monotonic(), has_gpu(), {}
    for stage in STAGES:
        if given.stages and stage.name not in given.stages:
            continue
        left = BUDGET_S - (time.monotonic() - start)
        if (reason := missing(stage, gpu)) is not None:
            rows[stage.name] = {"state": reason, "seconds": 0.0, "figures": None}
        elif left < stage.least_s:
            rows[stage.name] = {"state": "no time left", "seconds": 0.0, "figures": None}
        else:
            seconds = left if len(given.stages) == 1 else min(stage.most_s, left)
            rows[stage.name] = run_stage(stage, seconds, out, gpu)
        print(f"{stage.name}: {rows[stage.name]['state']}", flush=True)
        # Written after each stage: whatever happens next, what was found is kept.
        whole = {"commit": commit(), "gpu": gpu, "stages": rows}
        partial = out / "gpu.json.partial"
        partial.write_text(json.dumps(whole, indent=1) + "\n")
        partial.replace(out / "gpu.json")
    if not gpu:
        print("dry run: there is no GPU, and the times mean nothing")
    show(rows)
    print(f"written to {out / 'gpu.json'}")
    bad = [r for r in rows.values() if r["state"].startswith("failed")]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
