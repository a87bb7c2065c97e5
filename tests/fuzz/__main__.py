"""`python -m tests.fuzz [kind ...]`, for `--seconds` or for `--cases`: see `tests.fuzz`."""

import argparse
import json
import os
import time
from pathlib import Path

# Where others work, too, threads that wait would take the time of those that do: read by OpenMP
# when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tests.fuzz import KINDS, campaign

FOUND = Path(__file__).parent / "found"
SECONDS = 600.0
# A kind's turn, within which its seeds follow each other.
TURN_S = 60.0
WITHOUT_END = 10**9


def main() -> None:
    given = arguments()
    first = int(time.time()) * 1000 if given.seed is None else given.seed
    print(f"seeds from {first} on: python -m tests.fuzz {' '.join(given.kinds)} --seed {first}")
    campaign.prepare(given.kinds)
    reports = {kind: campaign.Report(kind, first) for kind in given.kinds}
    begun = time.monotonic()
    while open_kinds := [kind for kind in given.kinds if reports[kind].cases < given.cases[kind]]:
        left = begun + given.seconds - time.monotonic()
        if left <= 0:
            break
        for place, kind in enumerate(open_kinds):
            # What shrinking has taken is taken from all who come later.
            left = begun + given.seconds - time.monotonic()
            share = min(TURN_S, left / (len(open_kinds) - place))
            campaign.run(reports[kind], share, given.found, given.cases[kind])
            print(
                f"{kind}: {reports[kind].cases} cases in {reports[kind].seconds:.0f} s", flush=True
            )
            if given.report:
                data = [vars(report) for report in reports.values()]
                given.report.write_text(json.dumps(data, indent=1))
    print(table(reports.values()))
    if any(report.findings for report in reports.values()):
        raise SystemExit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=", ".join(KINDS))
    parser.add_argument("--seconds", type=float, help="for all kinds together; default: 600")
    parser.add_argument(
        "--cases", nargs="+", help="of every kind, or networks=10000 files=100000, and no others;"
        " without --seconds as long as they take",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="the first; default: from the clock, printed")
    parser.add_argument("--found", type=Path, default=FOUND, help="where findings are written")
    parser.add_argument(
        "--report", type=Path, help="a JSON file for the counts, written as it goes"
    )
    given = parser.parse_args()
    counts = dict(pair.split("=") for pair in given.cases or () if "=" in pair)
    most = next((int(pair) for pair in given.cases or () if "=" not in pair), WITHOUT_END)
    given.kinds = given.kinds or list(counts) or list(KINDS)
    given.cases = {kind: int(counts.get(kind, most)) for kind in given.kinds}
    if given.seconds is None:
        counted = max(given.cases.values()) < WITHOUT_END
        given.seconds = float(WITHOUT_END) if counted else SECONDS
    return given


def table(reports):
    """The counts in Markdown, for docs/reliability.md."""
    lines = [
        "| kind | cases | seconds | a second | what came of them | findings |",
        "|" + "---|" * 6,
    ]
    for report in reports:
        outcomes = ", ".join(f"{n} {what}" for what, n in report.outcomes.most_common())
        rate = report.cases / max(report.seconds, 1e-3)
        lines.append(
            f"| {report.kind} | {report.cases} | {report.seconds:.0f} | {rate:.3g} | {outcomes} "
            f"| {len(report.findings)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
