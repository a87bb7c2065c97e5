"""Every kernel, compiled for cards that are not here: it fits them, and uses their matrix units.

The budgets hold for the version of Triton that a failure names: another may allocate otherwise.
"""

import importlib.util
import re
from functools import cache

import pytest
import torch

from sparse_ops.ops import _kernels, _triton
from sparse_ops.ops._activation import code_of

if importlib.util.find_spec("triton") is None:
    pytest.skip("there is no Triton for this machine", allow_module_level=True)
if _kernels.INTERPRETED:
    pytest.skip("these kernels are interpreted, not compiled", allow_module_level=True)

import triton

if (reason := _kernels.too_old(triton.__version__)) is not None:
    pytest.skip(reason, allow_module_level=True)

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.patterns import PSD2_P8
from tests.kernels.compile_only import compiling

pytestmark = pytest.mark.slow

# Shared memory that one program may have, in bytes.
SHARED = {70: 96 << 10, 75: 64 << 10, 80: 163 << 10, 90: 227 << 10}
# capability -> what its matrix instruction is called in PTX; Triton has none before 8.0.
MATRIX = {80: "mma.sync", 90: "wgmma"}

configs, launch, sets, grouping = (
    _kernels.kernels(name) for name in ("configs", "_launch", "sets", "grouping")
)
set_conv2d, csr_conv2d, csr_linear = (
    _kernels.kernels(name) for name in ("set_conv2d", "csr_conv2d", "csr_linear")
)
set_weight, csr_weight = (
    _kernels.kernels(name) for name in ("set_conv2d_weight", "csr_conv2d_weight")
)
GEOMETRY = launch.Geometry((3, 3), (1, 1), (1, 1), (1, 1))


@pytest.fixture(params=sorted(SHARED, reverse=True), ids=lambda cc: f"sm_{cc}")
def capability(request, monkeypatch):
    monkeypatch.setattr(configs, "capability", lambda device: divmod(request.param, 10))
    return request.param


def check(made, capability, matrix=None):
    """Every kernel fits; those named `matrix` have this capability's matrix instruction."""
    assert made
    for kernel in made:
        where = f"{kernel.name} for sm_{capability} by Triton {triton.__version__}"
        assert kernel.resources.stack == 0, f"{where}: {kernel.resources} spills"
        assert kernel.resources.shared <= SHARED[capability], f"{where}: {kernel.resources}"
        assert kernel.resources.registers <= 255, where
        if capability in MATRIX and kernel.name == matrix:
            assert MATRIX[capability] in kernel.ptx, f"{where} has no {MATRIX[capability]}"
        if capability not in MATRIX and kernel.name == matrix:
            # Multiply-adds in registers instead.
            assert "fma.rn.f32" in kernel.ptx and "mma.sync" not in kernel.ptx, where


@cache
def periodic(filters, sort_by=0):
    """(sets, nnz) of a PSD2_P8 weight of 64 channels."""
    shape = (filters, 64, 3, 3)
    p = PeriodicWeight.pack(torch.ones(shape), PSD2_P8.mask(shape), PSD2_P8)
    table = sets.positions(p.class_crow_indices, p.class_col_indices, filters, 64 * 9, p.nnz)
    _, parts = grouping.by_class(table, 1, 8, sort_by or None)
    return sets.assemble(table, parts, 1, 9, p.nnz, sort_by), p.nnz


