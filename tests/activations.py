"""The activations that tests of kernels go through."""

from sparse_ops.ops._activation import ACTIVATIONS, leaky_relu

ACTIVATION_NAMES = [*filter(None, ACTIVATIONS), leaky_relu(-0.3)]
