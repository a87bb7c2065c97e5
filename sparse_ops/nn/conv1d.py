"""CSRConv1d, PeriodicConv1d and ChannelPrunedConv1d."""

from sparse_ops.nn._height_one import HeightOne
from sparse_ops.nn.channel_pruned_conv2d import ChannelPrunedConv2d
from sparse_ops.nn.csr_conv2d import CSRConv2d
from sparse_ops.nn.periodic_conv2d import PeriodicConv2d


class CSRConv1d(HeightOne, CSRConv2d):
    """An nn.Conv1d whose weight is stored in compressed sparse rows; else as `CSRConv2d`.

    Takes nn.Conv1d's arguments and CSRConv2d's; mask: (O, I / groups, k).
    """


class PeriodicConv1d(HeightOne, PeriodicConv2d):
    """An nn.Conv1d whose kernels keep the taps of a periodic pattern; else as `PeriodicConv2d`.

    Takes nn.Conv1d's arguments and PeriodicConv2d's, whose patterns are of kernels 1×k.
    """


class ChannelPrunedConv1d(HeightOne, ChannelPrunedConv2d):
    """An nn.Conv1d over the kept channels only; else as `ChannelPrunedConv2d`.

    Takes nn.Conv1d's arguments and ChannelPrunedConv2d's; mask: (O, I, k).
    """