@pytest.mark.parametrize("filters", [64, 256, 1024])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32", "fp32"])
def test_sets(capability, precision, filters):
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    own, nnz = periodic(filters)
    x, bias = torch.zeros(2, 64, 8, 8, dtype=dtype), torch.zeros(filters, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    tf32, y = precision == "tf32", torch.zeros(2, filters, 8, 8, dtype=dtype)
    with compiling(capability) as made:
        weight = set_conv2d.packed(torch.zeros(nnz, dtype=dtype), own)
        some = own._replace(others=torch.arange(2, dtype=torch.int32))
        set_conv2d.set_conv2d(x, weight, some, filters, bias, y, GEOMETRY, 4, tf32)
    assert len(made) == 3
    check(made, capability, None if precision == "fp32" else "_set_conv2d_fwd_kernel")


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "leaky_relu(-0.3)"])
def test_activations_that_are_long_or_have_a_slope_fit(capability, activation):
    own, nnz = periodic(256)
    x, y = torch.zeros(2, 64, 8, 8), torch.zeros(2, 256, 8, 8)
    with compiling(capability) as made:
        weight, code = set_conv2d.packed(torch.zeros(nnz), own), code_of(activation)
        set_conv2d.set_conv2d(x, weight, own, 256, None, y, GEOMETRY, code)
    check(made, capability)


@pytest.mark.parametrize("precision", ["bf16", "tf32", "fp32"])
def test_gradients_of_sets(capability, precision):
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    own, nnz = periodic(256)
    x, dy = torch.zeros(2, 64, 8, 8, dtype=dtype), torch.zeros(2, 256, 4, 4, dtype=dtype)
    strided = GEOMETRY._replace(stride=(2, 2))
    with compiling(capability) as made:
        weight = set_conv2d.packed(torch.zeros(nnz, dtype=dtype), own)
        back, tf32 = strided.transposed(), precision == "tf32"
        set_conv2d.set_conv2d(dy, weight, own, 64, None, None, back, 0, tf32, (8, 8))
        set_weight.set_conv2d_weight(dy, x, own, strided, tf32)
    assert len(made) == 3
    check(made, capability, None if precision == "fp32" else "_set_conv2d_fwd_kernel")
    check(made, capability, "_set_conv2d_weight_kernel" if precision == "bf16" else None)


