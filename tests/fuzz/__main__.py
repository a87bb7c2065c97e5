"""`python -m tests.fuzz [kind ...] --seconds 600`: see `tests.fuzz`."""

import argparse
import json
import time
from pathlib import Path

from tests.fuzz import KINDS, campaign

FOUND = Path(__file__).parent / "found"
# A kind's turn, within which its seeds follow each other.
TURN_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--seconds", type=float, default=600.0, help="for all kinds together")
    parser.add_argument("--seed", type=int, help="the first; default: from the clock, printed")
    parser.add_argument("--cases", type=int, default=10**9, help="the most of each kind")
    parser.add_argument("--found", type=Path, default=FOUND, help="where findings are written")
    parser.add_argument("--report", type=Path, help="a JSON file for the counts")
    given = parser.parse_args()
    first = int(time.time()) * 1000 if given.seed is None else given.seed
    print(f"seeds from {first} on: python -m tests.fuzz {' '.join(given.kinds)} --seed {first}")
    for kind in given.kinds:
        # Imported before the first fork, so that children need not.
        campaign.module_of(kind)
    reports: dict[str, campaign.Report] = {}
    begun, turns = time.monotonic(), max(1, round(given.seconds / TURN_S / len(given.kinds)))
    for turn in range(turns):
        for place, kind in enumerate(given.kinds):
            # What shrinking has taken is taken from all who come later.
            left = begun + given.seconds - time.monotonic()
            share = left / ((turns - turn) * len(given.kinds) - place)
            whole = reports.setdefault(kind, campaign.Report(kind, first))
            most = given.cases - whole.cases
            part = campaign.run(kind, share, first + whole.cases, given.found, most)
            whole.cases, whole.seconds = whole.cases + part.cases, whole.seconds + part.seconds
            whole.outcomes += part.outcomes
            whole.findings += part.findings
    for report in reports.values():
        outcomes = ", ".join(f"{n} {what}" for what, n in report.outcomes.most_common())
        print(f"{report.kind}: {report.cases} cases in {report.seconds:.0f} s: {outcomes}")
    if given.report:
        data = [vars(report) for report in reports.values()]
        given.report.write_text(json.dumps(data, indent=1))
    if any(report.findings for report in reports.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
