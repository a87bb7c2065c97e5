"""What happened in each epoch: kept for the caller, and logged where it was asked for."""

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sparse_ops._files import replacing
from sparse_ops.training.evaluation import Evaluation
from sparse_ops.training.method import Epoch


@dataclass(frozen=True)
class Row:
    """One epoch.

    Attributes:
        epoch: counted from 1.
        loss, accuracy, lr: as in `Epoch`.
        seconds: of its steps; the evaluation after them is not counted.
        examples_per_second: learned from, by all processes together.
        top1, top5, validation_loss: on the validation data after the epoch; None without such, and
            where they were not evaluated.
        sparsity: fraction of the weights of Conv2d and Linear that are below 1e-5 in size, before
            the method does what it does at the end of an epoch.
        figures: what the method has to say of the epoch; a column each in a CSV file.
    """

    epoch: int
    loss: float
    accuracy: float
    lr: float
    seconds: float
    examples_per_second: float
    top1: float | None = None
    top5: float | None = None
    validation_loss: float | None = None
    sparsity: float = 0.0
    figures: dict[str, float | str] = field(default_factory=dict)


@dataclass
class History:
    """All epochs of a run so far, those before it was resumed included.

    Attributes:
        rows: in order.
    """

    rows: list[Row] = field(default_factory=list)

    def add(self, epoch: Epoch, seconds: float, examples: int, sparsity: float) -> None:
        self.rows.append(
            Row(
                epoch.number,
                epoch.loss,
                epoch.accuracy,
                epoch.lr,
                seconds,
                examples / max(seconds, 1e-9),
                sparsity=sparsity,
            )
        )
        if epoch.validation is not None:
            self.note_validation(epoch.validation)

    def note_validation(self, found: Evaluation) -> None:
        """Adds what an evaluation found to the last epoch."""
        self.rows[-1] = replace(
            self.rows[-1], top1=found.top1, top5=found.top5, validation_loss=found.loss
        )

    def note(self, figures: dict[str, float | str]) -> None:
        """Adds a method's figures to the last epoch."""
        self.rows[-1] = replace(self.rows[-1], figures=dict(figures))

    @property
    def last(self) -> Row | None:
        return self.rows[-1] if self.rows else None

    def best(self, after: int = 0) -> Row | None:
        """The first of the epochs with the highest validation top-1; None without validation.

        Which epoch was the best on some data is no fair measure on the same data: report `last`.

        Args:
            after: how many epochs to leave out, such as those of a network not yet pruned.
        """
        rows = [row for row in self.rows if row.epoch > after and row.top1 is not None]
        return max(rows, key=lambda row: row.top1 or 0.0, default=None)

    @property
    def evaluations(self) -> int:
        """After how many epochs there was one."""
        return sum(row.top1 is not None for row in self.rows)

    def mean_top1(self, count: int = 10) -> float:
        """Mean validation top-1 of the last `count` evaluations, which some papers report.

        Raises:
            ValueError: there has been no evaluation.
        """
        found = [row.top1 for row in self.rows if row.top1 is not None][-count:]
        if not found:
            raise ValueError("there has been no evaluation")
        return sum(found) / len(found)

    def mean_loss(self, count: int = 10) -> float:
        """Mean loss over the last `count` epochs.

        Raises:
            ValueError: there have been no epochs.
        """
        if not self.rows:
            raise ValueError("there has been no epoch")
        losses = [row.loss for row in self.rows[-count:]]
        return sum(losses) / len(losses)

    def state_dict(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        self.rows = [Row(**row) for row in state]


class Logs:
    """Files that a run writes after each epoch: CSV, TensorBoard, both or none.

    Args:
        history: what to write.
        csv_file: one line an epoch; written whole each time, so that a resumed run leaves no line
            twice.
        tensorboard: a folder for TensorBoard's files.

    Raises:
        ImportError: TensorBoard is wanted and not installed.
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        history: History,
        csv_file: str | os.PathLike[str] | None,
        tensorboard: str | os.PathLike[str] | None,
    ) -> None:
        self.history = history
        self.csv_file = None if csv_file is None else Path(csv_file)
        # A file that cannot be written is found now, not after the first epoch.
        self._write_csv()
        self._writer: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "a TensorBoard log was asked for, but the package tensorboard is not there: "
                    f"pip install tensorboard ({error})"
                ) from error
            self._writer = SummaryWriter(str(tensorboard), purge_step=len(history.rows) + 1)

    def write(self) -> None:
        """Adds the last epoch."""
        self._write_csv()
        row = self.history.last
        if self._writer is not None and row is not None:
            for name, value in _flat(row).items():
                if name != "epoch" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, row.epoch)
            self._writer.flush()

    def _write_csv(self) -> None:
        if self.csv_file is None:
            return
        with (
            replacing(self.csv_file) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            rows = [_flat(row) for row in self.history.rows]
            known = [f.name for f in fields(Row) if f.name != "figures"]
            # In the order in which they came up.
            more = dict.fromkeys(name for row in rows for name in row if name not in known)
            writer = csv.DictWriter(file, [*known, *more])
            writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _flat(row: Row) -> dict[str, Any]:
    """A row as columns, the method's figures after the others."""
    columns = asdict(row)
    figures = columns.pop("figures")
    return columns | figures
