"""Every kernel, compiled for cards that are not here: it fits them, and uses their matrix units.

The budgets hold for the version of Triton that a failure names: another may allocate otherwise.
"""

import pytest
import torch

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import _triton
from sparse_ops.patterns import PSD2_P8

triton = pytest.importorskip("triton")
if (reason := _triton.too_old(triton.__version__)) is not None:
    pytest.skip(reason, allow_module_level=True)
if _triton.INTERPRETED:
    pytest.skip("these kernels are interpreted, not compiled", allow_module_level=True)

from tests.kernels.compile_only import compiling

pytestmark = pytest.mark.slow

# Shared memory that one program may have, in bytes.
SHARED = {70: 96 << 10, 75: 64 << 10, 80: 163 << 10, 90: 227 << 10}
# capability -> what its matrix instruction is called in PTX; Triton has none before 8.0.
MATRIX = {80: "mma.sync", 90: "wgmma"}
GEOMETRY = ([1, 1], [1, 1], [1, 1])

kernels = {name: _triton._kernels(name) for name in _triton._OPERATORS}
configs = _triton._kernels("configs")


@pytest.fixture(params=sorted(SHARED, reverse=True), ids=lambda cc: f"sm_{cc}")
def capability(request, monkeypatch):
    monkeypatch.setattr(configs, "capability", lambda device: divmod(request.param, 10))
    return request.param


def check(made, capability, matrix):
    assert made
    for kernel in made:
        where = f"{kernel.name} for sm_{capability} by Triton {triton.__version__}"
        assert kernel.resources.stack == 0, f"{where}: {kernel.resources} spills"
        assert kernel.resources.shared <= SHARED[capability], f"{where}: {kernel.resources}"
        assert kernel.resources.registers <= 255, where
        if matrix and capability in MATRIX and kernel.name.endswith("conv2d_fwd_kernel"):
            assert MATRIX[capability] in kernel.ptx, f"{where} has no {MATRIX[capability]}"


@pytest.mark.parametrize("filters", [40, 256, 1024])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32", "fp32"])
def test_matrix_products(capability, precision, filters):
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    shape, x = (filters, 32, 3, 3), torch.zeros(2, 32, 8, 8, dtype=dtype)
    weight, bias = torch.ones(shape, dtype=dtype), torch.zeros(filters, dtype=dtype)
    p = PeriodicWeight.pack(weight, PSD2_P8.mask(shape), PSD2_P8)
    every, tf32 = torch.arange(filters, dtype=torch.int32), precision == "tf32"
    with compiling(capability) as made:
        kernels["periodic_conv2d"].periodic_conv2d(
            x,
            p.class_crow_indices,
            p.class_col_indices,
            p.values,
            bias,
            list(shape),
            *GEOMETRY,
            1,
            4,
            tf32=tf32,
        )
        kernels["channel_pruned_conv2d"].channel_pruned_conv2d(
            x, weight[1:], every[1:], every[:32], bias, list(shape), *GEOMETRY, 4, tf32=tf32
        )
    assert len(made) == 3
    check(made, capability, precision != "fp32")


@pytest.mark.parametrize("dtype", _triton.DTYPES, ids=str)
def test_gathers(capability, dtype):
    shape = (12, 16, 3, 3)
    conv = CSRWeight.pack(torch.ones(shape, dtype=dtype), torch.ones(shape).bool())
    line = CSRWeight.pack(torch.ones(8, 4096, dtype=dtype), torch.ones(8, 4096).bool())
    rows = (line.crow_indices, line.col_indices, line.values, None, 3)
    with compiling(capability) as made:
        kernels["csr_conv2d"].csr_conv2d(
            torch.zeros(2, 16, 8, 8, dtype=dtype),
            conv.crow_indices,
            conv.col_indices,
            conv.values,
            None,
            list(shape),
            *GEOMETRY,
            1,
            3,
        )
        for batch in (1, 16, 1024):
            x = torch.zeros(batch, 4096, dtype=dtype)
            kernels["csr_linear"].csr_linear(x, *rows)
            kernels["csr_linear"].csr_linear(x, *rows, configs.LinearConfig(1, 128, 4, 4, 2))
    assert len(made) == 1 + 3 * 3
    check(made, capability, False)
