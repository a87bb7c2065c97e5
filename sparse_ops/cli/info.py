"""`sparse-ops info`."""

from rich.console import Console
from rich.table import Table


def info() -> None:
    """Shows this machine, and which kernels it can run."""
    import sparse_ops
    from sparse_ops.ops import _native
    from sparse_ops.report import machine

    here = machine()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("sparse_ops", sparse_ops.__version__)
    table.add_row("commit", here.commit or "not a git checkout")
    table.add_row("torch", here.torch)
    table.add_row("python", here.python)
    table.add_row("system", here.system)
    table.add_row("CPU", here.cpu)
    table.add_row("cores, threads", f"{here.cores}, {here.threads}")
    table.add_row("compiled kernels", _native.MISSING or "here")
    for isa in _native.ISAS:
        table.add_row(isa, here.refused.get(isa, "runs here"))
    Console().print(table)
