"""Without compiled code only the reference is there; then it may be chosen, to test everything."""

import pytest

from sparse_ops.ops import _native
from sparse_ops.planning import candidates


@pytest.fixture(autouse=True)
def _reference_is_a_candidate(monkeypatch, request):
    if _native.MISSING is not None and "real_candidates" not in request.fixturenames:
        monkeypatch.setattr(candidates, "REFERENCE", "nothing")


@pytest.fixture
def real_candidates():
    """For tests that must see the candidates as a user does."""
