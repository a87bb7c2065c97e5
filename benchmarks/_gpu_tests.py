"""The tests stage of gpu_run.py: tests/kernels/test_on_gpu.py in several processes at once.

Most of a test is compiling its kernel, on the host. What was found by the deadline is written down,
test by test, also of processes that had to be stopped.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._gpu_setting import DEADLINE, DRY, write

PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-v",
    "--color=no",
    "-p",
    "no:cacheprovider",
    "-m",
    "gpu",
)
LINE = re.compile(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)", re.M)


def found(logs: list[Path]) -> dict:
    """What the logs say so far."""
    lines = [match for log in logs for match in LINE.findall(log.read_text(errors="replace"))]
    bad = [name for name, state in lines if state in ("FAILED", "ERROR")]
    counts = {state.lower(): sum(s == state for _, s in lines) for state in ("PASSED", "SKIPPED")}
    return counts | {"bad": len(bad), "names": bad[:100]}


def main() -> int:
    shards = 1 if DRY else max(1, min(8, (os.cpu_count() or 2) // 2))
    out = Path(os.environ.get("SPARSE_OPS_RESULT", "tests.json")).parent
    logs, processes = [], []
    for own in range(shards):
        logs.append(out / f"tests-{own}.log")
        environment = os.environ | {"SPARSE_OPS_SHARD": f"{own}/{shards}"}
        with open(logs[-1], "w") as log:
            command = [*PYTEST, "-m", "gpu", "tests/kernels/test_on_gpu.py"]
            processes.append(
                subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            )
    while time.monotonic() < DEADLINE and any(p.poll() is None for p in processes):
        time.sleep(0.5)
        write([found(logs)])
    stopped = [p for p in processes if p.poll() is None]
    for process in stopped:
        process.kill()
        process.wait()
    # 5: pytest found no test for it.
    broken = [p.returncode for p in processes if p not in stopped and p.returncode not in (0, 1, 5)]
    row = found(logs) | {"processes": shards, "stopped": len(stopped), "broken": broken}
    write([row])
    print(row)
    return 1 if row["bad"] or broken else 0


if __name__ == "__main__":
    sys.exit(main())
