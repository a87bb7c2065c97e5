"""Rows of claims.json with what a verdict needs, and what is judged of them."""

from benchmarks._claim_finding import NOT_HERE
from benchmarks._claim_verdicts import judge


def row(case: str, speedup: float, batch: int = 1, **more) -> dict:
    return {
        "case": case,
        "batch": batch,
        "speedup": speedup,
        "low": 0.9 * speedup,
        "high": 1.1 * speedup,
        "ideal": 10.0,
        "dense_ms": 1.0,
        "packed_ms": 1.0 / speedup,
        "dense_form": "eager",
        "weights": 1000,
        "kept": 100,
        "kept_macs": 5,
        "bytes": {"dense_disk": 900, "packed_disk": 100, "dense_memory": 8, "planned_memory": 4},
        **more,
    }


def verdicts(*rows: dict) -> dict[tuple[str, str], tuple[str, float]]:
    found = judge({f"{r['case']}@{r['batch']}": r for r in rows})
    return {(f.claim, f.quantity): (f.verdict, f.measured) for f in found if f.verdict != NOT_HERE}
