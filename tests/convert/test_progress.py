import time

import pytest
import torch

import sparse_ops as so
from sparse_ops.planning import progress
from tests.convert.models import EXAMPLE, masks_of_net, net, says


@pytest.mark.parametrize(("pause", "lines"), [(0.0, 3), (1e6, 0)])
def test_without_a_terminal_progress_is_a_line_from_time_to_time(monkeypatch, capsys, pause, lines):
    monkeypatch.setattr(progress, "PAUSE", pause)
    with progress.steps("planning", 60) as step:
        for name in ("tracing", "whole programs", "dense [forms]"):
            step(name)
    said = capsys.readouterr()
    assert said.err.count("planning, ") == lines and not said.out
    assert ("planning, 0 s: dense [forms]\n" in said.err) == (lines > 0)


def test_what_takes_long_is_named_however_early_it_began(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.2)
    with progress.steps("planning", 60) as step:
        step("short")
        step("long")
        time.sleep(0.6)
    assert capsys.readouterr().err == "planning, 0 s: long\n"


def test_nothing_is_said_once_it_is_over(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.2)
    with progress.steps("planning", 60) as step:
        step("short")
    time.sleep(0.4)
    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_nothing_is_wanted(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    with progress.steps("planning", 60, show=False) as step:
        step("tracing")
    assert capsys.readouterr() == ("", "")


def test_planning_names_its_steps(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    so.plan(net(), torch.randn(EXAMPLE), masks_of_net(), measure=says(2.0))
    said = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    for name in ("reading the zeros", "tracing", "removing channels", "dense forms", "layer fc"):
        assert name in said
    assert said.index("tracing") < said.index("removing channels") < said.index("layer fc")


def test_on_a_terminal_the_bar_names_what_is_being_done(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress.steps("planning", 60) as step:
        step("dense [forms]")
        time.sleep(0.3)
    said = capsys.readouterr()
    assert "of 60 s" in said.err and "planning: dense [forms]" in said.err and not said.out
