"""Shaping: operations that join, cut, pad and turn tensors."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_ops.graph.ir import Node, Value
from sparse_ops.graph.spelling import (
    Meaning,
    Op,
    Spelled,
    Unlike,
    Way,
    images,
    number,
    plain,
    tensor,
)


def _read_flatten(call: Spelled) -> Meaning:
    """(N, C, H, W) -> (N, C * H * W), by flatten."""
    given = call.given(["input"], {"start_dim": 0, "end_dim": -1})
    x = images(given["input"])
    if plain(given["start_dim"]) not in (1, -3) or plain(given["end_dim"]) not in (-1, 3):
        raise Unlike("flattening other dimensions is not known")
    return Meaning([x], {"fixed": False})


def _read_view(call: Spelled) -> Meaning:
    """The same by view and reshape."""
    x, sizes = images(call.args[0]), call.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        sizes = tuple(sizes[0])
    whole = x.shape[1] * x.shape[2] * x.shape[3]  # type: ignore[index]
    if call.kwargs or len(sizes) != 2 or call.shape != (x.shape[0], whole):  # type: ignore[index]
        raise Unlike("the model's code writes down the shape that it wants")
    if type(sizes[1]) is int and sizes[1] == -1:
        return Meaning([x], {"fixed": False})
    if type(sizes[1]) is int:
        # As many as there were: with images of another size it is something else.
        return Meaning([x], {"fixed": True})
    raise Unlike("the model's code works out the shape that it wants")


def _evaluate_flatten(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].flatten(1)


def _read_cat(call: Spelled) -> Meaning:
    given = call.given(["tensors"], {"dim": 0})
    parts, dim = given["tensors"], plain(given["dim"])
    if not isinstance(parts, list | tuple) or type(dim) is not int:
        raise Unlike("what is concatenated is not known")
    values = [tensor(part) for part in parts]
    if dim % values[0].rank != 1 or values[0].rank not in (2, 4):
        raise Unlike("other things than channels are concatenated")
    return Meaning(values)


def _evaluate_cat(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(inputs), 1)


def _read_pad(call: Spelled) -> Meaning:
    given = call.given(["input", "pad"], {"mode": "constant", "value": 0})
    return _padding(given["input"], given["pad"], given["mode"], given["value"])


def _read_zero_pad(call: Spelled) -> Meaning:
    given = call.given(["input"], {"padding": 0, "value": 0})
    return _padding(given["input"], given["padding"], "constant", given["value"])


def _padding(x: Any, sizes: Any, mode: Any, value: Any) -> Meaning:
    x, sizes = images(x), plain(sizes)
    if mode != "constant" or not isinstance(sizes, list | tuple) or len(sizes) not in (2, 4):
        raise Unlike("padding of this kind is not known")
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise Unlike("padding that takes away is not known")
    left, right, top, bottom = (*sizes, 0, 0)[:4]
    about = {"sizes": (left, right, top, bottom), "value": number(0 if value is None else value)}
    return Meaning([x], about)


def _evaluate_pad(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return F.pad(inputs[0], node.attributes["sizes"], value=node.attributes["value"])


def _read_upsample(call: Spelled) -> Meaning:
    options = {"size": None, "scale_factor": None, "mode": "nearest", "align_corners": None}
    more = {"recompute_scale_factor": None, "antialias": False}
    given = call.given(["input"], options | ({} if call.module is not None else more))
    x = images(given["input"])
    if given.get("antialias") or given.get("recompute_scale_factor"):
        raise Unlike("upsampling in this way is not known")
    if given["mode"] not in ("nearest", "bilinear") or call.shape is None:
        raise Unlike(f"upsampling by {given['mode']!r} is not known")
    factor = plain(given["scale_factor"])
    if factor is None:
        raise Unlike("upsampling to a size is not known")
    both = [float(f) for f in (factor if isinstance(factor, list | tuple) else [factor] * 2)]
    if not all(f >= 1 and f == math.floor(f) for f in both):
        raise Unlike(f"upsampling by {both} is not known")
    scale = int(both[0]), int(both[1])
    about = {"mode": given["mode"], "scale": scale, "align": bool(given["align_corners"])}
    return Meaning([x], about)


def _evaluate_upsample(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    about = node.attributes
    align = about["align"] if about["mode"] == "bilinear" else None
    scale = [float(f) for f in about["scale"]]
    return F.interpolate(inputs[0], None, scale, about["mode"], align)


def _read_softmax(log: bool) -> Any:
    def read(call: Spelled) -> Meaning:
        given = call.given(["input"], {"dim": None, "dtype": None})
        x, dim = tensor(given["input"]), plain(given["dim"])
        if x.rank != 2 or dim not in (1, -1) or given.get("dtype") is not None:
            raise Unlike("softmax over other dimensions is not known")
        return Meaning([x], {"log": log})

    return read


def _evaluate_softmax(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return (F.log_softmax if node.attributes["log"] else F.softmax)(inputs[0], 1)


def _read_slice(call: Spelled) -> Meaning:
    """x[:, a:b], and one of the parts of chunk and split; `says` is how the code has it."""
    given = call.given(["input", "index"], {})
    x, index = given["input"], given["index"]
    if isinstance(x, Value) and x.shape is None:
        return _part(x, index)
    x, index = tensor(x), plain(index)
    if x.rank not in (2, 4) or not isinstance(index, tuple) or len(index) < 2:
        raise Unlike("indexing in this way is not known")
    whole = slice(None)
    channels = index[1]
    if any(part != whole for i, part in enumerate(index) if i != 1):
        raise Unlike("other things than channels are picked")
    if not isinstance(channels, slice) or channels.step not in (None, 1):
        raise Unlike("picking channels in this way is not known")
    ends = [end for end in (channels.start, channels.stop) if end is not None]
    if not all(type(end) is int for end in ends):
        raise Unlike("which channels are picked is not known")
    first, last, _ = channels.indices(x.shape[1])  # type: ignore[index]
    if last <= first:
        raise Unlike("no channel is picked")
    ends = [None if channels.start in (None, 0) else channels.start, channels.stop]
    return Meaning([x], {"first": first, "count": last - first, "says": ("slice", *ends)})


def _read_narrow(call: Spelled) -> Meaning:
    given = call.given(["input", "dim", "start", "length"], {})
    x, (dim, start, length) = tensor(given["input"]), plain([*given.values()][1:])
    if x.rank not in (2, 4) or dim not in (1, 1 - x.rank) or start < 0:
        raise Unlike("other things than channels are picked")
    says = ("slice", start or None, start + length)
    return Meaning([x], {"first": start, "count": length, "says": says})


_CUTS = ("chunk", "split", "split_with_sizes")


def _part(parts: Value, index: Any) -> Meaning:
    node = parts.producer
    name = (
        ""
        if node is None or node.call is None
        else str(getattr(node.call.target, "__name__", node.call.target))
    )
    if node is None or name not in _CUTS or type(index) is not int:
        raise Unlike("what is taken out of this is not known")
    assert node.call is not None
    given = dict(enumerate(node.call.args)) | node.call.kwargs
    x, sizes = node.inputs[0], parts.plain
    if given.get("dim", given.get(2, 0)) not in (1, 1 - x.rank) or x.rank not in (2, 4):
        raise Unlike("other things than channels are cut")
    if not isinstance(sizes, tuple):
        raise Unlike("what is cut is not known")
    channels = [size[1] for size in sizes]
    index %= len(channels)
    first, count = sum(channels[:index]), channels[index]
    says = ("chunk", index, len(channels)) if name == "chunk" else ("split",)
    return Meaning([x], {"first": first, "count": count, "says": says})


def _evaluate_slice(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].narrow(1, node.attributes["first"], node.attributes["count"])


def _read_shuffle(call: Spelled) -> Meaning:
    given = call.given(["input"], {"groups": 1})
    return Meaning([images(given["input"])], {"groups": int(plain(given["groups"]))})


def _evaluate_shuffle(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return F.channel_shuffle(inputs[0], node.attributes["groups"])


OPS: dict[str, Op] = {
    "flatten": Op(
        _evaluate_flatten,
        Way(_read_flatten, (nn.Flatten,), (torch.flatten,), ("flatten",)),
        Way(_read_view, (), (torch.reshape,), ("view", "reshape")),
        is_view=True,
    ),
    "concat": Op(_evaluate_cat, Way(_read_cat, (), (torch.cat, torch.concat, torch.concatenate))),
    "pad": Op(
        _evaluate_pad,
        Way(_read_pad, (), (F.pad,)),
        Way(_read_zero_pad, (nn.ZeroPad2d, nn.ConstantPad2d)),
    ),
    "upsample": Op(
        _evaluate_upsample,
        Way(
            _read_upsample,
            (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
            (F.interpolate,),
        ),
    ),
    "softmax": Op(
        _evaluate_softmax,
        Way(_read_softmax(False), (nn.Softmax,), (F.softmax, torch.softmax), ("softmax",)),
        Way(
            _read_softmax(True),
            (nn.LogSoftmax,),
            (F.log_softmax, torch.log_softmax),
            ("log_softmax",),
        ),
    ),
    "slice": Op(
        _evaluate_slice,
        Way(_read_slice, (), (operator.getitem,)),
        Way(_read_narrow, (), (torch.narrow,), ("narrow",)),
        is_view=True,
    ),
    "shuffle": Op(
        _evaluate_shuffle, Way(_read_shuffle, (nn.ChannelShuffle,), (F.channel_shuffle,))
    ),
}
