"""Many at once, run as a process of its own: `python -m tests.faults.together NAME COUNT`."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

from sparse_ops.program.program import IMAGES
from tests.convert.small_networks import Residual, images
from tests.program.converted import converted

SIZES = (1, 2, 3, 5, 8, 13, 16, 17, 33)
THREADS = 32


def resident():
    """Bytes of memory that this process has."""
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def callers(count):
    """32 threads call one model, `count` times each, with batches of changing sizes."""
    torch.set_num_threads(1)
    model = converted(Residual, IMAGES)
    inputs = [images(size) for size in SIZES]
    with torch.no_grad():
        expected = [model(x) for x in inputs]

    @torch.inference_mode()
    def calls(first):
        for number in range(first, first + count // 2):
            at = number % len(SIZES)
            assert torch.equal(model(inputs[at]), expected[at]), SIZES[at]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(calls, range(THREADS)))
        warm = resident()
        list(pool.map(calls, range(THREADS)))
        grown = resident() / warm - 1
    print(f"{grown:.4f}")


@torch.no_grad()
def forked(count):
    """Children that are forked after a forward with two threads give what their parent gives."""
    torch.set_num_threads(2)
    model, x = converted(Residual, IMAGES), images(33)
    expected = model(x)
    for _ in range(count):
        child = os.fork()
        if child == 0:
            # The threads of torch's own operators do not outlive a fork; one is enough.
            torch.set_num_threads(1)
            os._exit(0 if torch.equal(model(x), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.equal(model(x), expected)
    print("equal")


if __name__ == "__main__":
    {"callers": callers, "forked": forked}[sys.argv[1]](int(sys.argv[2]))
