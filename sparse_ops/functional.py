"""The operators as functions, as in torch.nn.functional."""

from sparse_ops.ops.channel_pruned_conv2d import channel_pruned_conv2d
from sparse_ops.ops.csr_conv2d import csr_conv2d
from sparse_ops.ops.csr_linear import csr_linear
from sparse_ops.ops.periodic_conv2d import periodic_conv2d
from sparse_ops.ops.tuning import tune

__all__ = ["channel_pruned_conv2d", "csr_conv2d", "csr_linear", "periodic_conv2d", "tune"]
