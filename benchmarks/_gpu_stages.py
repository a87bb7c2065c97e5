"""The stages of gpu_run.py: what is run, in which order, and how long each may take."""

import importlib.util
import shutil
import subprocess
from typing import NamedTuple

# Under the nine minutes, and the two parts of them, by what stopping the last stage may take.
BUDGET_S, FIRST_S, SECOND_S = 525.0, 270.0, 380.0


class Stage(NamedTuple):
    """One step.

    Attributes:
        most_s: its deadline; all of them together are more than the budget, but few take theirs.
        least_s: with less time left than this it is not worth starting.
        command: what is run; `python` is this one.
        kernels: whether it runs our kernels.
        first: whether it is of `--first`, what a card is asked before all else.
    """

    name: str
    most_s: float
    least_s: float
    command: tuple[str, ...]
    kernels: bool = False
    first: bool = False


MEASURE = ("python", "benchmarks/_gpu_measure.py")
# Sections by name: the metrics in them have other names on other cards.
SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis")
SECTIONS += ("MemoryWorkloadAnalysis_Tables", "WarpStateStats", "LaunchStats")
NCU = ("ncu", "--clock-control", "none", "--csv", "--page", "raw", "--log-file", "ncu.csv")
NCU += tuple(word for section in SECTIONS for word in ("--section", section))
# What is in the range is ours, with what it needs, and cuDNN's.
NCU += ("--nvtx", "--nvtx-include", "measured/", "--launch-count", "24")
# In the names of our kernels, and in few others.
OURS = ("conv2d", "_csr_linear_", "_pack_kernel", "_fill_kernel")
CHECK = ("compute-sanitizer", "--error-exitcode", "9", "--tool")
STAGES = (
    Stage("env", 30, 5, (*MEASURE, "env"), first=True),
    Stage("ceilings", 25, 10, (*MEASURE, "ceilings"), first=True),
    # The dense library, a check, and ours on six layers in bfloat16, in one process.
    Stage("layers", 170, 40, (*MEASURE, "layers"), True, True),
    Stage("ncu", 60, 20, (*NCU, *MEASURE, "profile"), True, True),
    # The same with all precisions, layers and kinds of sparsity.
    Stage("rest", 130, 40, (*MEASURE, "rest"), True),
    Stage("network", 80, 40, (*MEASURE, "network"), True),
    Stage("tests", 80, 30, ("python", "benchmarks/_gpu_tests.py"), True),
    Stage("linear", 25, 15, (*MEASURE, "linear"), True),
    Stage("small", 30, 15, (*MEASURE, "small"), True),
    Stage("compiled", 60, 30, (*MEASURE, "compiled")),
    Stage("tune", 60, 30, (*MEASURE, "tune"), True),
    Stage("memcheck", 45, 20, (*CHECK, "memcheck", *MEASURE, "smoke"), True),
    Stage("racecheck", 45, 20, (*CHECK, "racecheck", *MEASURE, "smoke"), True),
)


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


def only_ours(said: str) -> tuple[str, ...]:
    """The options by which a compute-sanitizer, which `said` this as its help, checks our kernels.

    The others are torch's, and take most of the time.
    """
    # The newest name first. Of several filters, a kernel has to match one.
    for option in ("--kernel-name", "--kernel-regex", "--filter"):
        if option in said:
            return tuple(word for name in OURS for word in (option, f"kns={name}"))
    return ()


def command_of(stage: Stage, python: str, work: str) -> list[str]:
    """The command with this python, files of the work folder, and options that this tool knows."""
    words = [python if word == "python" else word for word in stage.command]
    words = [f"{work}/{word}" if word == "ncu.csv" else word for word in words]
    if words[0] == "compute-sanitizer":
        try:
            asked = subprocess.run([words[0], "--help"], capture_output=True, text=True, timeout=20)
            words[1:1] = only_ours(asked.stdout)
        except (OSError, subprocess.TimeoutExpired):
            pass
    return words
