"""A claim beside a measurement, and the three ways in which one is held against the other."""

from dataclasses import dataclass
from typing import Any

HOLDS, SHORT, REFUTED, NOT_HERE = "holds", "falls short", "refuted", "cannot be tested here"


@dataclass(frozen=True)
class Finding:
    """One claim beside what was measured.

    Attributes:
        source: whose claim; claim: in our words.
        quantity, unit: what was measured, and in what.
        claimed: the figure; None where the claim is an order or has none.
        measured: ours; low, high: 10th and 90th percentile, where it is a ratio of times.
        verdict: one of the four above; why: in words.
        rows: the measurements it rests on.
    """

    source: str
    claim: str
    quantity: str
    unit: str
    claimed: float | None
    measured: float | None
    low: float | None
    high: float | None
    verdict: str
    why: str
    rows: tuple[str, ...]


def factor_finding(
    source: str, claim: str, quantity: str, claimed: float, measured: float, key: str, why: str = ""
) -> Finding:
    """A factor that was counted, not timed; claims have two figures, so a hundredth is nothing."""
    verdict = HOLDS if measured >= 0.99 * claimed else SHORT
    return Finding(
        source, claim, quantity, "×", claimed, measured, None, None, verdict, why, (key,)
    )


def time_finding(source: str, claim: str, claimed: float, key: str, row: dict[str, Any]) -> Finding:
    """A factor as a ratio of times: it holds if the median reaches it."""
    verdict = HOLDS if row["speedup"] >= claimed else SHORT
    why = (
        f"batch {row['batch']}: {row['dense_ms']:.3f} ms dense ({row['dense_form']}), "
        f"{row['packed_ms']:.3f} ms packed; {row['ideal']:.1f}× fewer operations"
    )
    figures = row["speedup"], row["low"], row["high"]
    return Finding(source, claim, "time", "×", claimed, *figures, verdict, why, (key,))


def order_finding(
    source: str,
    claim: str,
    quantity: str,
    unit: str,
    measured: float,
    why: str,
    keys: tuple[str, ...],
    equal: float = 0.0,
) -> Finding:
    """A claim that one thing is better than another: it holds if the figure is above `equal`."""
    verdict = HOLDS if measured > equal else SHORT
    return Finding(source, claim, quantity, unit, None, measured, None, None, verdict, why, keys)
