"""Builds the compiled part of sparse_ops; everything declarative is in pyproject.toml.

SPARSE_OPS_NATIVE = auto | 0 | 1   compile csrc/cpu    (auto: yes, if a C++ compiler is found)
SPARSE_OPS_CUDA   = 0 | 1          compile csrc/cuda   (0: CUDA kernels are compiled when called)

`1` means "fail rather than leave it out"; `auto` leaves out what cannot be built and says why.
TORCH_CUDA_ARCH_LIST says for which cards: by default from Turing, or Volta, to Hopper. Minutes.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def wanted(variable: str, missing: str | None) -> bool:
    """Whether to build a part, given what is `missing` for it (None: nothing)."""
    choice = os.environ.get(variable, "auto")
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"{variable} must be auto, 0 or 1, got {choice!r}")
    if choice == "1" and missing:
        raise SystemExit(f"{variable}=1, but {missing}")
    if choice == "auto" and missing:
        print(f"sparse_ops: {variable}=auto leaves this part out: {missing}", file=sys.stderr)
    return choice != "0" and missing is None


def missing_for_cpu() -> str | None:
    """What stops the CPU kernels from being compiled; tried on a real, small program."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        return f"there is no C++ compiler ({compiler}) on PATH"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <Python.h>\n#include <vector>\nint main() {}\n")
        include = ["-I" + path for path in python_includes()]
        command = [*compiler.split(), "-std=c++17", *include, "-fsyntax-only", str(source)]
        tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode != 0:
        return f"{compiler} cannot compile a small program: {tried.stderr.strip()[:300]}"
    return None


def python_includes() -> list[str]:
    import sysconfig

    paths = sysconfig.get_paths()
    return sorted({paths["include"], paths["platinclude"]})


def module_at(path: Path) -> Any:
    """A module of this checkout that is not to be imported from elsewhere."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Build(build_py):
    """Adds the library of CUDA kernels, where that is asked for, to the kernels' own folder."""

    def run(self) -> None:
        super().run()
        choice = os.environ.get("SPARSE_OPS_CUDA", "0")
        if choice not in ("0", "1"):
            raise SystemExit(f"SPARSE_OPS_CUDA must be 0 or 1, got {choice!r}")
        if choice == "0":
            return
        made_by = module_at(ROOT / "csrc" / "cuda" / "build.py")
        if (nvcc := made_by.find_nvcc()) is None:
            raise SystemExit("SPARSE_OPS_CUDA=1, but there is no nvcc: set CUDA_HOME")
        sys.path.insert(0, str(ROOT))
        from kernels import _ahead, configs

        editable = getattr(self, "editable_mode", False)
        folder = ROOT if editable else Path(self.build_lib, "sparse_ops")
        target = folder / "kernels" / _ahead.LIBRARY.name
        try:
            made_by.build(nvcc, target, configs.AHEAD, _ahead.digest())
        except RuntimeError as error:
            raise SystemExit(f"SPARSE_OPS_CUDA=1, but {error}") from error


def extensions() -> dict[str, Any]:
    if not wanted("SPARSE_OPS_NATIVE", missing_for_cpu()):
        if os.environ.get("SPARSE_OPS_CUDA") == "1":
            raise SystemExit("SPARSE_OPS_CUDA=1 wants the CPU kernels, too: SPARSE_OPS_NATIVE=1")
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    folders = ("csrc", "csrc/cpu", "csrc/program")
    sources = [source for folder in folders for source in sorted(ROOT.glob(f"{folder}/*.cpp"))]
    extra = os.environ.get("SPARSE_OPS_CXXFLAGS", "").split()
    return {
        "ext_modules": [
            CppExtension(
                "sparse_ops._C",
                [str(source.relative_to(ROOT)) for source in sources],
                # One binary for every Python from 3.10 and every torch from 2.10 on.
                py_limited_api=True,
                define_macros=[
                    ("Py_LIMITED_API", "0x030A0000"),
                    ("TORCH_TARGET_VERSION", "0x020a000000000000"),
                ],
                extra_compile_args=[
                    "-O3",
                    "-g0",
                    "-std=c++17",
                    "-ffp-contract=fast",
                    "-fvisibility=hidden",
                    "-Wall",
                    "-Wextra",
                    "-Wno-unused-parameter",
                    "-Wno-maybe-uninitialized",
                    # What only GCC has a name for.
                    "-Wno-unknown-warning-option",
                    *extra,
                ],
                extra_link_args=extra,
            )
        ],
        "cmdclass": {
            "build_py": Build,
            "build_ext": BuildExtension.with_options(no_python_abi_suffix=True),
        },
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    packages=[
        *find_packages(include=["sparse_ops", "sparse_ops.*"]),
        # kernels/ is installed as sparse_ops.kernels: a plain `kernels` would collide with others.
        "sparse_ops.kernels",
        # Files without code to import: to setuptools a folder in a package is one, too.
        "sparse_ops.kernels.cuda",
        "sparse_ops.data.fashion_mnist_subset",
    ],
    package_dir={"sparse_ops.kernels": "kernels"},
    **extensions(),
)
