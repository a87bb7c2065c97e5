"""Channels of a graph: which are the same, which are constants, what reads them, which must stay.

Each node's rule says what it does to the channels that it is given; where there is none, and where
a rule is not sure, they stay as they are, and the reason is kept in words.
"""

from sparse_ops.graph.channel_analysis import Analysis, Unknown, hooked, label, module_of
from sparse_ops.graph.channel_rules import RULES
from sparse_ops.graph.ir import Graph

__all__ = ["Analysis", "Unanalysed", "analyse"]


class Unanalysed(Exception):
    """Nothing can be said of the channels of a graph; says why."""


def analyse(graph: Graph) -> Analysis:
    """What is known of all channels of a graph.

    Args:
        graph: not changed; of a masked model in eval mode.

    Raises:
        Unanalysed: its model has hooks that may read anything.
    """
    _check_hooks(graph)
    analysis = Analysis(graph)
    for node in graph.nodes:
        try:
            module = module_of(graph, node)
            if module is not None and hooked(module):
                raise Unknown(f"{label(node)} has hooks, which may read any channel")
            known = RULES[node.op](analysis, node)
        except Unknown as reason:
            analysis.give_up(node, str(reason))
            known = None
        except Exception as error:
            # Whatever somebody's code does that was not thought of here: the channels stay.
            analysis.give_up(node, f"{label(node)} cannot be followed: {error!r:.200}")
            known = None
        analysis.known[id(node.output)] = known
    analysis.keep(graph.outputs(), "the model gives it out")
    asked = [v for v in (*graph.inputs, *(n.output for n in graph.nodes)) if v.is_asked]
    analysis.keep(asked, "the model's code does one thing or another by its sizes")
    return analysis


def _check_hooks(graph: Graph) -> None:
    """Raises Unanalysed if a module has hooks that is no node's, nor inside one."""
    called = {node.module for node in graph.nodes if node.module is not None}
    for name, module in graph.root.named_modules():
        parts = name.split(".")
        inside = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        if hooked(module) and not inside & called:
            raise Unanalysed(f"{name!r} has hooks")
