"""Convolutions along lines, in a network that runs as programs.

Programs leave them to PyTorch, which calls their packed layers between. So they are decided one by
one, before the search.
"""

from sparse_ops.planning.assemble import LayerPlan
from sparse_ops.planning.choose import decide
from sparse_ops.planning.context import Context
from sparse_ops.planning.masked import watch
from sparse_ops.planning.progress import Step


def decide_lines(
    context: Context, rows: list[LayerPlan], budget_s: float, step: Step
) -> list[LayerPlan]:
    """The rows, with what becomes of each Conv1d."""
    names = [row.name for row in rows if row.kind == "Conv1d" and not row.reason]
    if not names:
        return rows
    modules = {name: context.base.get_submodule(name) for name in names}
    calls, share = watch(context.base, modules, context.example), budget_s / len(names)
    return [
        decide(context, row, calls[row.name], False, share, step) if row.name in modules else row
        for row in rows
    ]
