"""Kernels compiled ahead of time: the library is used where it fits, and NVRTC where it does not.

The library itself is built and linked here where there is an nvcc; what loads it meets a stand-in.
"""

import ctypes
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sparse_ops.ops._kernels import kernels

ahead, configs, cuda = (kernels(name) for name in ("_ahead", "configs", "periodic_conv2d"))
ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("cc")
CONFIG = configs.AHEAD[0]
STAND_IN = r"""
int code, launches, asked[7]; unsigned given[4]; void* stream;
const char* sparse_ops_cuda_digest(void) { return DIGEST; }
const char* sparse_ops_cuda_words(int number) { return "words of CUDA"; }
int sparse_ops_cuda_has(const int* numbers) { return numbers[0] == FIRST; }
int sparse_ops_cuda_launch(const int* numbers, int device, unsigned blocks, unsigned threads,
                           unsigned shared, const void* problem, void* on) {
  for (int i = 0; i < 7; i++) asked[i] = numbers[i];
  given[0] = device, given[1] = blocks, given[2] = threads, given[3] = shared, stream = on;
  launches++;
  return code;
}
"""


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


build = module(ROOT / "csrc" / "cuda" / "build.py")


def stand_in(folder, digest):
    path, source = folder / "_C_cuda.so", folder / "library.c"
    source.write_text(STAND_IN)
    defines = [f'-DDIGEST="{digest}"', f"-DFIRST={CONFIG.eights}"]
    command = [COMPILER, "-shared", "-fPIC", *defines, "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(autouse=True)
def _no_library():
    ahead.library.cache_clear()
    yield
    ahead.library.cache_clear()


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_what_was_built_is_launched_and_what_was_not_is_left_to_nvrtc(tmp_path):
    path = stand_in(tmp_path, ahead.digest())
    own, its = ahead.Ahead(path), ctypes.CDLL(str(path))
    code, launches = (ctypes.c_int.in_dll(its, name) for name in ("code", "launches"))
    problem = cuda.Problem()
    assert own.launch(1, CONFIG, True, 70_000, 90_000, 2**44, problem)
    assert list((ctypes.c_int * 7).in_dll(its, "asked")) == [*CONFIG, 1]
    given = list((ctypes.c_uint * 4).in_dll(its, "given"))
    assert given == [1, 70_000, CONFIG.threads, 90_000]
    assert ctypes.c_void_p.in_dll(its, "stream").value == 2**44
    other = CONFIG._replace(eights=CONFIG.eights + 1)
    assert not own.launch(1, other, True, 1, 0, 0, problem) and launches.value == 1
    # A failing launch is said, and the next one runs.
    code.value = 700
    with pytest.raises(RuntimeError, match=r"launching 3 blocks: CUDA says words of CUDA \(700\)"):
        own.launch(0, CONFIG, False, 3, 0, 0, problem)
    code.value = 0
    assert own.launch(0, CONFIG, False, 3, 0, 0, problem)
    # Not for this card: asked once, then NVRTC has it.
    code.value = ahead.NOT_FOR_THIS_CARD[0]
    before = launches.value
    assert not own.launch(2, CONFIG, False, 3, 0, 0, problem)
    assert not own.launch(2, CONFIG, False, 3, 0, 0, problem) and launches.value == before + 1


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_a_library_of_other_sources_or_none_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "LIBRARY", tmp_path / "_C_cuda.so")
    assert ahead.library() is None
    stand_in(tmp_path, "of another version")
    ahead.library.cache_clear()
    with pytest.warns(UserWarning, match=r"as they are called: .* is of other sources"):
        assert ahead.library() is None
    (tmp_path / "_C_cuda.so").unlink()
    (tmp_path / "_C_cuda.so").write_bytes(b"no library")
    ahead.library.cache_clear()
    with pytest.warns(UserWarning, match="kernels are compiled as they are called"):
        assert ahead.library() is None


def test_a_launch_on_a_card_takes_the_library_first(monkeypatch):
    said = []

    class Library:
        takes = True

        def launch(self, device, config, *_):
            said.append(config)
            return self.takes

    class Driver:
        def launch(self, *_):
            said.append("driver")

    class Stream:
        cuda_stream = 0

    monkeypatch.setattr(ahead, "library", Library)
    monkeypatch.setattr(cuda._driver, "driver", Driver)
    monkeypatch.setattr(cuda, "_function", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream)
    cuda.on_card(torch.ones(1), CONFIG, 1, 0, cuda.Problem(), cuda.NO_TEXT)
    assert said == [CONFIG]
    Library.takes = False
    cuda.on_card(torch.ones(1), CONFIG, 1, 0, cuda.Problem(), cuda.NO_TEXT)
    assert said == [CONFIG, CONFIG, "driver"]


def test_cards_are_those_of_the_variable(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0a 9.0+PTX")
    assert build.architectures((13, 0)) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(RuntimeError, match=r"must be as .*, got 'Hopper' in it"):
        build.architectures((13, 0))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    assert any("sm_70" in option for option in build.architectures((12, 9)))
    assert not any("sm_70" in option for option in build.architectures((13, 0)))


def needed():
    found = build.find_nvcc()
    if found is None:
        pytest.skip("there is no nvcc: pip install nvidia-cuda-nvcc nvidia-cuda-runtime")
    return found


@pytest.mark.slow
def test_the_library_builds_links_and_loads_without_a_driver(tmp_path, monkeypatch):
    """Of everything that a program may want of it nothing is left open, and no kernel spills."""
    nvcc = needed()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;9.0")
    path, some = tmp_path / "kernels" / "_C_cuda.so", configs.AHEAD[:2]
    build.build(nvcc, path, some, ahead.digest())
    own = ahead.Ahead(path)
    assert all(own.has(config, bf16) for config in some for bf16 in (False, True))
    assert not own.has(configs.AHEAD[2], False)
    if not torch.cuda.is_available():
        # No driver: NVRTC's way, which says so.
        assert not own.launch(0, some[0], False, 1, 0, 0, cuda.Problem())
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("there is no cuobjdump to look into the library with")
    command = [str(tool), "--dump-resource-usage", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for architecture in ("sm_75", "sm_90"):
        parts = [p for p in said.split("arch = ")[1:] if p.startswith(architecture)]
        stacks = re.findall(r"periodic_conv2d_ahead\S*\s+REG:\d+ STACK:(\d+)", "".join(parts))
        assert len(stacks) == 2 * len(some) and all(int(each) <= 8 for each in stacks), said


def test_what_nvcc_says_is_said(tmp_path):
    nvcc = tmp_path / "nvcc"
    version = "[ $1 = --version ] && echo release 13.0 && exit"
    nvcc.write_text(f"#!/bin/sh\n{version}\necho its words; exit 2\n")
    nvcc.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"failed with 2: its words"):
        build.build(str(nvcc), tmp_path / "library.so", configs.AHEAD[:1], "digest")
    assert not (tmp_path / "library.so").exists()