@pytest.mark.parametrize("capability", [80, 90], indirect=True)
def test_sorted_channels_are_read_eight_at_a_time(capability):
    own, nnz = periodic(256, 8)
    x = torch.zeros(2, 64, 8, 8, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    assert own.run == 8
    with compiling(capability) as made:
        weight = set_conv2d.packed(torch.zeros(nnz, dtype=x.dtype), own)
        set_conv2d.set_conv2d(x, weight, own, 256, None, None, GEOMETRY, 1)
    check(made, capability, "_set_conv2d_fwd_kernel")
    # 16 bytes a copy, and nothing of x is loaded one by one.
    assert "cp.async.cg.shared.global" in made[-1].ptx and "ld.global.b16" not in made[-1].ptx


@cache
def class_by_class(channels):
    """(sets, nnz) of a PSD2_P8 weight whose filters and channels stand class by class."""
    order = (torch.arange(channels) % 8).argsort(stable=True)
    mask = PSD2_P8.mask((channels, channels, 3, 3))[order][:, order]
    w = CSRWeight.pack(torch.ones(mask.shape), mask)
    table = sets.positions(w.crow_indices, w.col_indices, channels, 9 * channels, w.nnz)
    return sets.assemble(table, grouping.by_sameness(table, 1), 1, 9, w.nnz, 1), w.nnz


@pytest.mark.parametrize("channels", [128, 256, 512])
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_sorted_models_are_read_and_written_sixteen_bytes_at_a_time(
    capability, precision, channels
):
    own, nnz = class_by_class(channels)
    assert own.run == channels // 8 and own.order is None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.zeros(2, channels, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    bias = torch.zeros(channels, dtype=dtype)
    with compiling(capability) as made:
        weight = set_conv2d.packed(torch.zeros(nnz, dtype=dtype), own)
        set_conv2d.set_conv2d(x, weight, own, channels, bias, x, GEOMETRY, 1, precision == "tf32")
    check(made, capability, "_set_conv2d_fwd_kernel")
    if precision == "tf32" or capability not in MATRIX:
        return
    ptx = made[-1].ptx
    # x into shared memory, the residual into registers, and y back: none of it one by one.
    assert "cp.async.cg.shared.global" in ptx and "ld.global.v4.b32" in ptx
    assert "st.global.v4.b32" in ptx
    assert "ld.global.b16" not in ptx and "st.global.b16" not in ptx
    # Of 32 columns the number of the first is copied, four bytes for each stage, not of each.
    if own.run >= 32:
        assert len(re.findall(r"cp\.async\.ca\.shared\.global.*, 0x4,", ptx)) <= 5
        # Two programs of 8 warps to a multiprocessor.
        assert made[-1].resources.registers <= 128


@pytest.mark.parametrize("dtype", _triton.DTYPES, ids=str)
def test_rows(capability, dtype):
    shape = (12, 16, 3, 3)
    conv = CSRWeight.pack(torch.ones(shape, dtype=dtype), torch.ones(shape).bool())
    line = CSRWeight.pack(torch.ones(8, 4096, dtype=dtype), torch.ones(8, 4096).bool())
    order, rows = torch.arange(12, dtype=torch.int32), conv.rows().int()
    x, y = torch.zeros(2, 16, 8, 8, dtype=dtype), torch.zeros(2, 12, 8, 8, dtype=dtype)
    indices = conv.crow_indices, conv.col_indices
    with compiling(capability) as made:
        csr_conv2d.csr_conv2d(x, *indices, conv.values, order, None, y, list(shape), GEOMETRY, 1, 3)
        csr_weight.csr_conv2d_weight(y, x, rows, conv.col_indices, GEOMETRY, 1)
        for batch in (1, 16, 1024):
            x, y = torch.zeros(batch, 4096, dtype=dtype), torch.zeros(batch, 8, dtype=dtype)
            parts = configs.LinearConfig(1, 128, 4, 4, 2)
            for col, config in (
                (line.col_indices, None),
                (line.col_indices.to(torch.int16), parts),
            ):
                csr_linear.csr_linear(
                    x, line.crow_indices, col, line.values, order[:8], None, y, 3, config
                )
    # In parts there is a kernel that adds; of a batch of 1 the default has parts here, too.
    assert len(made) == 2 + 3 * 3 + 1
    check(made, capability)


def linear(dtype, index, batch, shift=0):
    """What csr_linear compiles for rows of 1000, their tensors `shift` entries from a boundary."""
    width = 1000
    kept = 2 * width
    crow = torch.tensor([0, width, kept], dtype=torch.int32)
    col, values = (torch.zeros(kept + shift, dtype=t)[shift:] for t in (index, dtype))
    x, order = torch.zeros(batch, width, dtype=dtype), torch.arange(2, dtype=torch.int32)
    csr_linear.csr_linear(x, crow, col, values, order, None, None, 1)


@pytest.mark.parametrize("capability", [80, 90], indirect=True)
@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize("index", [torch.int16, torch.int32], ids=str)
@pytest.mark.parametrize("dtype", _triton.DTYPES, ids=str)
def test_csr_linear_reads_weights_together_and_waits_for_nobody(capability, dtype, index, batch):
    with compiling(capability) as made:
        linear(dtype, index, batch)
    check(made, capability)
    ptx, eight = made[0].ptx, 8 if batch < 4 else 4
    # Weights and columns, as many bytes of each as a lane has of them; 16 are one load.
    loads = [eight * t.itemsize / 16 for t in (index, dtype)]
    assert len(re.findall(r"ld\.global\.v[24]\.b32", ptx)) == sum(max(1, n) for n in loads)
    # One at a time: a row's number, start and end, x, and what ends the weight.
    single = re.findall(r"ld\.global\.b(?:16|32)", ptx)
    assert len(single) == 3 + eight * batch + 3
    assert "bar.sync" not in ptx and "shared" not in ptx


def test_csr_linear_reads_what_no_boundary_begins_one_by_one(capability):
    with compiling(capability, inspect=False) as made:
        linear(torch.float16, torch.int16, 1, shift=1)
    assert "ld.global.v" not in made[0].ptx
