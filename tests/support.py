"""The table of what has run where, in docs/reliability.md.

    python -m tests.support ROOT SESSION RESULTS [COMPILER [FLAGS]]

ROOT is the checkout, RESULTS pytest's report (`--junit-xml`) in the Python that this runs in. Rows
are kept in tests/support.json, one of each session, with the day on which it last ran.
"""

import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROWS, PAGE = "tests/support.json", "docs/reliability.md"
BEGIN, END = "<!-- support -->", "<!-- /support -->"
COLUMNS = ("session", "day", "Python", "torch", "compiler", "kernels", "passed", "skipped")


def row(session, results, compiler="c++", flags=""):
    """What ran, by pytest's own report; raises ValueError if something failed."""
    import torch

    from sparse_ops.ops import _native

    suites = ElementTree.parse(results).getroot().iter("testsuite")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    if counts["failures"] or counts["errors"] or not counts["tests"]:
        raise ValueError(f"{session}: {counts}")
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return {
        "session": session,
        "day": datetime.date.today().isoformat(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "compiler": f"{said.stdout.splitlines()[0]} {flags}".strip(),
        "kernels": ", ".join(isa for isa in _native.ISAS if _native.REFUSES[isa] is None),
        "passed": counts["tests"] - counts["skipped"],
        "skipped": counts["skipped"],
    }


def table(rows):
    lines = [COLUMNS, ("---",) * len(COLUMNS), *([each[c] for c in COLUMNS] for each in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def with_table(text, rows):
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def main(root, session, *more):
    kept, page = Path(root, ROWS), Path(root, PAGE)
    rows = json.loads(kept.read_text()) if kept.exists() else []
    rows = [each for each in rows if each["session"] != session] + [row(session, *more)]
    rows.sort(key=lambda each: each["session"])
    kept.write_text(json.dumps(rows, indent=1) + "\n")
    page.write_text(with_table(page.read_text(), rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
