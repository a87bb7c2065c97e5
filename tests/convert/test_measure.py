import random
import time

import pytest
import torch

from sparse_ops.planning import measure
from sparse_ops.planning.measure import Comparison, compare, flushes_denormals, quantile


def test_a_callable_that_does_less_is_found_faster():
    result = compare(lambda: time.sleep(4e-3), lambda: time.sleep(1e-3), budget_s=0.05)
    assert isinstance(result, Comparison)
    assert result.speedup > 1 and result.low <= result.speedup <= result.high
    assert result.pairs >= 3


def test_of_few_pairs_the_smallest_ratio_counts(monkeypatch):
    # Calls that are too slow to be repeated: two to see that, then dense, packed, dense, packed.
    seconds = iter([1.0, 1.0, 5.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(measure, "_turn", lambda call, repeats: (next(seconds),) * 2)
    monkeypatch.setattr(measure.time, "perf_counter", iter([0.0, 0.0, 1.0, 9.0]).__next__)
    result = compare(lambda: None, lambda: None, budget_s=1.0)
    assert (result.pairs, result.low, result.speedup, result.high) == (2, 0.5, 0.5, 5.0)


@pytest.mark.parametrize("pair_s", [0.01, 0.3])
def test_the_speed_up_of_a_whole_model_is_in_its_interval_when_measured_again(pair_s, monkeypatch):
    """Times with 10 % of noise, fast calls and slow ones, on a clock of our own."""
    noise, now = random.Random(0), [0.0]

    def turn(call, repeats):
        seconds = repeats * pair_s * noise.lognormvariate(0.0, 0.1)
        now[0] += seconds
        return seconds, seconds

    monkeypatch.setattr(measure, "_turn", turn)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def found():
        return compare(lambda: None, lambda: None, 2.0, measure.PAIRS_OF_WHOLE)

    pairs = [(found(), found()) for _ in range(300)]
    held = sum(one.low <= other.speedup <= one.high for one, other in pairs)
    assert held >= 0.95 * len(pairs)
    assert max(one.pairs for one, _ in pairs) < 10 or pair_s < 0.1


def test_denormals_are_flushed_inside_only():
    seen = []
    before = flushes_denormals()
    compare(lambda: seen.append(flushes_denormals()), lambda: None, budget_s=0.01)
    assert all(seen) and flushes_denormals() == before


def test_no_gradients_are_recorded():
    seen = []
    compare(lambda: seen.append(torch.is_inference_mode_enabled()), lambda: None, budget_s=0.01)
    assert all(seen)


def test_quantiles_lie_between_neighbours():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.25) == 1.25
    assert quantile([5.0], 0.9) == 5.0
