"""The command line: `sparse-ops train | convert | bench | report` and others, a file each."""


def main() -> None:
    """Runs the command line. A user's mistake is one line and exit code 1 or 2, no traceback."""
    from sparse_ops.cli.app import app

    app(prog_name="sparse-ops")
