"""What layers have to do and how long it takes them, from rows of results files, and roofs."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparse_ops.report.evidence import Roofs, Work
from sparse_ops.report.reading_rows import FORMATS

# Labels of benchmarks.layers: 64→128 3×3 @32 /2, and 784→300.
CONV = re.compile(r"(\d+)→(\d+) (\d+)×\d+ @(\d+)(?: /(\d+))?$")
LINEAR = re.compile(r"(\d+)→(\d+)$")
# Steps of programs -> the layers that they are, which have their colours.
STEPS = {"conv csr": "CSRConv2d", "conv periodic": "PeriodicConv2d", "linear csr": "CSRLinear"}


def roofs(content: Mapping[str, Any], source: str) -> Roofs | None:
    """Of a file of pytest's benchmarks, or of a plan or profile with `floors`; None of others."""
    if "macs_per_second" in content:
        return Roofs(source, content["macs_per_second"], content["bytes_per_second"])
    floors = content.get("floors")
    if not floors:
        return None
    speeds = {int(block): speed for block, speed in floors["bandwidths"].items()}
    # The largest block that was read fits no cache, or the last one only.
    return Roofs(source, floors["peak"], speeds[max(speeds)], max(speeds.values()))


def operators(rows: Sequence[Mapping[str, Any]], source: str) -> Iterator[Work]:
    """Rows of pytest's benchmarks."""
    for row in rows:
        if "operator" not in row or row["dense_form"] == "torch.sparse_csr":
            continue
        macs, moved = row.get("macs"), row.get("bytes")
        if macs is None:
            macs, moved = _by_label(row)
        if macs and moved:
            kind = FORMATS.get(row["operator"], row["operator"])
            name = f"{row['layer']}, {row['what']}, {row['backend']}, batch {row['batch']}"
            yield Work(source, "", kind, name, macs, moved, row["packed_ms"])


def _by_label(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(kept multiply-accumulates, bytes) of a row whose label tells the layer's shape."""
    batch, kept = row["batch"], row["kept"]
    if conv := CONV.match(row["layer"]):
        inputs, outputs, kernel, size, stride = (int(g or 1) for g in conv.groups())
        out = (size - 1) // stride + 1
        weights = kept * inputs * outputs * kernel**2
        moved = batch * (inputs * size**2 + outputs * out**2) + weights
        return batch * weights * out**2, 4 * moved
    if linear := LINEAR.match(row["layer"]):
        inputs, outputs = (int(g) for g in linear.groups())
        weights = kept * inputs * outputs
        return batch * weights, 4 * (batch * (inputs + outputs) + weights)
    return None, None


def planned(layers: Sequence[Mapping[str, Any]], source: str, group: str) -> Iterator[Work]:
    """Layers of a plan, as what they become: dense or packed."""
    for layer in layers:
        measured = layer.get("measured")
        if not measured or not layer["kept_macs"]:
            continue
        ms = measured["packed_ms" if layer["becomes"] else "dense_ms"]
        moved = layer.get("bytes") or _by_shape(layer)
        kind = layer["becomes"] or "dense is faster"
        name = layer["name"] or layer["kind"]
        yield Work(source, group, kind, name, layer["kept_macs"], moved, ms)


def _by_shape(layer: Mapping[str, Any]) -> float:
    """The bytes of the kept weights, the output, and an input of as many positions."""
    outputs, inputs, *_ = shape = layer["shape"]
    positions = layer["macs"] / math.prod(shape)
    return 4 * (layer["nnz"] + positions * (outputs + inputs))


def profiled(row: Mapping[str, Any], source: str, group: str) -> Iterator[Work]:
    """Steps of a program that multiply, of a row of `bench`, `sweep` or `demo`."""
    for step in (row.get("profile") or {}).get("rows", ()):
        if step["macs"] and step["bytes"] and step["ms"] > 0:
            form = step["kind"].partition(" + ")[0]
            kind = STEPS.get(form, form)
            yield Work(source, group, kind, step["name"], step["macs"], step["bytes"], step["ms"])
