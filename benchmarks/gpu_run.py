#!/usr/bin/env python3
"""Everything that a GPU is wanted for, by one command, from a bare clone, within nine minutes.

python benchmarks/gpu_run.py                 all stages; the table last
python benchmarks/gpu_run.py --first         what matters most, 270 s
python benchmarks/gpu_run.py --second        the rest, 380 s; results go beside the first one's
python benchmarks/gpu_run.py linear tests    these stages only; one alone has all of the time
python benchmarks/gpu_run.py --out FOLDER    or OUT=FOLDER: four files; by default in ./gpu-run/
python benchmarks/gpu_run.py --work FOLDER   caches and logs; by default in the system's for such

Wants a python with torch for CUDA, Triton, safetensors, rich, and pytest for the tests; of the
package itself, nothing is installed or built. Each stage is a group of processes with a deadline of
its own: when one crashes or hangs, the others still run; what would start too late is left out, and
said so. Every figure is written down as soon as it is known, and kept when its stage is stopped, or
all of this is. A kernel that hangs or breaks the device costs its stage one start: the stage begins
again without that backend, with the rows that it has.
Run again with the same --work, Triton, NVRTC and torch.compile take up from what they have
compiled; with the same --out, of the same commit (SPARSE_OPS_COMMIT where there is no git) and on
the same card, new rows join the old. Without a GPU this is a dry run: the same code, on the CPU, on
shapes that nothing can be learnt from.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Run as a script, it is not in a package.
from benchmarks import _gpu_results as results  # noqa: E402
from benchmarks._gpu_stages import (  # noqa: E402
    BUDGET_S,
    FIRST_S,
    SECOND_S,
    STAGES,
    Stage,
    command_of,
    missing,
)

# How often what there is is written down, and the least time in which a stage is begun again.
TICK_S, AGAIN_S = 5.0, 30.0


def no_gpu() -> str | None:
    """Why torch, in a process of its own, sees no GPU, or None if it sees one."""
    code = "import torch; torch.zeros(1, device='cuda')"
    try:
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=90)
    except subprocess.TimeoutExpired:
        return "asked for one, torch did not answer in 90 s"
    said = asked.stderr.decode(errors="replace").strip()
    return (said.splitlines() or ["torch did not say why"])[-1] if asked.returncode else None


def waited(
    command: list[str],
    seconds: float,
    environment: dict[str, str],
    log: Path,
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Runs a command, its words in a file; what became of it. Nothing of it is left running.

    Args:
        tick: called every `TICK_S`, for what is to be kept whatever happens.
    """
    end = time.monotonic() + seconds
    with open(log, "a") as words:
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
    state = "out of time"
    try:
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(min(left, TICK_S))
                state = "done" if code == 0 else f"failed ({code})"
                break
            tick()
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


def run_stage(
    stage: Stage,
    seconds: float,
    work: Path,
    gpu: bool,
    keep: Callable[[dict], None] = lambda row: None,
) -> dict:
    """Runs one stage; its words go to a file, its figures come from one that it writes.

    Args:
        keep: is given every few seconds what there is so far.
    """
    result, log = work / f"{stage.name}.json", work / f"{stage.name}.log"
    for old in (result, log, results.now_file(result)):
        old.unlink(missing_ok=True)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "SPARSE_OPS_RESULT": str(result),
        "SPARSE_OPS_TUNED": str(work / "tuned.json"),
        "SPARSE_OPS_CACHE": str(work / "cache"),
        "TRITON_CACHE_DIR": str(work / "triton-cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor-cache"),
    }
    environment.pop("TRITON_INTERPRET", None)
    environment.pop("SPARSE_OPS_DRY", None)
    if not gpu:
        environment |= {"SPARSE_OPS_DRY": "1", "TRITON_INTERPRET": "1"}
    if stage.name in ("memcheck", "racecheck"):
        # Else torch's own pool of memory would hide what is read beyond the end of a tensor.
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    command = command_of(stage, sys.executable, str(work))
    start = time.monotonic()
    without: list[str] = []

    def tick() -> None:
        keep({"state": "running", "seconds": seconds, "figures": figures_of(result)})

    while True:
        left = start + seconds - time.monotonic()
        environment["SPARSE_OPS_SECONDS"] = str(max(1.0, left - 5))
        environment["SPARSE_OPS_WITHOUT"] = " ".join(without)
        state = waited(command, left, environment, log, tick)
        culprit = results.broken_by(result)
        left = start + seconds - time.monotonic()
        if not state.startswith("failed") or culprit in (None, *without) or left < AGAIN_S:
            break
        without.append(culprit)
    figures = figures_of(result)
    if stage.name == "ncu" and (measured := work / "ncu.csv").exists():
        said = measured.read_text(errors="replace")
        figures = {"rows": results.from_ncu(said)}
        if not figures["rows"]:
            state = f"failed (ncu measured nothing: {results.error_of_ncu(said)})"
    rows = figures["rows"] if figures else []
    bad = sum("failed" in row for row in rows)
    if bad and state == "done":
        state = f"failed ({bad} of {len(rows)} rows)"
    elif state == "out of time" and rows:
        state = f"out of time, after {len(rows)} rows"
    return {"state": state, "seconds": round(time.monotonic() - start, 1), "figures": figures}


