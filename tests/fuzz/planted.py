"""Faults that are there on purpose, to see that they are found."""

import os
import time

from tests.fuzz import NoCase

SIMPLER = {"way": ["raises", "dies", "hangs"]}


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
    time.sleep(1e6)
