"""Python in a process of its own: what is found once, at import, can be something else there."""

import os
import subprocess
import sys


def python(code, **environment):
    """What the code prints; an AssertionError with what it says if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_a_backend(before, backend, **environment):
    """What a layer gives and says where a backend is missing.

    Args:
        before: code that takes the backend away, run before sparse_ops is imported.

    Returns:
        (the shape of y by another backend, the error of the one that is missing), as text.
    """
    code = f"""{before}
import torch, sparse_ops
layer = sparse_ops.nn.PeriodicConv2d(8, 8, 3, pattern=sparse_ops.patterns.PSD2_P8)
print(tuple(layer(torch.randn(1, 8, 5, 5)).shape))
layer.backend = {backend!r}
try:
    layer(torch.randn(1, 8, 5, 5))
except RuntimeError as error:
    print(error)
"""
    return python(code, **environment).splitlines()
