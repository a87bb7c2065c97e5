"""Compiles, on all cores, what the timing stages of gpu_run.py will launch: each kernel once.

A kernel takes a second or more to compile, and a visit to a card is short. So every call is walked
through first with launches only noted; of those that differ in nothing that a compiler looks at,
one is kept; and processes that see no GPU compile them, each its share, into the caches on disk.
What is missing in the end is compiled when it is called.
"""

import inspect
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._gpu_packs import Pack
from benchmarks._gpu_setting import DEADLINE, DRY, in_time
from benchmarks.layers import Conv
from sparse_ops.ops._kernels import kernels

# Of a card that is not there: an H200.
CAPABILITY = (9, 0)


def plain(value: Any) -> Any:
    """An argument without its memory: a tensor is its type and whether it is aligned."""
    if isinstance(value, Tensor):
        return ("tensor", value.dtype, value.data_ptr() % 16 == 0)
    if isinstance(value, tuple):
        return tuple(plain(part) for part in value)
    if type(value).__module__.startswith("triton"):
        return ("triton", str(value))
    return value


def specialised(value: Any, constant: bool) -> Any:
    """What a compiler looks at of a plain argument: whether a number is 1, or a multiple of 16."""
    if constant or isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return (value == 1, value % 16 == 0, abs(value) >= 2**31)
    if isinstance(value, tuple) and value[:1] not in (("tensor",), ("triton",)):
        return tuple(specialised(part, False) for part in value)
    return value


def constants(kernel: Any) -> tuple[list[str], set[str]]:
    """(a Triton kernel's parameters, those that are compiled in)."""
    parameters = inspect.signature(kernel.fn).parameters
    found = {name for name, p in parameters.items() if "constexpr" in str(p.annotation)}
    return list(parameters), found


class Undecided(RuntimeError):
    """A call that goes on only once a kernel is compiled."""


@contextmanager
def noting() -> Iterator[dict[Any, tuple]]:
    """Within, launches are not made; gathers one of each: (what differs) -> (how to repeat it)."""
    found: dict[Any, tuple] = {}
    one = kernels("set_conv2d")._set_conv2d_fwd_kernel
    kind, cuda = type(one), kernels("periodic_conv2d")
    before, launch, able = kind.run, cuda.on_card, cuda.can_run

    def note(
        self: Any, *arguments: Any, grid: Any = None, warmup: bool = False, **named: Any
    ) -> None:
        names, fixed = constants(self)
        given = {
            k: plain(v) for k, v in {**dict(zip(names, arguments, strict=False)), **named}.items()
        }
        free = set(getattr(self, "do_not_specialize", ())) | {"num_warps", "num_stages"}
        looked_at = tuple(
            (k, specialised(v, k in fixed or k in ("num_warps", "num_stages")))
            for k, v in sorted(given.items())
            if k not in free - {"num_warps", "num_stages"}
        )
        where = (self.fn.__module__, self.fn.__name__)
        found.setdefault((where, looked_at), ("triton", where, given))

    def note_cuda(x: Tensor, config: Any, text: Any) -> None:
        bf16 = x.dtype == torch.bfloat16
        own = (type(config).__name__, tuple(config)), bf16, tuple(text)
        found.setdefault(("cuda", *own), ("cuda", *own))

    def on_card(x: Tensor, config: Any, blocks: int, shared: int, problem: Any, text: Any) -> None:
        note_cuda(x, config, text)

    def can_run(x: Tensor, config: Any, tables: Any) -> bool:
        # Whether it can is known once it is compiled; nothing is to be decided by this call.
        note_cuda(x, config, cuda.Text.of(tables))
        raise Undecided("noted")

    kind.run, cuda.on_card, cuda.can_run = note, on_card, can_run
    try:
        yield found
    finally:
        kind.run, cuda.on_card, cuda.can_run = before, launch, able


