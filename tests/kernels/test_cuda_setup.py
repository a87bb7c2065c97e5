"""setup.py with SPARSE_OPS_CUDA=1: what it asks of nvcc, where the library goes, and its refusals.

The nvcc here stands in for one; test_cuda_ahead.py builds with a real one where there is one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_ops.ops._kernels import kernels

pytest.importorskip("setuptools", "77")
ahead, configs = kernels("_ahead"), kernels("configs")
ROOT = Path(__file__).parents[2]
CXX, CC = shutil.which(os.environ.get("CXX", "c++")), shutil.which("cc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(None in (CXX, CC), reason="there is no compiler"),
]
# It writes down what it was asked for; what it links is a library that knows its digest.
NVCC = f"""#!/bin/sh
[ "$1" = --version ] && echo "release 13.0, V13.0.1" && exit
echo "$@" >> "$0.log"
for word; do
  case "$word" in
    -DSPARSE_OPS_DIGEST=*) echo "$word" > "$0.digest";;
    -c) compiles=yes;;
  esac
  last="$word"
done
FAIL
[ $compiles ] && {shutil.which("touch")} "$last" && exit
echo 'const char* sparse_ops_cuda_digest(void) {{ return SPARSE_OPS_DIGEST; }}
const char* sparse_ops_cuda_words(int number) {{ return "words"; }}
int sparse_ops_cuda_has(const int* numbers) {{ return 1; }}' > "$0.c"
read digest < "$0.digest"
PATH="{os.environ["PATH"]}" exec {CC} -shared -fPIC "$digest" -o "$last" "$0.c"
"""


def built(folder, fail="", **environment):
    """`setup.py build_py` into a folder, with an nvcc that may `fail`; None: with no nvcc."""
    home = folder / "cuda" / "bin"
    home.mkdir(parents=True)
    if fail is not None:
        (home / "nvcc").write_text(NVCC.replace("FAIL", fail))
        (home / "nvcc").chmod(0o755)
    own = {k: v for k, v in os.environ.items() if k not in ("CUDA_PATH", "TORCH_CUDA_ARCH_LIST")}
    # Of PATH nothing is left, in which there may be a real one.
    own |= {"SPARSE_OPS_CUDA": "1", "SPARSE_OPS_NATIVE": "1", "CXX": CXX, "PATH": str(folder)}
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    return subprocess.run(
        [*command, "build_py", "--build-lib", str(folder / "built")],
        cwd=ROOT,
        env=own | {"CUDA_HOME": str(home.parent)} | environment,
        capture_output=True,
        text=True,
    )


def library(folder):
    return folder / "built" / "sparse_ops" / "kernels" / ahead.LIBRARY.name


def test_the_library_is_made_of_all_configurations_and_put_where_it_is_looked_for(tmp_path):
    done = built(tmp_path, TORCH_CUDA_ARCH_LIST="8.0 9.0+PTX")
    assert done.returncode == 0, done.stderr
    # Loaded, it says that it is of the texts that are here.
    assert ahead.Ahead(library(tmp_path)).has(configs.AHEAD[0], True)
    assert (library(tmp_path).parent / "_ahead.py").exists()
    said = (tmp_path / "cuda" / "bin" / "nvcc.log").read_text().splitlines()
    kernels_made = [line for line in said if "kernel.cu" in line]
    for config in configs.AHEAD:
        numbers = " ".join(f"-DAHEAD_{place}={value}" for place, value in enumerate(config))
        assert sum(numbers + " " in line for line in kernels_made) == 1, numbers
    assert len(said) == len(configs.AHEAD) + 2, "and the library's own file, and the link"
    assert all("arch=compute_90,code=compute_90" in line for line in said[:-1])
    # A plain C library with CUDA's runtime in it, which wants nothing of torch.
    assert "-cudart=static" in said[-1] and "--no-undefined" in said[-1]
    assert "torch" not in "".join(said).replace(str(ROOT), "").replace(str(tmp_path), "")


def test_a_failing_nvcc_is_said_in_its_words_and_leaves_no_library(tmp_path):
    done = built(tmp_path, "echo what stands against it >&2; exit 3")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "SPARSE_OPS_CUDA=1, but " in done.stderr
    assert "failed with 3: what stands against it" in done.stderr
    assert not library(tmp_path).exists()


def test_without_an_nvcc_it_is_refused(tmp_path):
    if any(folder for place in sys.path for folder in Path(place).glob("nvidia/cu*/bin/nvcc")):
        pytest.skip("there is an nvcc among the packages, which is always found")
    done = built(tmp_path, None)
    assert done.returncode != 0 and not library(tmp_path).exists()
    words = "SPARSE_OPS_CUDA=1, but there is no nvcc: set CUDA_HOME"
    assert done.stderr.strip().splitlines()[-1] == words


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"SPARSE_OPS_CUDA": "yes"}, "SPARSE_OPS_CUDA must be 0 or 1, got 'yes'"),
        ({"SPARSE_OPS_NATIVE": "0"}, "SPARSE_OPS_CUDA=1 wants the CPU kernels, too"),
        ({"TORCH_CUDA_ARCH_LIST": "Hopper"}, "but TORCH_CUDA_ARCH_LIST must be as "),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, given, words):
    done = built(tmp_path, **given)
    assert done.returncode != 0 and words in done.stderr and not library(tmp_path).exists()
    assert "Traceback" not in done.stderr