SHOWN = ("ceilings", "dense", "compiled", "ours", "network", "linear", "small", "tests", "tune")


def show(rows: dict[str, dict]) -> None:
    """The figures, then what became of each stage."""
    for name in SHOWN:
        for row in results.rows_of(rows, name):
            words = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
            print(f"{name}  " + "  ".join(words))
    print(f"\n{'stage':10} {'seconds':>8}  state")
    for name, row in rows.items():
        print(f"{name:10} {row['seconds']:8.1f}  {row['state']}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", help=", ".join(s.name for s in STAGES))
    parser.add_argument("--first", action="store_true", help="what matters most")
    parser.add_argument("--second", action="store_true", help="the rest")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-run")))
    own = Path(tempfile.gettempdir()) / f"sparse_ops-gpu-run-{os.getuid()}"
    parser.add_argument("--work", type=Path, default=own)
    given = parser.parse_args()
    if unknown := set(given.stages) - {s.name for s in STAGES}:
        have = ", ".join(s.name for s in STAGES)
        parser.error(f"no stage {', '.join(sorted(unknown))}; have {have}")
    if bool(given.stages) + given.first + given.second > 1:
        parser.error("one of --first, --second and names of stages")
    return given


def main() -> int:
    given = arguments()
    out, work = given.out.resolve(), given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    # Of an earlier run, in the same folder: only what is compiled is still wanted.
    for stale in [*work.glob("*.log"), *work.glob("*.json"), *work.glob("ncu.csv")]:
        if stale.name != "tuned.json":
            stale.unlink()
    # Ended from outside, it still ends its stage's processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start, ran = time.monotonic(), set()
    reason, of = no_gpu(), results.commit()
    gpu = reason is None
    whole = {"commit": of, "gpu": gpu, "stages": {}}
    old = results.earlier(out, of, gpu)
    budget = FIRST_S if given.first else SECOND_S if given.second else BUDGET_S
    # A dry run is on whatever machine there is, which may be busy.
    slack = 1 if gpu else 6
    for stage in STAGES:
        if given.stages and stage.name not in given.stages:
            continue
        # Whatever is run names the card first.
        if (given.first and not stage.first) or (
            given.second and stage.first and stage.name != "env"
        ):
            continue
        left = slack * budget - (time.monotonic() - start)
        if (lacks := missing(stage, gpu)) is not None:
            row = {"state": lacks, "seconds": 0.0, "figures": None}
        elif left < stage.least_s:
            row = {"state": "no time left", "seconds": 0.0, "figures": None}
        else:
            seconds = left if len(given.stages) == 1 else min(slack * stage.most_s, left)

            def keep(row: dict, name: str = stage.name) -> None:
                so_far = {**whole, "stages": dict(whole["stages"])}
                results.add(so_far, name, row)
                results.publish(results.joined(old, so_far), work, out)

            row = run_stage(stage, seconds, work, gpu, keep)
        ran.add(stage.name)
        results.add(whole, stage.name, row)
        print(f"{stage.name}: {row['state']}", flush=True)
        # Written after each stage: whatever happens next, what was found is kept.
        results.publish(results.joined(old, whole), work, out)
    if not gpu:
        print(f"dry run, whose times mean nothing: there is no GPU ({reason})")
    show(whole["stages"])
    print(f"written to {out / 'gpu.json'}")
    failed = any(whole["stages"][name]["state"].startswith("failed") for name in ran)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
