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


def worth_it(roles: dict[fx.Node, Role], sizes: Mapping[fx.Node, int]) -> dict[fx.Node, Role]:
    """Those of the nodes, in order, that gain by being in a stretch.

    Args:
        sizes: how many numbers each node gives.
    """
    left = dict(roles)
    while useless := [*_turning_more(left, sizes), *_without_a_row(left)]:
        for node in useless:
            left.pop(node, None)
    return left


def _turning_more(roles: dict[fx.Node, Role], sizes: Mapping[fx.Node, int]) -> list[fx.Node]:
    """A node without which no more numbers enter and leave, or none: where it is, it is no gain."""
    for node, role in roles.items():
        if role.kind == CONVOLUTION:
            # It turns images around itself if nobody else does.
            continue
        within = sizes[node] if _leaves(roles, node) or not role.gives_blocked else 0
        without = sizes[node] if role.gives_blocked and _wanted(roles, node) else 0
        for given in set(role.operands):
            if not hands_on(roles, given):
                within += sizes[given] if _wanted(roles, given) == 1 else 0
            elif not _leaves(roles, given):
                without += sizes[given]
        if without <= within:
            return [node]
    return []


def _leaves(roles: Mapping[fx.Node, Role], node: fx.Node) -> bool:
    """Whether what a node gives is needed outside."""
    return any(user not in roles for user in node.users)


def _wanted(roles: Mapping[fx.Node, Role], node: fx.Node) -> int:
    """How many of these want blocked what a node gives."""
    return sum(user in roles for user in node.users)


def _without_a_row(roles: dict[fx.Node, Role]) -> list[fx.Node]:
    """What no convolution comes before, and all groups with too few of them in a row."""
    row: dict[fx.Node, int] = {}
    for node, role in roles.items():
        before = [row[each] for each in role.operands if hands_on(roles, each)]
        row[node] = max(before, default=0) + (role.kind == CONVOLUTION)
    useless = [node for node in roles if not row[node]]
    for group in connected(roles, list(roles), through_operands=False):
        if max(row[node] for node in group) < FEWEST_IN_A_ROW:
            useless += group
    return useless
