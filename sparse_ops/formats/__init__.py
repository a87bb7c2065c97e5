"""Packed weights: only the kept ones, and what is needed to know where they belong.

Every format keeps its `values` in the same order, that of the mask: filter by filter, and in a
filter by input channel and tap. `pack(weight, mask).to_dense()` is exactly `weight * mask`.
"""

from sparse_ops.formats.channel_pruned import ChannelPrunedWeight
from sparse_ops.formats.csr import CSRWeight
from sparse_ops.formats.periodic import PeriodicWeight

PackedWeight = CSRWeight | PeriodicWeight | ChannelPrunedWeight

# By the name that stands in packed files.
FORMATS: dict[str, type[CSRWeight] | type[PeriodicWeight] | type[ChannelPrunedWeight]] = {
    "csr": CSRWeight,
    "periodic": PeriodicWeight,
    "channel_pruned": ChannelPrunedWeight,
}

__all__ = ["FORMATS", "CSRWeight", "ChannelPrunedWeight", "PackedWeight", "PeriodicWeight"]
