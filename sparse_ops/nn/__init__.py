"""Sparse layers: drop-in for their dense ones, made from them, and turned back into them."""

from sparse_ops.nn._layer import SparseLayer
from sparse_ops.nn.channel_pruned_conv2d import ChannelPrunedConv2d
from sparse_ops.nn.conv1d import ChannelPrunedConv1d, CSRConv1d, PeriodicConv1d
from sparse_ops.nn.csr_conv2d import CSRConv2d
from sparse_ops.nn.csr_conv_transpose2d import CSRConvTranspose2d
from sparse_ops.nn.csr_linear import CSRLinear
from sparse_ops.nn.periodic_conv2d import PeriodicConv2d
from sparse_ops.nn.split_attention import SplitMultiheadAttention
from sparse_ops.nn.split_encoder import SplitTransformerEncoder
from sparse_ops.nn.swap import Swaps, swap_

__all__ = [
    "CSRConv1d",
    "CSRConv2d",
    "CSRConvTranspose2d",
    "CSRLinear",
    "ChannelPrunedConv1d",
    "ChannelPrunedConv2d",
    "PeriodicConv1d",
    "PeriodicConv2d",
    "SparseLayer",
    "SplitMultiheadAttention",
    "SplitTransformerEncoder",
    "Swaps",
    "swap_",
]
