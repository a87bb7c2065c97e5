"""Images: parts of an example, for what has to be right and need not take long."""

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparse_ops.graph.inputs import Inputs
from sparse_ops.graph.running import first_run

# What is enough to see whether a model computes what another one does.
FEW = 2


def images_of(example: tuple[Any, ...]) -> int:
    """How many images an example has; 1 where its tensors are not of one batch."""
    content = [x for x in tree_leaves(tuple(example)) if isinstance(x, Tensor)]
    tensors = [x for x in example if isinstance(x, Tensor)]
    sizes = {x.shape[0] for x in tensors if x.dim()}
    return sizes.pop() if len(sizes) == 1 and len(content) == len(tensors) else 1


def first_images(example: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    """The first images of an example; all of it where it has no more, or no batch."""
    if images_of(example) <= most:
        return example
    few = tuple(x[:most] if isinstance(x, Tensor) and x.dim() else x for x in example)
    return example.like(few) if isinstance(example, Inputs) else few


def times_over(example: tuple[Any, ...], times: int) -> tuple[Any, ...]:
    """An example's images so many times, one after the other."""
    more = tuple(
        x.repeat(times, *[1] * (x.dim() - 1)) if isinstance(x, Tensor) and x.dim() else x
        for x in example
    )
    return example.like(more) if isinstance(example, Inputs) else more


def few_images(model: nn.Module, example: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first images of an example; all of it where the model does not run with those alone."""
    few = first_images(example, FEW)
    if few is example:
        return example
    try:
        first_run(model, few)
    except Exception:
        # Somebody's code, which may write down how many there are.
        return example
    return few
