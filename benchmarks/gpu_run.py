#!/usr/bin/env python3
"""Everything that a GPU is wanted for, by one command, from a bare clone, within nine minutes.

python benchmarks/gpu_run.py                 all stages; results in ./gpu-run/, the table last
python benchmarks/gpu_run.py smoke dense     these stages only; one alone has all of the time
python benchmarks/gpu_run.py --out FOLDER    or OUT=FOLDER

Wants a python with torch for CUDA, Triton, safetensors, rich, and pytest for the tests; of the
package itself, nothing is installed or built. Each stage is a group of processes with a deadline of
its own: when one crashes or hangs, the others still run; what would start too late is left out, and
said so. Every figure is written down as soon as it is known, and kept when its stage is stopped.
Run again with the same --out, Triton and torch.compile take up from what they have compiled.
Without a GPU this is a dry run: the same code, on the CPU, on shapes that nothing can be learnt
from.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# Under the nine minutes by what stopping the last stage may take.
BUDGET_S = 525.0


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
NCU = ("ncu", "--clock-control", "none", "--set", "detailed", "--launch-count", "8")
NCU = (*NCU, "-k", "regex:conv2d|csr_linear")
CHECK = ("compute-sanitizer", "--error-exitcode", "9", "--tool")
STAGES = (
    Stage("env", 30, 5, (*MEASURE, "env")),
    Stage("ceilings", 25, 10, (*MEASURE, "ceilings")),
    Stage("dense", 70, 30, (*MEASURE, "dense")),
    Stage("smoke", 60, 15, (*MEASURE, "smoke"), True),
    Stage("build", 60, 20, (*MEASURE, "build"), True),
    Stage("ours", 120, 20, (*MEASURE, "ours"), True),
    Stage("compiled", 70, 30, (*MEASURE, "compiled")),
    Stage("linear", 25, 15, (*MEASURE, "linear"), True),
    Stage("graphs", 30, 15, (*MEASURE, "graphs"), True),
    Stage("tests", 80, 30, ("python", "benchmarks/_gpu_tests.py"), True),
    Stage("tune", 60, 30, (*MEASURE, "tune"), True),
    Stage("ncu", 40, 20, (*NCU, *MEASURE, "profile"), True),
    Stage("memcheck", 45, 20, (*CHECK, "memcheck", *MEASURE, "smoke"), True),
    Stage("racecheck", 45, 20, (*CHECK, "racecheck", *MEASURE, "smoke"), True),
)


def has_gpu() -> bool:
    """Whether torch, in a process of its own, sees a GPU."""
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    command = [sys.executable, "-c", code]
    try:
        return subprocess.run(command, capture_output=True, timeout=90).returncode == 0
    except subprocess.TimeoutExpired:
        print("asked whether there is a GPU, torch did not answer in 90 s")
        return False


def commit() -> str | None:
    """Of this checkout, or None where it is none."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def missing(stage: Stage, gpu: bool) -> str | None:
    """What a stage wants and is not here, in words, or None."""
    tool = stage.command[0]
    if tool != "python" and not (gpu and shutil.which(tool)):
        return f"dry run: {tool} is not run" if not gpu else f"{tool} is not here"
    wanted = ("triton", "safetensors", "rich") if stage.kernels else ()
    if stage.name == "tests":
        wanted = (*wanted, "pytest")
    names = {"triton": "Triton"}
    for module in wanted:
        if importlib.util.find_spec(module) is None:
            return f"there is no {names.get(module, module)}"
    return None


def waited(command: list[str], seconds: float, environment: dict[str, str], log: Path) -> str:
    """Runs a command, its words in a file; what became of it. Nothing of it is left running."""
    with open(log, "w") as words:
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=words,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return f"failed to start ({error})"
    try:
        code = process.wait(seconds)
        state = "done" if code == 0 else f"failed ({code})"
    except subprocess.TimeoutExpired:
        state = "out of time"
    finally:
        # What it started, too: compilers of torch.compile, say, or what a profiler runs.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    # One that hangs in the driver does not die at once: it is not waited for.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
    return state


def figures_of(result: Path) -> dict | None:
    """What a stage wrote down, however it ended; None if that is nothing."""
    try:
        found = json.loads(result.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("rows"), list) else None


def run_stage(stage: Stage, seconds: float, out: Path, gpu: bool) -> dict:
    """Runs one stage; its words go to a file, its figures come from one that it writes."""
    result = out / f"{stage.name}.json"
    result.unlink(missing_ok=True)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "SPARSE_OPS_RESULT": str(result),
        "SPARSE_OPS_SECONDS": str(max(1.0, seconds - 5)),
        "SPARSE_OPS_TUNED": str(out / "tuned.json"),
        "TRITON_CACHE_DIR": str(out / "triton-cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(out / "inductor-cache"),
    }
    environment.pop("TRITON_INTERPRET", None)
    environment.pop("SPARSE_OPS_DRY", None)
    if not gpu:
        environment |= {"SPARSE_OPS_DRY": "1", "TRITON_INTERPRET": "1"}
    if stage.name in ("memcheck", "racecheck"):
        # Else torch's own pool of memory would hide what is read beyond the end of a tensor.
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    command = [sys.executable if word == "python" else word for word in stage.command]
    start = time.monotonic()
    state = waited(command, seconds, environment, out / f"{stage.name}.log")
    figures = figures_of(result)
    rows = figures["rows"] if figures else []
    bad = sum("failed" in row for row in rows)
    if bad and state == "done":
        state = f"failed ({bad} of {len(rows)} rows)"
    elif state == "out of time" and rows:
        state = f"out of time, after {len(rows)} rows"
    return {"state": state, "seconds": round(time.monotonic() - start, 1), "figures": figures}


def show(rows: dict[str, dict]) -> None:
    """The figures, then what became of each stage."""
    for name in ("ceilings", "dense", "compiled", "ours", "linear", "graphs", "tests", "tune"):
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
    # Ended from outside, it still ends its stage's processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start, rows = time.monotonic(), {}
    gpu, of = has_gpu(), commit()
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
        whole = {"commit": of, "gpu": gpu, "stages": rows}
        partial = out / "gpu.json.partial"
        partial.write_text(json.dumps(whole, indent=1) + "\n")
        partial.replace(out / "gpu.json")
    if not gpu:
        print("dry run: there is no GPU, and the times mean nothing")
    show(rows)
    print(f"written to {out / 'gpu.json'}")
    return 1 if any(row["state"].startswith("failed") for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
