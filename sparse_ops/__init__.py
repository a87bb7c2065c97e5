"""Pruned PyTorch networks, measured faster: methods that make masks, packed kernels that use them.

Weight-sparse, not spatially sparse: the zeros are in the weights, the activations are dense.
"""

from sparse_ops import formats, functional, masks, nn, patterns

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "formats",
    "functional",
    "masks",
    "nn",
    "patterns",
]
