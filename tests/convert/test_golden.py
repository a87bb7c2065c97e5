import json

import pytest

from tests.convert import golden

GOLDEN = json.loads(golden.FILE.read_text())


# Of networks that are built alike one stands for all every day.
LARGE = ("vgg11", "vgg16", "vgg19", "resnet56")
CASES = [
    pytest.param(*case, marks=pytest.mark.slow if case[0] in LARGE else ()) for case in golden.CASES
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_decisions_are_those_that_were_recorded(name, kind):
    assert golden.decisions(name, kind) == GOLDEN[f"{name} {kind}"]
