"""Triton and CUDA C++ kernels and their launchers, installed as `sparse_ops.kernels`.

A file here imports torch and triton, and nothing of sparse_ops. It keeps no state, but for what is
compiled, and registers nothing. CUDA C++ (`cuda/`) is compiled at run time, by NVRTC; its launchers
do without Triton. All kernels:

* add up in float32, whatever the type of x, and round once;
* take 64-bit offsets, so that tensors may have over 2^31 elements;
* check every index that they read, or are told of a weight by tables made of checked indices: one
  that is out of range adds nothing, and reads nothing;
* give the same bits each time: no atomics.

None of them has been timed on a GPU yet.
"""
