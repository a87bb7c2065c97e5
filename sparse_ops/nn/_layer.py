"""What all sparse layers have in common: parameters, checkpoints, and the way back to dense."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparse_ops.formats import PackedWeight
from sparse_ops.ops._activation import check_activation, code_of, slope_of
from sparse_ops.ops._transforms import is_transformed

# Those without a parameter.
ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, "tanh"),
}


class SparseLayer(nn.Module):
    """A layer whose parameter `values` holds the kept weights only.

    What is not kept is not there: no optimizer, weight decay or load can bring it back.

    Attributes:
        values: the kept weights, in the order of the mask.
        bias: (O), or None.
        activation: what is applied to the output, or None.
        backend: a backend's name, or "auto".
        fused: whether the converter moved an activation or a residual into this layer, in a graph.
    """

    fused: bool = False
    # The layer that this one stands for.
    DENSE: ClassVar[type[nn.Module]]
    # Whether it can add a residual to its output.
    ADDS: ClassVar[bool] = True
    # backend -> its compiled operator, and the one that writes to a tensor; what both are given
    # after x, and the types of x that they take.
    OPERATORS: ClassVar[dict[str, Any]] = {}
    OUT_OPERATORS: ClassVar[dict[str, Any]] = {}
    ARGUMENTS: ClassVar[tuple[str, ...]] = ()
    DTYPES: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float16, torch.bfloat16)

    values: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, packed: PackedWeight, bias: Tensor | None, activation: str | None, backend: str
    ) -> None:
        super().__init__()
        check_activation(activation)
        self.shape = tuple(packed.shape)
        self.activation, self.backend = activation, backend
        self.values = nn.Parameter(packed.values.detach().clone())
        self.register_parameter(
            "bias", None if bias is None else nn.Parameter(bias.detach().clone())
        )

    @property
    def weight(self) -> Any:
        """The packed weight."""
        raise AttributeError("a sparse layer has its packed weight from its format")

    @property
    def nnz(self) -> int:
        return self.values.numel()

    @property
    def sparsity(self) -> float:
        """The fraction of the dense weight that is not kept."""
        return 1 - self.nnz / max(1, torch.Size(self.dense_shape).numel())

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """The shape of the dense weight."""
        return self.shape

    def rows_of(self, dense: Tensor) -> Tensor:
        """A dense weight as the packed one has it."""
        return dense

    def check_weight(self) -> None:
        """Raises ValueError unless the packed weight is a valid one."""
        self.weight.validate()

    def mask(self) -> Tensor:
        """The mask, bool, of the dense weight's shape."""
        return self.mask_of_rows()

    def mask_of_rows(self) -> Tensor:
        """The mask, bool, of the packed weight's shape: a row for each sum of products."""
        return self.weight.scatter(torch.ones_like(self.values.detach())) != 0

    def _direct(
        self, x: Tensor, residual: Tensor | None, *geometry: Any, out: Tensor | None = None
    ) -> Tensor | None:
        """What the compiled operator itself gives, or `out`, or None where more is to be done.

        The functions check and convert, which on small layers takes as long as the arithmetic. The
        operator checks all that could make it read out of bounds; x's dimensions are the caller's.
        """
        values = self._parameters.get("values")
        if (
            torch.is_grad_enabled()
            or (residual is not None and residual.dtype is not x.dtype)
            or self.backend not in self.OPERATORS
            or x.dtype not in self.DTYPES
            or values is None
            or "bias" not in self._parameters
            or values.dtype is not x.dtype
            or not x.is_cpu
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or is_transformed()
        ):
            return None
        given: list[Any] = [values if n == "values" else self._buffers[n] for n in self.ARGUMENTS]
        given += [self.bias_of_rows(), residual, *geometry, code_of(self.activation)]
        try:
            if out is None:
                return self.OPERATORS[self.backend](x, *given)
            self.OUT_OPERATORS[self.backend](x, *given, out)
            return out
        except RuntimeError:
            # Whatever is wrong, the function has the words for it.
            return None

    def bias_of_rows(self) -> Tensor | None:
        """The bias of each row of the packed weight."""
        return self._parameters["bias"]

    def _runs_on(self) -> str:
        """What the operator's function is given as `backend`."""
        # Whoever named one chose it for its speed, not to forbid what only the definition can do.
        return "auto" if is_transformed() else self.backend

    def followed_by_activation(self, dense: nn.Module) -> nn.Module:
        """The dense layer, with the activation after it if this layer has one."""
        if self.activation is None:
            return dense
        slope = slope_of(self.activation)
        if slope is not None:
            return nn.Sequential(dense, nn.LeakyReLU(slope))
        return nn.Sequential(dense, ACTIVATION_MODULES[self.activation]())

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Also reads the dense layer's checkpoint: of its weight, what this layer keeps."""
        dense = state_dict.get(f"{prefix}weight")
        if isinstance(dense, Tensor) and f"{prefix}values" not in state_dict:
            state_dict = dict(state_dict)
            del state_dict[f"{prefix}weight"]
            if tuple(dense.shape) != (wanted := self.dense_shape):
                error_msgs.append(
                    f"{prefix}weight must be {wanted} to be packed, got {tuple(dense.shape)}"
                )
                return
            rows = self.rows_of(dense.to(self.values.device))
            state_dict[f"{prefix}values"] = self.weight.gather(rows)
            for name, buffer in self._buffers.items():
                if name not in self._non_persistent_buffers_set:
                    state_dict[f"{prefix}{name}"] = buffer
            if f"{prefix}weight" in unexpected_keys:
                unexpected_keys.remove(f"{prefix}weight")
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        try:
            self.check_weight()
        except ValueError as error:
            error_msgs.append(f"{prefix}weight is not a valid packed weight: {error}")
