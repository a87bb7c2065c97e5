import pytest

from sparse_ops.convert import progress


@pytest.mark.parametrize(("pause", "lines"), [(0.0, 3), (1e9, 0)])
def test_without_a_terminal_progress_is_a_line_from_time_to_time(monkeypatch, capsys, pause, lines):
    monkeypatch.setattr(progress, "PAUSE", pause)
    with progress.steps("timing", 3) as step:
        for _ in range(3):
            step()
    said = capsys.readouterr()
    assert said.err.count("timing: ") == lines and not said.out
    assert ("timing: 3 of 3" in said.err) == (lines > 0)


def test_nothing_is_said_where_nothing_is_wanted(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    with progress.steps("timing", 1, show=False) as step:
        step()
    assert capsys.readouterr() == ("", "")
