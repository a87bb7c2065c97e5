"""Winograd: which tiles dense 3×3 convolutions of programs may be computed in.

F(2×2, 3×3) takes 16 products where 36 are asked for and rounds about as a plain sum does.
F(4×4, 3×3) takes 36 where there are 144, and its errors are 3 to 8 times as large
(benchmarks/NOTES.md): it is used by those who ask for it. Lavin and Gray, arXiv:1509.09308.
"""

from sparse_ops.graph.ir import Graph
from sparse_ops.ops._program_code import KERNELS

SMALL, LARGE = "2x2", "4x4"
TILES = (SMALL, LARGE)
# How many times as large errors may be, then.
LARGE_TILES_FACTOR = 8.0


def allow_tiles(graph: Graph, tiles: str) -> None:
    """Lets the convolutions of a graph be computed in such tiles where that is faster, in place."""
    for node in graph.nodes:
        about = node.attributes
        if node.op == "conv2d" and about["shape"][2:] == (3, 3) and tiles == LARGE:
            about["way"] = KERNELS[LARGE]


def tiles_of(graph: Graph) -> str:
    """The tiles that the convolutions of a graph may be computed in."""
    ways = {node.attributes.get("way") for node in graph.nodes}
    return LARGE if KERNELS[LARGE] in ways else SMALL
