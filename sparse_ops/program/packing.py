"""Packing: how a network's outputs are put into tuples, lists and tables, as plain data.

number                  an output of the program
null                    None
{"tuple": [...]}, {"list": [...]}, {"dict": {"key": ...}}
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx.immutable_collections import immutable_dict, immutable_list

from sparse_ops.graph.ir import Value

# Deeper than any network packs what it gives.
DEEPEST = 16
MOST = 4096


def packing_of(output: Any, outputs: Sequence[Value]) -> Any:
    """How values are packed; ValueError if that is nothing that a file can say."""
    if output is None:
        return None
    if isinstance(output, Value):
        for number, value in enumerate(outputs):
            if value is output:
                return number
        raise ValueError("one of its outputs is given by no step of the program")
    if type(output) is tuple:
        return {"tuple": [packing_of(each, outputs) for each in output]}
    if type(output) in (list, immutable_list):
        return {"list": [packing_of(each, outputs) for each in output]}
    if type(output) in (dict, immutable_dict) and all(type(key) is str for key in output):
        return {"dict": {key: packing_of(each, outputs) for key, each in output.items()}}
    raise ValueError(f"it gives a {type(output).__name__}")


def packed(packing: Any, outputs: Sequence[Tensor]) -> Any:
    """The outputs as the network gives them."""
    if packing is None:
        return None
    if isinstance(packing, int):
        return outputs[packing]
    if "tuple" in packing:
        return tuple([packed(each, outputs) for each in packing["tuple"]])
    if "list" in packing:
        return [packed(each, outputs) for each in packing["list"]]
    return {key: packed(each, outputs) for key, each in packing["dict"].items()}


def check_packing(packing: Any, outputs: int, depth: int = 0) -> None:
    """Raises ValueError unless this says how that many outputs are packed."""
    if packing is None or (type(packing) is int and 0 <= packing < outputs):
        return
    if isinstance(packing, Mapping) and len(packing) == 1 and depth < DEEPEST:
        [(kind, parts)] = packing.items()
        listed = kind in ("tuple", "list") and isinstance(parts, list)
        if (listed or (kind == "dict" and isinstance(parts, dict))) and len(parts) <= MOST:
            for part in parts if listed else parts.values():
                check_packing(part, outputs, depth + 1)
            return
    raise ValueError(
        f"what the network gives must be made of numbers of {outputs} outputs, tuples, lists and "
        f"tables, got {packing!r:.80}"
    )
