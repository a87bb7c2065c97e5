"""Finding NVRTC; and keeping what it compiled: damaged files, closed folders, two processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparse_ops.ops._kernels import kernels

nvrtc = kernels("_nvrtc")
ROOT = Path(__file__).parents[2]


class Compiler:
    """One that compiles anything, and counts."""

    version, said = (12, 9), ""

    def __init__(self):
        self.calls = []

    def compile(self, name, sources, options):
        self.calls.append(options)
        return b"cubin of " + name.encode()


def cubin(compiler, folder, architecture="sm_90", **defines):
    return nvrtc.cubin(compiler, "periodic_conv2d.cuh", architecture, defines, folder)


def test_what_was_compiled_is_not_compiled_again(tmp_path):
    compiler = Compiler()
    folder = tmp_path / "not" / "there" / "yet"
    for _ in range(2):
        assert cubin(compiler, folder, BF16=1) == b"cubin of periodic_conv2d.cuh"
    assert len(compiler.calls) == 1
    assert "--gpu-architecture=sm_90" in compiler.calls[0]
    assert "-DSPARSE_OPS_BF16=1" in compiler.calls[0]


def test_another_architecture_option_version_or_text_is_compiled_anew(tmp_path, monkeypatch):
    compiler = Compiler()
    cubin(compiler, tmp_path, BF16=1)
    cubin(compiler, tmp_path, BF16=0)
    cubin(compiler, tmp_path, "sm_80", BF16=1)
    compiler.version = (13, 0)
    cubin(compiler, tmp_path, BF16=1)
    texts = nvrtc.sources()
    monkeypatch.setattr(nvrtc, "sources", lambda: texts | {"ptx.cuh": "// another\n"})
    cubin(compiler, tmp_path, BF16=1)
    assert len(compiler.calls) == 5 == len(list(tmp_path.iterdir()))


def test_what_is_included_beside_our_own_texts_is_part_of_the_key(tmp_path):
    compiler = Compiler()
    for more in ({"head.cuh": "1"}, {"head.cuh": "2"}, {"head.cuh": "1"}):
        nvrtc.cubin(compiler, "periodic_conv2d.cuh", "sm_90", {}, tmp_path, more)
    assert len(compiler.calls) == 2 == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    "said",
    [
        "ptxas info : wgmma.mma_async instructions are serialized due to registers",
        "ptxas . 24 bytes stack frame, 20 bytes spill stores, 20 bytes spill loads",
    ],
)
def test_what_has_too_few_registers_is_an_error_and_not_compiled_again(tmp_path, said):
    compiler = Compiler()
    compiler.said = said
    for _ in range(2):
        with pytest.raises(nvrtc.RegistersError, match=r"too few registers .*-DSPARSE_OPS_BF16=1"):
            cubin(compiler, tmp_path, "sm_90a", BF16=1)
    assert len(compiler.calls) == 1
    # Nothing that could be launched is kept.
    (file,) = tmp_path.iterdir()
    assert nvrtc.read(file) == b""
    # Products of other cards are waited for by themselves.
    assert cubin(compiler, tmp_path, "sm_90", BF16=1)
    compiler.said = "ptxas . 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
    assert cubin(compiler, tmp_path, "sm_90a", BF16=0)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:-1] + b"x"])
def test_a_damaged_file_is_compiled_anew(tmp_path, damage):
    compiler = Compiler()
    cubin(compiler, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert cubin(compiler, tmp_path) == b"cubin of periodic_conv2d.cuh"
    cubin(compiler, tmp_path)
    assert len(compiler.calls) == 2


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    taken = tmp_path / "file"
    taken.write_text("no folder")
    with pytest.warns(UserWarning, match="compiled kernels are not kept.*file"):
        assert cubin(Compiler(), taken / "cubin") == b"cubin of periodic_conv2d.cuh"


def test_without_a_folder_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSE_OPS_CACHE", "off")
    assert nvrtc.cache_folder() is None
    monkeypatch.setenv("SPARSE_OPS_CACHE", str(tmp_path))
    assert nvrtc.cache_folder() == tmp_path / "cubin"
    monkeypatch.delenv("SPARSE_OPS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform.startswith("linux"):
        assert nvrtc.cache_folder() == tmp_path / "sparse_ops" / "cubin"


TWO = """
import sys, time
from pathlib import Path
sys.path.insert(0, "kernels")
import _nvrtc as nvrtc
class Slow:
    version, said = (12, 9), ""
    def compile(self, name, sources, options):
        time.sleep(0.002)
        return options[-1].encode() * 20000
time.sleep(max(0, float(sys.argv[2]) - time.time()))
for turn in range(200):
    made = nvrtc.cubin(Slow(), "periodic_conv2d.cuh", "sm_90", {"N": turn}, Path(sys.argv[1]))
    assert made == f"-DSPARSE_OPS_N={turn}".encode() * 20000
"""


def test_two_processes_at_once_see_whole_files_only(tmp_path):
    start = str(time.time() + 2)
    command = [sys.executable, "-c", TWO, str(tmp_path), start]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 200 and not any(name.startswith(".") for name in names)
    assert all(nvrtc.read(path) is not None for path in tmp_path.iterdir())


def test_a_missing_nvrtc_is_said_with_all_that_was_tried(monkeypatch, tmp_path):
    nvrtc.nvrtc.cache_clear()
    monkeypatch.setattr(nvrtc, "candidates", lambda cuda: ["libone.so", str(tmp_path / "two.so")])
    with pytest.raises(
        nvrtc.CompilerError, match=r"NVRTC is not here: libone\.so is no NVRTC .*two"
    ):
        nvrtc.nvrtc("12.6")
    nvrtc.nvrtc.cache_clear()


def test_torchs_own_version_comes_first_and_the_users_before_all(monkeypatch, tmp_path):
    for place in ("cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    (tmp_path / "cuda_nvrtc/lib/libnvrtc-builtins.so.12.9").touch()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: Spec)
    for version in ("12.6", "13.0"):
        major = version[:2]
        assert nvrtc.candidates(version)[0].endswith(f"libnvrtc.so.{major}")
    assert not any("builtins" in path for path in nvrtc.candidates(None))
    monkeypatch.setenv("SPARSE_OPS_NVRTC", "/some/libnvrtc.so")
    assert nvrtc.candidates("13.0") == ["/some/libnvrtc.so"]
