"""The way back: the dense equivalent of a converted model, also as an ONNX file."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops._files import replacing
from sparse_ops.nn import SparseLayer
from sparse_ops.nn._conv import placed
from sparse_ops.ops._activation import add_and_activate
from sparse_ops.planning.attention import joined_
from sparse_ops.planning.concat import concatenations_of
from sparse_ops.planning.copies import copied
from sparse_ops.planning.masked import example_tuple, replaced
from sparse_ops.program.dense import to_dense as program_to_dense
from sparse_ops.program.model import detach_
from sparse_ops.program.network import ProgramModel

# An ONNX file is one protobuf message, and those end at 2 GiB.
LARGEST_ONNX = 2**31


def to_dense(model: nn.Module) -> nn.Module:
    """A dense model of the same outputs as a converted one: each sparse layer unpacked."""
    if isinstance(model, ProgramModel):
        return program_to_dense(model)
    plain = detach_(copied(model))
    concatenated = {name for each in concatenations_of(model) for name in each.layers}
    for name, module in list(plain.named_modules()):
        if isinstance(module, SparseLayer):
            unpacked: Any = module
            new = Unfused(unpacked) if module.fused or name in concatenated else unpacked.to_dense()
            plain = replaced(plain, name, new)
    return joined_(plain)


class Unfused(nn.Module):
    """The dense layer of a packed one that may be given a residual, and told where its output is
    wanted.
    """

    def __init__(self, packed: Any) -> None:
        super().__init__()
        activation, packed.activation = packed.activation, None
        self.layer = packed.to_dense()
        packed.activation = activation
        self.activation = activation
        self.train(packed.training)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        into: tuple[Tensor | int, int] | None = None,
    ) -> Tensor:
        y = add_and_activate(self.layer(x), residual, self.activation)
        return y if into is None else placed(y, into)


def export_onnx(
    model: nn.Module, example: Any, path: str | os.PathLike[str], **options: Any
) -> None:
    """Writes the dense equivalent of a converted model, in eval mode, to an ONNX file.

    ONNX has no sparse convolution: the zeros are written as numbers, the results are the same.

    Args:
        model: converted or not; it is not changed.
        example: an input as for `plan`: a tensor or a tuple.
        path: the file, which is whole or not there.
        options: for `torch.onnx.export`, such as `dynamic_shapes=` or `input_names=`.

    Raises:
        ImportError: onnxscript is not installed; the message says how to get it.
        ValueError: the example is empty, or the model is too large for one ONNX file.
        OSError: the file cannot be written.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'ONNX export needs onnxscript ("sparse-ops[onnx]"): {error}') from error
    inputs = example_tuple(example)
    dense = to_dense(model).eval()
    size = sum(tensor.nbytes for tensor in dense.state_dict().values())
    if size >= LARGEST_ONNX:
        raise ValueError(f"an ONNX file holds less than {LARGEST_ONNX} bytes, the model has {size}")
    with replacing(path) as temporary, torch.no_grad():
        torch.onnx.export(
            dense, inputs, temporary, dynamo=True, external_data=False, verbose=False, **options
        )
