"""Figures of single tensors: columns of a log, named `kind:tensor`, as in `kept:fc1.weight`.

They are for the log and the report; a line on the error stream leaves them out.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor


def by_tensor(kind: str, values: Mapping[str, float]) -> dict[str, float]:
    """A column for each tensor."""
    return {f"{kind}:{name}": value for name, value in values.items()}


def kept_by_tensor(masks: Mapping[str, Tensor], whole: Iterable[str] = ()) -> dict[str, float]:
    """Columns `kept:tensor`, each the fraction of its weights that a mask keeps.

    Args:
        whole: names of tensors that are not masked yet, in the order of the columns.
    """
    # 9 ms for the 22 million weights of VGG11, whose steps take 3 s: one core, batches of 128.
    shares = {name: int(mask.count_nonzero()) / mask.numel() for name, mask in masks.items()}
    return by_tensor("kept", dict.fromkeys(whole, 1.0) | shares)


def of_one_tensor(name: str) -> bool:
    """Whether a column is of a single tensor."""
    return ":" in name
