"""Runs the command line as a terminal does, for its tests."""

from typer.testing import CliRunner

from sparse_ops.cli.app import app


def run(*arguments, ok=True):
    """`sparse-ops ARGUMENTS`; it succeeds, or with ok=False fails without a traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if ok:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code in (1, 2), result.output
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit)
    return result
