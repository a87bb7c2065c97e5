"""Rows of results files as timings and layers."""

from collections.abc import Sequence
from typing import Any

from sparse_ops.report.evidence import Layer, Timing

FORMATS = {
    "periodic": "PeriodicConv2d",
    "csr": "CSRConv2d",
    "channels": "ChannelPrunedConv2d",
    "linear": "CSRLinear",
}


def timings(content: dict[str, Any], source: str) -> list[Timing]:
    """Of pytest's benchmarks, of `benchmarks.networks`, or of `sparse-ops bench`."""
    found = []
    for row in content["rows"]:
        if "operator" in row:
            if row["dense_form"] != "torch.sparse_csr":
                found.append(_operator(row, source))
        elif "forms_ms" in row:
            found.append(_network(row, source))
        elif row.get("measured") or "kept" in row:
            kept = row.get("kept", 1 / max(row.get("ideal", 1.0), 1e-9))
            found.append(bench_timing(row, row.get("name", "bench"), kept, source))
    return found


def _operator(row: dict[str, Any], source: str) -> Timing:
    whole = row["layer"].startswith(("all of ", "chain of "))
    kind = FORMATS.get(row["operator"], row["operator"])
    place = row["layer"] if whole else "single layers"
    return Timing(
        source,
        kind,
        f"{place}, batch {row['batch']}, threads: {row['threads']}",
        f"{row['layer']}, {row['what']}, {row['backend']}",
        whole,
        row["kept"],
        row["dense_ms"],
        row["packed_ms"],
        row["speedup"],
        row["low"],
        row["high"],
    )


def _network(row: dict[str, Any], source: str) -> Timing:
    """A row of `benchmarks.networks`; masks of one kind at several levels are one line."""
    words = [word.strip(",") for word in row["masks"].split() if not word[0].isdigit()]
    kind = " ".join(words).removeprefix("of ") or "single weights"
    return Timing(
        source,
        kind,
        f"{row['network']}, batch {row['batch']}, threads: {row['threads']}",
        f"{row['network']}, {row['masks']}",
        True,
        *(row[key] for key in ("kept", "dense_ms", "packed_ms", "speedup", "low", "high")),
    )


def bench_timing(row: dict[str, Any], name: str, kept: float, source: str) -> Timing:
    """A row of `bench`, `sweep` or `demo`: one network at one batch size.

    Where nothing was measured the plan keeps the dense network: its time is that of dense.
    """
    group = f"batch {row['batch']}, threads: {row['threads']}"
    m = row["measured"]
    if m is None:
        ms = row["forms"][row["dense_form"]]
        return Timing(source, name, group, f"{name}, stays dense", True, kept, ms, ms, 1, 1, 1)
    times = m["dense_ms"], m["packed_ms"], m["speedup"], m["low"], m["high"]
    return Timing(source, name, group, name, True, kept, *times)


def network_timing(row: dict[str, Any], source: str) -> Timing:
    """A row of `claims`."""
    family = row["case"].rpartition("-")[0]
    return Timing(
        source,
        family,
        f"networks of the claims, batch {row['batch']}, threads: {row['threads']}",
        f"{row['case']} ({row['network']})",
        True,
        row["kept"] / row["weights"],
        row["dense_ms"],
        row["packed_ms"],
        row["speedup"],
        row["low"],
        row["high"],
    )


def counted(layers: Sequence[dict[str, Any]]) -> tuple[Layer, ...]:
    """Layers as `count_macs` has them."""
    return tuple(
        Layer(
            layer["name"] or layer["kind"],
            1 - layer["nnz"] / layer["weights"],
            layer["dense"],
            layer["dense"] * layer["nnz"] / layer["weights"],
        )
        for layer in layers
    )


def planned(layers: Sequence[dict[str, Any]]) -> tuple[Layer, ...]:
    """Layers as a plan has them."""
    return tuple(
        Layer(l["name"] or l["kind"], l["sparsity"], l["macs"], l["kept_macs"]) for l in layers
    )


def plan_timings(layers: Sequence[dict[str, Any]], title: str, source: str) -> list[Timing]:
    """The races of single layers that a plan was decided by."""
    found = []
    for layer in layers:
        measured = layer.get("measured")
        if not measured:
            continue
        kind = layer["becomes"] or "dense is faster"
        kept = 1 - layer["sparsity"]
        name = layer["name"] or layer["kind"]
        found.append(
            Timing(
                source,
                kind,
                title,
                name,
                False,
                kept,
                measured["dense_ms"],
                measured["packed_ms"],
                measured["speedup"],
                measured["low"],
                measured["high"],
            )
        )
    return found


def verdict(whole: dict[str, Any]) -> str:
    return (
        f"{whole['speedup']:.2f}× ({whole['low']:.2f} to {whole['high']:.2f}): "
        f"{whole['dense_ms']:.3f} ms dense, {whole['packed_ms']:.3f} ms packed"
    )
