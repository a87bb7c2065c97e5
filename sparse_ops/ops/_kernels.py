"""Where the Triton kernels are, and whether this Triton is one that they run with."""

import importlib.util
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

# The oldest Triton with which all kernels were interpreted and compiled.
OLDEST = (3, 6)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def kernels(name: str) -> ModuleType:
    """The module sparse_ops.kernels.<name>, also where a checkout is run without being installed.

    setup.py installs the folder kernels/ as sparse_ops.kernels; beside a checkout's sparse_ops/ it
    is not in that package's folder, so that an import has to be told where it is.
    """
    package = "sparse_ops.kernels"
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        folder = Path(__file__).resolve().parents[2] / "kernels"
        spec = importlib.util.spec_from_file_location(
            package, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not (folder / "__init__.py").exists():
            raise ModuleNotFoundError(f"no module {package}, and no folder {folder}", name=package)
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)
    return import_module(f"{package}.{name}")


def too_old(version: str) -> str | None:
    """Why a Triton of that version is not used, or None."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if numbers >= OLDEST:
        return None
    return f"Triton {version} is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed"