class Builder:
    """The kernels of some calls, compiled in the background.

    Attributes:
        found: what `noting` gathered.
        calls: how many calls were walked through.
    """

    def __init__(self) -> None:
        self.found: dict[Any, tuple] = {}
        self.calls, self.begun = 0, time.monotonic()
        self._processes: list[subprocess.Popen] = []
        self._folder = tempfile.TemporaryDirectory()

    # With gradients on, nothing is kept of what a launch that is only noted did not write.
    @torch.enable_grad()
    def note(self, conv: Conv, x: Tensor, packed: list[Pack]) -> None:
        """Walks through the calls of a layer."""
        for pack in packed:
            given = x if pack.last else x.contiguous()
            for backend in pack.backends:
                if not in_time():
                    return
                call = partial(pack.run, given, pack.weight, None, conv.stride, 1, backend=backend)
                with noting() as found:
                    try:
                        call()
                    except Undecided:
                        pass
                    except RuntimeError:
                        # What refuses is not compiled; anything else shows where it is timed.
                        continue
                self.calls += 1
                self.found = found | self.found

    def start(self) -> None:
        """Starts as many processes as there are cores for it."""
        workers = 1 if DRY else max(1, min(16, (os.cpu_count() or 2) - 2))
        capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else CAPABILITY
        file = Path(self._folder.name, "launches")
        file.write_bytes(pickle.dumps((capability, list(self.found.values()))))
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        environment.pop("TRITON_INTERPRET", None)
        command = [sys.executable, str(Path(__file__)), str(file), str(workers)]
        self._processes = [
            subprocess.Popen([*command, str(own)], env=environment) for own in range(workers)
        ]

    def wait(self) -> dict:
        """What became of it: a row."""
        codes: list[int | None] = []
        for process in self._processes:
            try:
                codes.append(process.wait(max(0.1, DEADLINE - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(None)
        self._folder.cleanup()
        row: dict[str, Any] = {"workers": len(codes), "whole": codes.count(0)}
        row |= {"stopped": codes.count(None), "calls": self.calls, "kernels": len(self.found)}
        row["seconds"] = round(time.monotonic() - self.begun, 1)
        if failed := [code for code in codes if code]:
            row["failed"] = f"{len(failed)} of {len(codes)} workers, with {failed[0]}"
        return row


def compile_share(file: Path, workers: int, own: int) -> None:
    """Compiles every workers-th launch of those in the file."""
    import importlib

    import triton.language as tl

    from tests.kernels.compile_only import compiling

    capability, launches = pickle.loads(file.read_bytes())
    number = 10 * capability[0] + capability[1]

    def whole(value: Any) -> Any:
        if isinstance(value, tuple) and value[:1] == ("tensor",):
            made = torch.empty(64, dtype=value[1])
            return made if value[2] else made[1:]
        if isinstance(value, tuple) and value[:1] == ("triton",):
            return getattr(tl, value[1].removeprefix("triton.language."))
        return tuple(whole(part) for part in value) if isinstance(value, tuple) else value

    failed, done = 0, 0
    with compiling(number, inspect=False):
        for kind, *rest in launches[own::workers]:
            if not in_time():
                break
            try:
                if kind == "cuda":
                    (name, numbers), bf16, texts = rest
                    config, cuda = (
                        getattr(kernels("configs"), name)(*numbers),
                        kernels("periodic_conv2d"),
                    )
                    cuda.able(f"sm_{number}", config, bf16, cuda.Text(*texts))
                else:
                    (module, name), given = rest
                    kernels(module.rpartition(".")[2])
                    kernel = getattr(importlib.import_module(module), name)
                    kernel[(1,)](**{k: whole(v) for k, v in given.items()})
                done += 1
            except Exception as error:
                failed += 1
                print(f"{rest}: {type(error).__name__}: {error}"[:600], flush=True)
    print(f"worker {own}: {done} kernels, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    compile_share(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
