"""What weight decay leaves of a weight that the loss does not move, under SGD with momentum.

    z ← momentum · z + weight_decay · w
    w ← w - rate · z            with Nesterov: w - rate · (weight_decay · w + momentum · z)

Slowly, that is a loss of rate · weight_decay / (1 - momentum) a step. But momentum also keeps a
weight going. In few steps, or at a decay above about (1 - momentum)² / (4 · rate), it swings
through zero and back, and no decay makes it smaller than momentum to the power of half the steps.
"""

from collections.abc import Sequence

import numpy as np

# Above it decay is stronger than any loss: a hundred times what networks are trained with.
MOST = 0.05

Rates = Sequence[tuple[float, int]]


def left_over(rates: Rates, momentum: float, weight_decay: float, nesterov: bool = False) -> float:
    """The most that is left at the end of a weight of 1 that rests from some early step on.

    Early is the first tenth of the steps: all that begin together swing through zero together, and
    one that happens to end there says nothing of the others.

    Args:
        rates: (learning rate, how many steps), one after the other; `Course.rates`.
    """
    total, passed, most = sum(count for _, count in rates), 0, 0.0
    steps = []
    for rate, count in rates:
        steps.append(
            (passed, np.linalg.matrix_power(_step(rate, momentum, weight_decay, nesterov), count))
        )
        passed += count
    rest = np.eye(2)
    for begin, step in reversed(steps):
        rest = rest @ step
        if begin <= total / 10:
            most = max(most, abs(float(rest[0, 0])))
    return most if rates else 1.0


def least_decay(
    rates: Rates, momentum: float, nesterov: bool, *, goal: float, begin: float, most: float = MOST
) -> float:
    """The least weight decay, from `begin` on, that leaves no more than `goal`; at most `most`.

    Where none does, the one that leaves least: whoever takes it should look at `left_over` again.
    """
    best, least, now = begin, float("inf"), begin
    while now <= max(most, begin):
        left = left_over(rates, momentum, now, nesterov)
        if left <= goal:
            return now
        if left < least:
            best, least = now, left
        now *= 1.1
    return best


def _step(rate: float, momentum: float, weight_decay: float, nesterov: bool) -> np.ndarray:
    """(w, z) → (w, z)."""
    kept = 1 + momentum if nesterov else 1.0
    inertia = momentum * momentum if nesterov else momentum
    return np.array([[1 - rate * weight_decay * kept, -rate * inertia], [weight_decay, momentum]])
