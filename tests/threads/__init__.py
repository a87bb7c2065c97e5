"""ThreadSanitizer over the kernels and the programs, without Python: `python -m tests.threads`.

Python draws the cases and works out their answers; `callers.cpp`, built with the sources in csrc/,
has many threads make them at once. torch's own code is not instrumented, and its parallel loops are
OpenMP's, which ThreadSanitizer takes for races: `callers.cpp` has a `torch_parallel_for` in their
place, of std::thread.
"""
