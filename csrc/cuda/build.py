"""Builds kernels/_C_cuda.so with nvcc; setup.py calls this where SPARSE_OPS_CUDA=1."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find_nvcc() -> str | None:
    """nvcc: of CUDA_HOME or CUDA_PATH, on PATH, or of NVIDIA's packages; None if there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    folders = [Path(home, "bin") for home in homes]
    packages = [folder for place in sys.path for folder in Path(place).glob("nvidia/cu*/bin")]
    for folder in (*folders, None, *packages):
        found = shutil.which("nvcc", path=folder and str(folder))
        if found is not None:
            return found
    return None


def version_of(nvcc: str) -> tuple[int, int]:
    """(major, minor)."""
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+)\.(\d+)", said)
    if found is None:
        raise RuntimeError(f"{nvcc} does not say which version it is: {said[-300:]}")
    return int(found[1]), int(found[2])


def architectures(version: tuple[int, int]) -> list[str]:
    """Options for those of TORCH_CUDA_ARCH_LIST; by default from Turing, or Volta, to Hopper."""
    default = "7.5 8.0 8.6 9.0+PTX" if version >= (13, 0) else "7.0 7.5 8.0 8.6 9.0+PTX"
    options = []
    for each in re.split(r"[;\s,]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip() or default):
        number = re.fullmatch(r"(\d+)\.(\d+)(a?)(\+PTX)?", each)
        if number is None:
            raise RuntimeError(f"TORCH_CUDA_ARCH_LIST must be as {default!r}, got {each!r} in it")
        own = "".join(number.groups()[:3])
        codes = [f"sm_{own}"] + [f"compute_{own}"] * bool(number[4])
        options += [f"-gencode=arch=compute_{own},code={code}" for code in codes]
    return options


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {said}")


def build(nvcc: str, target: Path, configs: Sequence[Sequence[int]], digest: str) -> None:
    """Compiles the kernel in these configurations, and links them to a library.

    Raises:
        RuntimeError: nvcc fails; the message has its words.
    """
    home = Path(nvcc).resolve().parents[1]
    options = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    options += [f"-I{ROOT}/kernels/cuda", f'-DSPARSE_OPS_DIGEST="{digest}"']
    options += architectures(version_of(nvcc))
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(f"{ROOT}/csrc/cuda/library.cu", f"{folder}/library.o", [])]
        for number, config in enumerate(configs):
            # One by one: at commas nvcc takes options apart.
            given = [f"-DAHEAD_{place}={value}" for place, value in enumerate(config)]
            jobs.append((f"{ROOT}/csrc/cuda/kernel.cu", f"{folder}/{number}.o", given))

        def compiled(job: tuple[str, str, list[str]]) -> None:
            source, made, given = job
            _run(nvcc, *options, *given, "-c", source, "-o", made)

        with ThreadPoolExecutor(os.cpu_count()) as workers:
            list(workers.map(compiled, jobs))
        # Nothing may be left open: neither a driver nor torch is there when it is loaded.
        link = ["-shared", "-cudart=static", f"-L{home}/lib64", f"-L{home}/lib"]
        made = f"{folder}/{target.name}"
        _run(nvcc, *link, "-Xlinker=--no-undefined", *[job[1] for job in jobs], "-o", made)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, target.with_name(target.name + ".partial"))
        os.replace(target.with_name(target.name + ".partial"), target)
