"""The compiled extension: whether it is here, why not, and what this CPU can run of it.

Facts of the machine are constants, found once at import, so that torch.compile can read them.
The operators are defined here, in Python (what they take is in `_operators.py`), so that they exist
(for torch.export, say) even where no compiled code does.
"""

import os
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops import _operators

# Every kernel of csrc/cpu is compiled once for each of these, best first; "neon" is aarch64's,
# "scalar" is portable.
ISAS = ("avx512", "avx2", "neon", "scalar")

LIBRARY = torch.library.Library("sparse_ops", "DEF")
LIBRARY.define("cpu_supports(str isa) -> bool")

# For tests: one step of a program, csrc/program/test_step.h.
STEP = (
    "(Tensor[] inputs, int[] orders, int[] halos, int out_order, int out_halo, int kind, "
    "int[] attributes, Tensor[] constants) -> Tensor"
)
LIBRARY.define("release_program(int number) -> ()")
# How many sizes of programs are prepared; and, for tests: memory and outputs begin as NaN.
LIBRARY.define("kept_programs() -> int")
LIBRARY.define("poison_programs(bool on) -> ()")

for _isa in ISAS:
    for _name in _operators.TAKES:
        if _name != "channel_pruned_conv2d_backward":  # of GPUs alone
            _operators.define(LIBRARY, _name, _isa)
    for _name in _operators.HAVE_OUT:
        _operators.define_out(LIBRARY, _name, _isa)
    _operators.define_run(LIBRARY, _isa)
    LIBRARY.define(f"rerun_program_{_isa}(Tensor[] inputs, int number) -> Tensor[]")
    LIBRARY.define(
        f"profile_program_{_isa}(Tensor[] inputs, Tensor program, Tensor[] constants, int repeats) "
        "-> Tensor"
    )
    LIBRARY.define(
        f"describe_program_{_isa}(Tensor program, Tensor[] constants, int[] sizes) -> Tensor"
    )
    LIBRARY.define(f"step_{_isa}{STEP}")


def _load() -> str | None:
    try:
        import_module("sparse_ops._C")
    except ImportError as error:
        return f"the compiled extension is not here ({error})"
    return None


# None if the extension is loaded, else the reason, in the import error's own words.
MISSING: str | None = _load()

# The best instruction set to use, though the CPU may have better ones: to compare them.
MOST: str = os.environ.get("SPARSE_OPS_ISA", ISAS[0])
if MOST not in ISAS:
    raise ValueError(f"SPARSE_OPS_ISA must be one of {', '.join(ISAS)}, got {MOST!r}")


def _refuses(isa: str) -> str | None:
    if ISAS.index(isa) < ISAS.index(MOST):
        return f"SPARSE_OPS_ISA={MOST} leaves {isa} out"
    if torch.ops.sparse_ops.cpu_supports(isa):
        return None
    return f"this CPU does not have {isa}"


# Why kernels for an instruction set cannot run here, or None if they can.
REFUSES: dict[str, str | None] = {isa: MISSING or _refuses(isa) for isa in ISAS}

# The best instruction set that kernels have here, or None.
BEST: str | None = next((isa for isa in ISAS if REFUSES[isa] is None), None)


def refuses_isa(isa: str, x: Tensor) -> str | None:
    """Why the kernels compiled for an instruction set cannot run on x, or None if they can."""
    if REFUSES[isa] is not None:
        return REFUSES[isa]
    if x.device.type != "cpu":
        return f"x is on {x.device.type}, not cpu"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"x is {x.dtype}, not float32, float16 or bfloat16"
    return None


def compiled_operators(name: str, *, auto: bool = True) -> dict[str, Any]:
    """Backend -> the compiled operator itself, of those that run here; with `auto`, "auto" is the
    best of them.

    For callers that have nothing to check or convert: on small layers the checks of the functions
    take as long as the arithmetic.
    """
    here = [isa for isa in ISAS if REFUSES[isa] is None]
    operators = {isa: getattr(torch.ops.sparse_ops, f"{name}_{isa}").default for isa in here}
    return operators | {"auto": operators[here[0]]} if here and auto else operators
