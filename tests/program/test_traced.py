"""Programs as torch.compile, torch.export and AOTInductor take them."""

import pytest
import torch
from torch import nn
from torch.library import opcheck

from sparse_ops.ops import _native
from sparse_ops.ops import program as ops
from sparse_ops.ops._program_shapes import evaluated, formulas, shapes
from tests.compiling import assert_compiles_and_exports
from tests.program.programs import Builder, run_on
from tests.program.random_programs import random_program
from tests.program.steps import ISAS

needs_native = pytest.mark.skipif(_native.BEST is None, reason=str(_native.MISSING))


class Network(nn.Module):
    """What runs one program, of one output, on images."""

    def __init__(self, program, ranks=(4,)):
        super().__init__()
        self.register_buffer("program", program.encoded())
        self.weights = nn.ParameterList(
            nn.Parameter(each, requires_grad=False) for each in program.constants
        )
        self.shapes = formulas(program, ranks)

    def forward(self, x):
        return ops.run([x], self.program, list(self.weights), shapes=self.shapes)[0]


def network():
    """A convolution of stride 2, a pool that rounds up, and a residual."""
    builder = Builder((2, 3, 11, 12))
    v = builder.conv(
        0, torch.randn(5, 3, 3, 3), torch.randn(5), padding_h=1, padding_w=1, stride_h=2, stride_w=2
    )
    v = builder.conv(v, torch.randn(5, 5, 1, 1), None, v, activation=1)
    pool = {"kernel_h": 3, "kernel_w": 2, "stride_h": 2, "stride_w": 2, "ceil_mode": 1}
    v = builder.add("pool", [v], pool)
    return Network(builder.program(v, number=4242))


@pytest.mark.parametrize("isa", ISAS)
def test_opcheck(isa):
    model, x = network(), torch.randn(2, 3, 11, 12)
    arguments = ([x], model.program, list(model.weights), model.shapes)
    opcheck(getattr(torch.ops.sparse_ops, f"run_program_{isa}"), arguments)


@needs_native
def test_networks_compile_and_export():
    assert_compiles_and_exports(network(), torch.randn(2, 3, 11, 12))


@needs_native
def test_batches_and_images_may_have_any_size_in_exported_networks():
    model = network()
    sizes = {0: torch.export.Dim("N", max=64), 2: torch.export.Dim("H", min=9, max=99)}
    exported = torch.export.export(model, (torch.randn(2, 3, 11, 12),), dynamic_shapes=(sizes,))
    with torch.no_grad():
        for shape in [(1, 3, 9, 12), (17, 3, 32, 12)]:
            x = torch.randn(shape)
            assert torch.equal(exported.module()(x), model(x))


@needs_native
def test_dynamic_sizes_compile_once():
    model, counts = network(), []

    def backend(graph, inputs):
        counts.append(1)
        return graph

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad():
        for shape in [(2, 3, 11, 12), (5, 3, 19, 16), (9, 3, 8, 30)]:
            x = torch.randn(shape)
            assert torch.equal(compiled(x), model(x))
    assert len(counts) == 1


@needs_native
def test_without_formulas_tracing_says_what_is_missing():
    model = network()
    model.shapes = ()
    with pytest.raises(Exception, match="run_program needs `shapes`"), torch.no_grad():
        torch.compile(model, fullgraph=True, backend="eager")(torch.randn(2, 3, 11, 12))


def test_formulas_give_the_sizes_of_all_outputs():
    for seed in range(60):
        program, inputs = random_program(seed)
        code = formulas(program, [x.dim() for x in inputs])
        outputs = ops.run(inputs, program.encoded(), program.constants, "reference")
        expected = [list(y.shape) for y in outputs]
        assert evaluated(code, [x.shape for x in inputs]) == expected
        found = shapes(program, [tuple(x.shape) for x in inputs])
        assert [list(found[v]) for v in program.outputs] == expected


@pytest.mark.parametrize("isa", ISAS)
def test_formulas_that_are_not_so_are_refused(isa):
    model, x = network(), torch.randn(2, 3, 11, 12)
    operator = getattr(torch.ops.sparse_ops, f"run_program_{isa}")
    good = list(model.shapes)
    plain = operator([x], model.program, list(model.weights))[0]
    assert torch.equal(operator([x], model.program, list(model.weights), good)[0], plain)
    for at in range(len(good)):
        for number in (-1, 0, 1, 2, 3, 5, 6, 2**62, -(2**63)):
            bad = [*good[:at], number, *good[at + 1 :]]
            if number == good[at]:
                continue
            try:
                y = operator([x], model.program, list(model.weights), bad)[0]
            except RuntimeError as error:
                assert "formulas" in str(error)
            else:
                # Another way of saying the same: min(a, b) of other numbers, say.
                assert evaluated(bad, [x.shape]) == [list(y.shape)]
    with pytest.raises(RuntimeError, match="formulas of the outputs' sizes go on after the last"):
        operator([x], model.program, list(model.weights), [*good, 4])
    for end in range(1, len(good)):
        with pytest.raises(RuntimeError, match="formulas"):
            operator([x], model.program, list(model.weights), good[:end])


@needs_native
@pytest.mark.slow
def test_a_packaged_model_gives_the_same(tmp_path):
    model, x = network(), torch.randn(2, 3, 11, 12)
    exported = torch.export.export(model, (x,))
    path = torch._inductor.aoti_compile_and_package(
        exported, package_path=str(tmp_path / "model.pt2")
    )
    packaged = torch._inductor.aoti_load_package(path)
    with torch.no_grad():
        assert torch.equal(packaged(x), model(x))


@pytest.mark.parametrize("isa", ISAS)
def test_random_programs_as_operators_agree_with_their_formulas(isa):
    for seed in range(200, 215):
        program, inputs = random_program(seed)
        operator = getattr(torch.ops.sparse_ops, f"run_program_{isa}")
        code = formulas(program, [4])
        outputs = operator(inputs, program.encoded(), list(program.constants), code)
        assert all(map(torch.equal, outputs, run_on(program, inputs, isa)))
