"""CUDA graphs: calls that are recorded once and replayed, so that the host launches one thing.

Whoever replays one writes to the tensors that the call was recorded with, and reads what it gave.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Given = TypeVar("Given")

# What a library works out at a first call, and what torch does before it is recorded.
WARM_UPS = 3


def record(call: Callable[[], Given]) -> tuple[Any, Given]:
    """(a CUDA graph of the call, what the call gave, which each replay writes anew).

    Raises:
        RuntimeError: the call cannot be recorded: it waits for the device, say.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        given = call()
    return graph, given
