import pytest

from sparse_ops.planning.floors import Floors, measure_floors


def test_the_floor_is_the_larger_of_arithmetic_and_memory():
    floors = Floors(peak=1e9, bandwidths={1000: 4e9, 10_000: 2e9})
    assert floors.milliseconds(macs=10**6, size=500) == pytest.approx(1.0)
    assert floors.milliseconds(macs=0, size=500) == pytest.approx(500 / 4e6)
    assert floors.milliseconds(macs=0, size=8_000) == pytest.approx(8_000 / 4e6)
    assert floors.milliseconds(macs=0, size=20_000) == pytest.approx(20_000 / 2e6)


def test_the_machine_has_a_peak_and_bandwidths():
    floors = measure_floors()
    # No machine that runs this does less than a hundred million of either a second.
    assert floors.peak > 1e8
    assert all(speed > 1e8 for speed in floors.bandwidths.values())
    assert list(floors.bandwidths) == sorted(floors.bandwidths)
