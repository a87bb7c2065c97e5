"""What a report is made of: runs, histories, timings, plans and claims, as plain data.

Each piece names the file that it is from. `gather` (in `reading.py`) finds them in folders and
files; `drawings.py` makes figures of them.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Training:
    """One trained network. Accuracy, sparsity: in [0, 1], on test images, of all masked weights.

    Those of one group, of the same network and data, are drawn together.
    """

    source: str
    method: str
    model: str
    data: str
    sparsity: float
    accuracy: float
    seed: int
    epochs: int
    about: str = ""
    group: str = ""


@dataclass(frozen=True)
class History:
    """The epochs of a run: column -> a number an epoch, or None where there is none."""

    source: str
    name: str
    columns: dict[str, list[float | None]]


@dataclass(frozen=True)
class Timing:
    """One race of packed against dense.

    Attributes:
        format: of the packed weights; or what else the races of a group differ in.
        group: what is drawn together: network, batch, threads.
        where: the layer or network, and its masks.
        whole: whether it is of a network, or of all layers of one.
        kept: fraction of the weights.
    """

    source: str
    format: str
    group: str
    where: str
    whole: bool
    kept: float
    dense_ms: float
    packed_ms: float
    speedup: float
    low: float
    high: float


@dataclass(frozen=True)
class Work:
    """A layer as it runs: what it has to do, and how long that takes.

    Attributes:
        group: what is drawn together: a network at a batch size.
        kind: how it is packed; one kind looks alike.
        macs, bytes: kept multiply-accumulates, and bytes moved at least, in a call.
    """

    source: str
    group: str
    kind: str
    name: str
    macs: float
    bytes: float
    ms: float


@dataclass(frozen=True)
class Layer:
    """What is kept of one layer; multiply-accumulates are None where only its mask is known."""

    name: str
    sparsity: float
    macs: float | None = None
    kept_macs: float | None = None


@dataclass(frozen=True)
class Layers:
    """The layers of one network."""

    source: str
    title: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class PlanTable:
    """A plan: its layers as they were written, and its verdict."""

    source: str
    title: str
    layers: tuple[dict[str, Any], ...]
    verdict: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Roofs:
    """What a machine reaches, from a results file.

    Attributes:
        macs: a second.
        bytes: a second, from memory.
        cached: a second, from the nearest cache; None where that was not measured.
    """

    source: str
    macs: float
    bytes: float
    cached: float | None = None


@dataclass
class Evidence:
    """Everything that was found, and what was not understood: file -> why."""

    trainings: list[Training] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    layers: list[Layers] = field(default_factory=list)
    plans: list[PlanTable] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)
    roofs: list[Roofs] = field(default_factory=list)
    machines: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        found = (self.trainings, self.histories, self.timings, self.layers, self.plans)
        return not any(found) and not self.claims
