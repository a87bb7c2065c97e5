"""Decisions: how every node of a graph runs, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparse_ops.graph.ir import Graph
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.pack import pack
from sparse_ops.passes.winograd import SMALL, TILES


@dataclass(frozen=True)
class Decisions:
    """How every node runs.

    Attributes:
        forms: (layer, form of its weight), of those that are packed; see `passes.pack.FORMS`.
        orders: (node, order of what it gives), of those that programs run.
        small: the same for batches that leave blocks of images too empty.
        piece: how many images run at a time; 0: all.
        winograd: the tiles of dense 3×3 convolutions, one of `passes.winograd.TILES`.
    """

    forms: tuple[tuple[str, str], ...] = ()
    orders: tuple[tuple[str, int], ...] = ()
    small: tuple[tuple[str, int], ...] = ()
    piece: int = 0
    winograd: str = SMALL

    def as_data(self) -> dict[str, Any]:
        """As lists and numbers."""
        return {
            "forms": [list(each) for each in self.forms],
            "orders": [list(each) for each in self.orders],
            "small": [list(each) for each in self.small],
            "piece": self.piece,
            "winograd": self.winograd,
        }

    @classmethod
    def from_data(cls, data: Any) -> "Decisions":
        """The inverse.

        Raises:
            ValueError: these are no decisions.
        """
        good = isinstance(data, dict) and type(data.get("piece")) is int and data["piece"] >= 0
        parts: list[tuple[tuple[str, Any], ...]] = []
        for name, kind in (("forms", str), ("orders", int), ("small", int)):
            part = data.get(name) if good else None
            good = isinstance(part, list) and all(
                isinstance(each, list) and len(each) == 2 and type(each[0]) is str
                and type(each[1]) is kind
                for each in part
            )  # fmt: skip
            if not good:
                raise ValueError(f"decisions must have {name!r}, a list of pairs, got {data!r:.80}")
            assert isinstance(part, list)
            parts.append(tuple((name, choice) for name, choice in part))
        if (winograd := data.get("winograd")) not in TILES:
            raise ValueError(f"decisions must have winograd, one of {TILES}, got {winograd!r:.80}")
        forms, orders, small = parts
        return cls(forms, orders, small, data["piece"], winograd)


def fused_and_packed(graph: Graph, forms: Mapping[str, str], masks: Mapping[str, Tensor]) -> Graph:
    """Another graph in which layers have the forms that were decided, and do what follows them."""
    own = graph.copy()
    fuse(own)
    pack(own, forms, masks)
    return own
