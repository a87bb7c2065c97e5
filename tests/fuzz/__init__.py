"""Fuzzing: cases drawn from seeds, each in a process that may crash; what fails is made smaller.

`python -m tests.fuzz` (`make fuzz`) runs the kinds in `KINDS` by turns. A kind is a module with

    draw(chance) -> case    plain data, all that `check` needs
    check(case) -> str      what came of it, to be counted; raises what is a finding
    prepare()               optional: what is made once, before the first child
    SIMPLER                 key of a case -> values that are simpler than others, simplest first

A case that cannot be, as shrinking makes some, raises `NoCase`. What is found is written to
`tests/fuzz/found` as a file that `test_found.py` runs from then on.
"""

KINDS = ("networks", "operators", "files", "states")


class NoCase(Exception):
    """The case describes nothing that could be tried."""
