"""What csr_linear does not write to: the kernels are called directly, with what would go astray."""

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.ops.csr_linear import csr_linear
from tests.cases import LINEAR
from tests.ops.test_csr_linear import ON_CPU, problem, skip_if_refused
from tests.ops.test_linear_out import BATCHES, csr

ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]


def call(isa, x, weight, out, residual=None):
    rows = (weight.crow_indices, weight.col_indices, weight.values)
    operator = getattr(torch.ops.sparse_ops, f"csr_linear_out_{isa}")
    operator(x, *rows, None, residual, 0, out)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("strides", [(8, 2), (1, 3), (7, 1), (0, 1), (8, 0), (0, 0), (1, 1)])
def test_strides_that_cannot_be_written_are_refused(isa, strides):
    out = torch.zeros(100).as_strided((3, 8), strides)
    with pytest.raises(RuntimeError, match="out must have whole rows, one after the other"):
        call(isa, torch.randn(3, 6), csr(), out)
    assert not bool(out.any())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("shape", "strides"), [((1, 8), (3, 1)), ((3, 1), (2, 9)), ((3, 1), (1, 0)), ((1, 1), (0, 0))]
)
def test_strides_of_a_single_row_or_column_do_not_matter(isa, shape, strides):
    x, weight = torch.randn(shape[0], 6), csr(shape[1])
    out = torch.zeros(100).as_strided(shape, strides)
    call(isa, x, weight, out)
    assert torch.equal(out, csr_linear(x, weight, backend=isa))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", [3, 0])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out": (7,)}, r"out must be \({batch}, 8\)"),
        ({"out": (8, 1)}, r"out must be \({batch}, 8\)"),
        ({"out": (8,), "type": torch.half}, "out must be float32"),
        ({"out": (8,), "type": torch.double}, "out must be float32"),
        ({"residual": torch.half}, "residual must be float32"),
        ({"x": torch.half}, "out must be float16"),
        ({"x": torch.bfloat16}, "out must be bfloat16"),
        ({"x": torch.double}, "x must be float32, float16 or bfloat16"),
    ],
    ids=str,
)
def test_other_shapes_and_types_are_refused_by_the_kernel(isa, batch, change, words):
    x = torch.randn(batch, 6, dtype=change.get("x"))
    out = torch.zeros(batch, *change.get("out", (8,)), dtype=change.get("type"))
    residual = torch.zeros(batch, 8, dtype=change["residual"]) if "residual" in change else None
    with pytest.raises(RuntimeError, match=words.replace("{batch}", str(batch))):
        call(isa, x, csr(), out, residual)


@pytest.mark.parametrize("isa", ISAS)
def test_storage_that_was_taken_away_is_not_written_to(isa):
    whole = torch.zeros(3, 20)
    narrow, wide = whole[:, 4:7], whole[:, 4:12]
    # The last rows of these end at value 2 * 20 + 4 + 3, and + 8.
    whole.untyped_storage().resize_(47 * 4)
    call(isa, torch.randn(3, 6), csr(3), narrow)
    with pytest.raises(RuntimeError, match="out needs 208 bytes of its storage, which has 188"):
        call(isa, torch.randn(3, 6), csr(), wide)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", BATCHES)
def test_memory_shared_with_what_is_read_is_refused(isa, batch):
    weight = csr(8, 8)
    x, other = torch.randn(batch, 8), torch.zeros(batch, 8)
    with pytest.raises(RuntimeError, match="out must not share memory with x"):
        csr_linear(x, weight, out=x, backend=isa)
    with pytest.raises(RuntimeError, match="out must not share memory with residual"):
        csr_linear(x, weight, residual=other, out=other, backend=isa)
    flat = torch.randn(batch * 8 + 1)
    with pytest.raises(RuntimeError, match="out must not share memory with x"):
        csr_linear(flat[:-1].view(-1, 8), weight, out=flat[1:].view(-1, 8), backend=isa)
    # Columns of one tensor beside each other are fine.
    whole = torch.randn(batch, 16)
    expected = csr_linear(whole[:, :8], weight, backend=isa)
    csr_linear(whole[:, :8], weight, out=whole[:, 8:], backend=isa)
    assert torch.equal(whole[:, 8:], expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", [2, 20])
def test_an_index_out_of_range_is_found_before_it_is_read(isa, batch):
    rows = torch.tensor([0, 2, 3], dtype=torch.int32), torch.tensor([0, 6, 1], dtype=torch.int32)
    operator = getattr(torch.ops.sparse_ops, f"csr_linear_out_{isa}")
    x, out = torch.randn(batch, 6), torch.zeros(batch, 2)
    with pytest.raises(RuntimeError, match=r"col_indices must be in \[0, 6\)"):
        operator(x, *rows, torch.randn(3), None, None, 0, out)


def test_bad_arguments_are_named():
    x, weight, out = torch.randn(3, 6), csr(), torch.zeros(3, 8)
    for wrong, words in (
        (out[:, :7], r"out must be \(3, 8\), got \(3, 7\)"),
        (out[0], r"out must be \(3, 8\), got \(8,\)"),
        (out.double(), r"out must be torch.float32 on cpu, got torch.float64 on cpu"),
        (out.to("meta"), r"out must be torch.float32 on cpu, got torch.float32 on meta"),
    ):
        with pytest.raises(ValueError, match=words):
            csr_linear(x, weight, out=wrong)


@pytest.mark.parametrize("backend", ON_CPU, ids=lambda b: b.name)
@pytest.mark.parametrize("wants", ["x", "values", "bias", "residual", "out"])
def test_where_a_gradient_is_wanted_there_is_no_out(wants, backend):
    x, weight, bias = problem(LINEAR[2])
    skip_if_refused(backend, x, weight, bias, None)
    residual, out = torch.zeros(3, 5), torch.zeros(3, 5)
    given = {"x": x, "values": weight.values, "bias": bias, "residual": residual, "out": out}
    given[wants].requires_grad_()
    options = {"residual": residual, "out": out, "backend": backend.name}
    with pytest.raises(RuntimeError, match="has no gradient"):
        csr_linear(x, weight, bias, **options)
    with torch.no_grad():
        csr_linear(x, weight, bias, **options)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", [4, 20])
@pytest.mark.parametrize("name", ["crow_indices", "col_indices", "values"])
def test_what_lies_over_the_weight_is_refused(isa, batch, name):
    weight = csr()
    indices = {each: getattr(weight, each) for each in ("crow_indices", "col_indices", "values")}
    out = torch.zeros(batch, 8)
    room = out.flatten()[: indices[name].numel()]
    indices[name] = room.view(indices[name].dtype).copy_(indices[name])
    before = out.clone()
    operator = getattr(torch.ops.sparse_ops, f"csr_linear_out_{isa}")
    with pytest.raises(RuntimeError, match=f"out must not share memory with {name}"):
        operator(torch.randn(batch, 6), *indices.values(), None, None, 0, out)
    assert torch.equal(out.view(torch.int32), before.view(torch.int32))
