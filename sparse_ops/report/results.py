"""Results: what was learned and measured of a network, as plain data for tables, plots and JSON."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from sparse_ops._files import replacing
from sparse_ops.convert import Comparison
from sparse_ops.planning.profiling import Profile
from sparse_ops.report.machine import Machine


@dataclass(frozen=True)
class Row:
    """One measurement: a dense model against its packed one.

    Attributes:
        batch: examples a call.
        dense_form, packed_form: the fastest forms of the two models, which are those compared.
        forms, packed_forms: form -> milliseconds, of all forms that were tried.
        skipped: form -> why it was not.
        packed_layers: how many layers are packed; 0: the plan keeps the dense model.
        ideal: dense multiply-accumulates / kept ones.
        measured: dense against packed by turns; None if the plan keeps the dense model.
        note: what else there is to say, in words.
        profile: where the packed model's time goes; None if it does not run as programs.
    """

    batch: int
    threads: int
    dtype: str
    dense_form: str
    forms: dict[str, float]
    packed_form: str
    packed_forms: dict[str, float]
    skipped: dict[str, str]
    packed_layers: int
    ideal: float
    measured: Comparison | None
    note: str = ""
    profile: Profile | None = None


@dataclass(frozen=True)
class Network:
    """A network, dense and sparse.

    Attributes:
        accuracy_dense: of the same network trained without masks, in [0, 1].
        accuracy_sparse: of the masked network; accuracy_packed: of its packed form.
        parameters: of the dense network, biases and all; kept_parameters: those not removed.
        macs, kept_macs: multiply-accumulates for one example.
        file, file_batch: the packed file, and the batch size that it was planned for.
        plans: batch size -> what was decided for each layer.
    """

    name: str
    method: str
    accuracy_dense: float
    accuracy_sparse: float
    accuracy_packed: float
    sparsity: float
    parameters: int
    kept_parameters: int
    macs: int
    kept_macs: int
    rows: tuple[Row, ...]
    file: str = ""
    file_batch: int = 0
    plans: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """Everything that one command measured, and where."""

    command: str
    version: str
    machine: Machine
    data: str
    seconds: float
    networks: tuple[Network, ...]


def write_json(results: Any, path: str | os.PathLike[str]) -> None:
    """Writes a dataclass as JSON; the file is whole or not there.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(results), indent=2) + "\n", encoding="utf-8")
