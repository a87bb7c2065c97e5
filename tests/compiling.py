"""Models through torch.compile and torch.export."""

import torch


def assert_compiles_and_exports(model, x):
    """Both give the bits that the model gives, which are returned."""
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), expected)
        program = torch.export.export(model, (x,))
        assert torch.equal(program.module()(x), expected)
        assert torch.equal(program.run_decompositions().module()(x), expected)
    return expected
