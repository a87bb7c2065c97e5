"""The HDF5 files that the code of GSM's authors reads and writes, beside a run's own."""

from pathlib import Path
from typing import TYPE_CHECKING

from sparse_ops.cli.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from sparse_ops.training.recipes import Phase


class Hdf5Files:
    """init.hdf5 before the first step; finish.hdf5 after the last, before the cut of the last phase
    that makes one; finish_pruned.hdf5 after it. Names are those of the authors.

    Raises:
        UserError: there is no h5py.
    """

    def __init__(self, folder: Path, network: str) -> None:
        try:
            import h5py  # noqa: F401
        except ImportError as error:
            raise UserError("--hdf5 needs h5py: pip install 'sparse-ops[hdf5]'") from error
        self.folder, self.network = folder, network

    def begin(self, model: "nn.Module") -> None:
        self._write(model, "init.hdf5")

    def before_cut(self, phase: "Phase", model: "nn.Module") -> None:
        if phase.method != "dense":
            self._write(model, "finish.hdf5")

    def end(self, model: "nn.Module") -> None:
        self._write(model, "finish_pruned.hdf5")

    def _write(self, model: "nn.Module", name: str) -> None:
        from sparse_ops.models import names
        from sparse_ops.training import hdf5

        hdf5.save(names.gsm_state(self.network, model.state_dict()), self.folder / name)
