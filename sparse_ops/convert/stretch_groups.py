"""Which nodes of a graph are one stretch, and which of them gain by being in one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from sparse_ops.convert.stretch_nodes import CONVOLUTION, Role

# With fewer convolutions in a row there is nothing to hand on.
FEWEST_IN_A_ROW = 2


class Groups:
    """Things that belong together."""

    def __init__(self) -> None:
        self._leader: dict[Any, Any] = {}

    def of(self, thing: Any) -> Any:
        """What stands for the group of this one."""
        leader = self._leader.setdefault(thing, thing)
        while self._leader[leader] is not leader:
            leader = self._leader[leader]
        return leader

    def join(self, things: Iterable[Any]) -> None:
        first, *others = things
        for each in others:
            self._leader[self.of(each)] = self.of(first)


def connected(
    roles: Mapping[fx.Node, Role], nodes: Sequence[fx.Node], through_operands: bool
) -> list[list[fx.Node]]:
    """The nodes group by group, in order.

    Args:
        through_operands: whether nodes are together, too, that want the same tensor from outside.
    """
    groups = Groups()
    for node in nodes:
        for given in roles[node].operands:
            if hands_on(roles, given):
                groups.join([node, given])
            elif through_operands:
                # Not the node itself: that may be in a stretch that it does not hand on.
                groups.join([node, (given,)])
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        found.setdefault(groups.of(node), []).append(node)
    return list(found.values())


def hands_on(roles: Mapping[fx.Node, Role], node: fx.Node) -> bool:
    """Whether a node is one of these, and gives a blocked tensor."""
    return node in roles and roles[node].gives_blocked


def worth_it(roles: dict[fx.Node, Role]) -> dict[fx.Node, Role]:
    """Those of the nodes, in order, that gain by being in a stretch."""
    while True:
        # How many convolutions there are in a row up to each node, and whether one comes after it.
        row: dict[fx.Node, int] = {}
        for node, role in roles.items():
            before = [row[each] for each in role.operands if hands_on(roles, each)]
            row[node] = max(before, default=0) + (role.kind == CONVOLUTION)
        leads: set[fx.Node] = set()
        for node in reversed(roles):
            needed = roles[node].kind == CONVOLUTION or leads.intersection(node.users)
            if needed and roles[node].gives_blocked:
                leads.add(node)
        useless = {
            node
            for node, role in roles.items()
            if not row[node]
            or (node not in leads and not all(hands_on(roles, each) for each in role.operands))
        }
        for group in connected(roles, list(roles), through_operands=False):
            if max(row[node] for node in group) < FEWEST_IN_A_ROW:
                useless.update(group)
        if not useless:
            return roles
        roles = {node: role for node, role in roles.items() if node not in useless}
