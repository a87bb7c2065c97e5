"""Other Pythons, releases of torch and compilers: `nox`, `nox -s torch-2.10`, `nox --list`.

Each session builds the package in an environment of its own, runs the tests of what is compiled and
of files, and writes a row into the table of docs/reliability.md (`python -m tests.support`). Where
a Python or a compiler is not installed, its session is skipped. TORCH=torch==2.13.0 names another
release; without another index for pip, Linux gets torch with CUDA, some gigabytes of it.
"""

import os
import shutil
from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TORCH = os.environ.get("TORCH", "torch==2.13.0")
OLDEST = "torch==2.10.0"
TESTS = ("tests/ops", "tests/program", "tests/nn", "tests/test_formats.py", "tests/test_masks.py")


def tested(session, name, torch=TORCH, compiler="c++", flags=""):
    if shutil.which(compiler) is None:
        session.skip(f"there is no {compiler}")
    # It has no wheels of its own yet for what torch brings along: the build is without isolation.
    session.install(
        torch, "setuptools>=77", "wheel", "ninja", "pytest>=8", "pytest-xdist", "hypothesis"
    )
    built = {"SPARSE_OPS_NATIVE": "1", "CXX": compiler, "SPARSE_OPS_CXXFLAGS": flags}
    # Without isolation: against the torch that is there.
    session.install("--no-build-isolation", ".", env=built)
    # Where the tests are, and no package beside them that another compiler may have built.
    root, place = Path.cwd(), Path(session.create_tmp()).resolve()
    shutil.rmtree(place / "tests", ignore_errors=True)
    shutil.copytree(root / "tests", place / "tests")
    shutil.copy(root / "pyproject.toml", place)
    session.chdir(place)
    session.run(
        "python", "-m", "pytest", "-q", "-n", "auto", "-m", "not slow and not portable",
        "--junit-xml=results.xml", *TESTS, *session.posargs, env={"SPARSE_OPS_CACHE": "off"},
    )  # fmt: skip
    session.run("python", "-m", "tests.support", str(root), name, "results.xml", compiler, flags)


@nox.session(python=PYTHONS)
def python(session):
    """Every Python that is installed."""
    tested(session, f"python-{session.python}")


@nox.session(python="3.11", name="torch-2.10")
def oldest_torch(session):
    """The oldest torch that is supported."""
    tested(session, "torch-2.10", torch=OLDEST)


@nox.session(python="3.11", name="torch-newest")
def newest_torch(session):
    tested(session, "torch-newest", torch="torch")


@nox.session(python="3.11")
@nox.parametrize("compiler", ["g++-12", "clang++-14"])
def compiler(session, compiler):
    tested(session, compiler, compiler=compiler)


@nox.session(python="3.11")
def baseline(session):
    """Nothing but what every x86-64 has outside of the kernels that are chosen at run time."""
    tested(session, "baseline", flags="-march=x86-64 -mtune=generic")
