"""Running cases of one kind in child processes, for a time; a crash or a hang is one finding."""

import gc
import hashlib
import importlib
import json
import os
import random
import resource
import select
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.fuzz import NoCase
from tests.fuzz.shrinking import shrunk

# Cases of one child, a fork of some milliseconds: what leaks goes with it.
CASES = 1000
# More of a processor than any case takes; where there is no end, the child is stopped.
SECONDS_OF_A_CASE = 120.0
# In so long a case that does anything has used this much, whatever else the machine does.
SECONDS_OF_SILENCE, LEAST_USED = 120.0, 0.05
SECONDS_TO_SHRINK = 90.0
MOST_MEMORY = 8 << 30


@dataclass
class Report:
    """What came of the cases of a kind."""

    kind: str
    first: int
    cases: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)


def module_of(kind: str) -> Any:
    return importlib.import_module(f"tests.fuzz.{kind}")


def drawn(kind: str, seed: int) -> Any:
    """The case of a seed, as it is after a way through JSON."""
    return json.loads(json.dumps(module_of(kind).draw(random.Random(f"{kind} {seed}"))))


def prepare(kinds: Iterable[str]) -> None:
    """Imports and makes, once, what children would each have to: to be called before the first.

    With one thread, as threads do not outlive a fork; and children's collections of garbage pass
    over what is there now.
    """
    torch.set_num_threads(1)
    for kind in kinds:
        getattr(module_of(kind), "prepare", lambda: None)()
    gc.collect()
    gc.freeze()


def run(report: Report, seconds: float, found: Path | None, most: int) -> None:
    """Goes on with a kind's cases for so long, or until there are so many; findings to `found`."""
    begun = time.monotonic()
    while (left := begun + seconds - time.monotonic()) > 0 and report.cases < most:
        seeds = range(report.first + report.cases, report.first + min(most, report.cases + CASES))
        for seed, outcome in _in_child(report.kind, seeds, left):
            report.cases += 1
            report.outcomes[outcome.partition(":")[0]] += 1
            if outcome.startswith("failed"):
                _found(report, seed, outcome, found)
    report.seconds += time.monotonic() - begun


def failure(kind: str, case: Any) -> str | None:
    """How a case fails in a child process, or None."""
    ends = list(_in_child(kind, [case], SECONDS_OF_A_CASE))
    outcome = ends[0][1]
    return outcome if outcome.startswith("failed") else None


def _found(report: Report, seed: int, outcome: str, found: Path | None) -> None:
    known = [each for each in report.findings if _same(each["failure"], outcome)]
    if known:
        known[0]["times"] += 1
        return
    case = shrunk(
        drawn(report.kind, seed),
        lambda other: _same(failure(report.kind, other) or "", outcome),
        module_of(report.kind).SIMPLER,
        SECONDS_TO_SHRINK,
    )
    finding = {"kind": report.kind, "seed": seed, "failure": outcome, "times": 1, "case": case}
    report.findings.append(finding)
    print(json.dumps(finding, indent=1), flush=True)
    if found is not None:
        found.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()[:12]
        (found / f"{report.kind}-{name}.json").write_text(json.dumps(finding, indent=1) + "\n")


def _same(one: str, other: str) -> bool:
    """Whether two failures are of one type, from one place; what they say may differ."""
    return one.split("\n")[0] == other.split("\n")[0]


def _in_child(kind: str, cases: Any, seconds: float) -> Iterator[tuple[int, str]]:
    """(seed or number, outcome) of each case that a child has come to before the time is over."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(kind, cases, seconds, writing)
    os.close(writing)
    open_case = None
    for case, outcome in _lines(reading, child):
        open_case = case if outcome is None else None
        if outcome is not None:
            yield case, outcome
    _, status = os.waitpid(child, 0)
    if open_case is not None:
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else status
        how = f"no end in {SECONDS_OF_A_CASE:.0f} s" if died == signal.SIGKILL else f"signal {died}"
        yield open_case, f"failed: {how}"


def _lines(reading: int, child: int) -> Iterator[Any]:
    """What a child writes, a line at a time; one that waits for ever, or works, is killed."""
    rest = b""
    while True:
        begun = used = _processor_seconds(child)
        while not select.select([reading], [], [], SECONDS_OF_SILENCE)[0]:
            before, used = used, _processor_seconds(child)
            if used - before < LEAST_USED or used - begun > SECONDS_OF_A_CASE:
                os.kill(child, signal.SIGKILL)
                break
        new = os.read(reading, 1 << 16)
        if not new:
            os.close(reading)
            return
        *lines, rest = (rest + new).split(b"\n")
        yield from map(json.loads, lines)


def _processor_seconds(process: int) -> float:
    """What all threads of a process have used."""
    # Behind the name, which may hold anything, the twelfth and thirteenth.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _child(kind: str, cases: Any, seconds: float, writing: int) -> None:
    """Tells of each case when it begins and what came of it; never returns."""
    try:
        # Sizes that are too large fail here, not somewhere in the machine.
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        until = time.monotonic() + seconds
        module = module_of(kind)
        with os.fdopen(writing, "w", buffering=1) as out:
            for number, case in enumerate(cases):
                if time.monotonic() > until:
                    break
                name = case if isinstance(case, int) else number
                out.write(json.dumps([name, None]) + "\n")
                try:
                    outcome = module.check(drawn(kind, case) if isinstance(case, int) else case)
                except NoCase:
                    outcome = "no case"
                except BaseException as error:
                    outcome = f"failed: {_place(error)}\n{type(error).__name__}: {error!s:.2000}"
                out.write(json.dumps([name, outcome]) + "\n")
    finally:
        os._exit(0)


def _place(error: BaseException) -> str:
    """The type of an error and the function that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name} of {Path(frame.filename).name}"
