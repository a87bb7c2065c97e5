"""Faults that are there on purpose, to see that they are found."""

import os
import time

from tests.fuzz import NoCase

SIMPLER = {"way": ["raises", "dies", "waits", "spins", "works"]}


def draw(chance):
    numbers = [chance.randrange(100) for _ in range(8)]
    return {"numbers": numbers, "way": ("raises", "dies")[chance.randrange(2)], "unused": [[1, 2]]}


def check(case):
    if not case["numbers"]:
        raise NoCase
    if max(case["numbers"]) < 90:
        return "fine"
    if case["way"] == "raises":
        raise ZeroDivisionError(str(case["numbers"]))
    if case["way"] == "dies":
        os.abort()
    if case["way"] == "waits":
        time.sleep(1e6)
    # Longer than a test waits for a word; without end, or with one.
    while case["way"] == "spins" or time.process_time() < 0.3:
        pass
    return "fine"
