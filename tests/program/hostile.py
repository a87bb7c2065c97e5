"""Programs that lie: run as a process, for a crash would end it. Arguments: first seed, last.

Prints how many were refused, and how many ran after all.
"""

import functools
import os
import random
import resource
import sys

import torch

from sparse_ops.ops import _native
from sparse_ops.ops import program as ops
from tests.program.random_programs import random_program

NUMBERS = (
    -(2**63),
    -2,
    -1,
    0,
    1,
    2,
    3,
    5,
    15,
    16,
    17,
    64,
    65,
    2**31 - 1,
    2**31,
    2**40,
    2**62,
    2**63 - 1,
)
# What may run: more would only take long.
MOST_BYTES = 1 << 24


def changed_numbers(encoded, choose):
    """Some numbers replaced; or some left out, or doubled, the length being told or not."""
    numbers = encoded.tolist()
    way = choose.random()
    if way < 0.8:
        for _ in range(choose.choice((1, 1, 1, 2, 4))):
            # Most of a program's first numbers are not those that steps see.
            at = choose.randrange(len(numbers))
            near = numbers[at] + choose.choice((-1, 1))
            near = choose.choice((near, choose.choice(numbers))) % 2**63
            numbers[at] = near if choose.random() < 0.5 else choose.choice(NUMBERS)
    else:
        first = choose.randrange(len(numbers))
        last = min(len(numbers), first + choose.randint(1, 8))
        numbers[first:last] = [] if way < 0.9 else numbers[first:last] * 2
        if choose.random() < 0.7 and len(numbers) > 8:
            numbers[8] = len(numbers)
    return torch.tensor(numbers, dtype=torch.int64)


def changed_constants(constants, choose):
    """One of the tensors with another number in it, of another size or type, or another tensor."""
    constants = [each.clone() for each in constants]
    if not constants:
        return constants
    at = choose.randrange(len(constants))
    one, way = constants[at], choose.randrange(6)
    if way == 0 and one.numel():
        one.view(-1)[choose.randrange(one.numel())] = choose.choice((-1, 0, 7, 10**6, 2**31 - 1))
    elif way == 1:
        constants[at] = one.flatten()[: choose.randint(0, one.numel())]
    elif way == 2:
        constants[at] = one.double() if one.is_floating_point() else one.long()
    elif way == 3:
        constants[at] = choose.choice(constants)
    elif way == 4:
        constants[at] = one.flip(0) if one.dim() else one
    else:
        del constants[at]
    return constants


def main(first, last):
    # Sizes that are too large fail here, not somewhere in the machine. A sanitizer needs more
    # addresses than that, and has a limit of its own.
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    torch.set_num_threads(1)
    backends = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]
    example = functools.lru_cache(maxsize=1)(random_program)
    refused = ran = 0
    for seed in range(first, last):
        choose = random.Random(seed)
        program, inputs = example(seed // 16)
        encoded, constants = program.encoded(), list(program.constants)
        if choose.random() < 0.75:
            encoded = changed_numbers(encoded, choose)
        else:
            constants = changed_constants(constants, choose)
        try:
            said = ops.describe(encoded, constants, [x.shape for x in inputs])
            if said.arena + sum(value.bytes for value in said.values) <= MOST_BYTES:
                ops.run(inputs, encoded, constants, choose.choice(backends))
                ran += 1
        except RuntimeError:
            refused += 1
    print(refused, ran)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
