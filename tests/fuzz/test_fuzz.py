"""The fuzzer finds what is planted and makes it small; some cases of each kind; and what was found.

In processes of their own: they fork, which is not for those whose torch has begun threads.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import KINDS

FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))


def fuzz(*arguments):
    command = [sys.executable, "-m", "tests.fuzz", *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


def test_errors_and_crashes_are_found_and_made_small(tmp_path):
    done = fuzz("planted", "--cases", 30, "--seed", 1, "--found", tmp_path)
    assert done.returncode == 1 and "--seed 1" in done.stdout
    found = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    ways = {each["failure"].split("\n")[0]: each for each in found}
    assert set(ways) == {"failed: ZeroDivisionError in check of planted.py", "failed: signal 6"}
    for way, each in ways.items():
        numbers = each["case"]["numbers"]
        # Halved and counted down to the smallest that fails.
        assert numbers == [90] and each["case"]["unused"] == []
        assert each["case"]["way"] == ("dies" if "6" in way else "raises")


@pytest.mark.parametrize(
    ("way", "least_used", "most_used", "expected"),
    [
        ("waits", 0.05, 1e9, "failed: no end in 1000000000 s"),
        ("spins", -1, 0.2, "failed: no end in 0 s"),
        # Where others have the processor, a case takes long without having used much of it.
        ("works", -1, 1e9, "None"),
    ],
)
def test_what_waits_for_ever_or_works_for_ever_is_stopped(way, least_used, most_used, expected):
    code = (
        "from tests.fuzz import campaign\n"
        f"campaign.SECONDS_OF_SILENCE, campaign.LEAST_USED = 0.1, {least_used}\n"
        f"campaign.SECONDS_OF_A_CASE = {most_used}\n"
        f"print(campaign.failure('planted', {{'numbers': [99], 'way': '{way}'}}))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == expected, done.stderr


def test_some_cases_of_every_kind(tmp_path):
    report = tmp_path / "report.json"
    done = fuzz("--cases", 5, "--seed", 7, "--found", tmp_path / "found", "--report", report)
    assert done.returncode == 0, done.stdout + done.stderr
    reports = json.loads(report.read_text())
    assert [each["kind"] for each in reports] == list(KINDS)
    assert all(each["cases"] == 5 and sum(each["outcomes"].values()) == 5 for each in reports)


@pytest.mark.slow
def test_many_cases_of_every_kind(tmp_path):
    done = fuzz("--seconds", 120, "--found", tmp_path / "found")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_found_is_not_there_any_more():
    code = (
        "import json, sys; from tests.fuzz import campaign\n"
        "for path in sys.argv[1:]:\n"
        "    each = json.load(open(path)); campaign.module_of(each['kind'])\n"
        "    how = campaign.failure(each['kind'], each['case'])\n"
        "    if how: print(path, how)"
    )
    command = [sys.executable, "-c", code, *map(str, FOUND)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert FOUND and done.returncode == 0 and not done.stdout, done.stdout + done.stderr
