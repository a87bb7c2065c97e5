"""Hub: converted models in repositories of the Hugging Face Hub (extra `hub`)."""

from pathlib import Path
from typing import Any

from torch import nn

from sparse_ops.convert import load, save

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError(
        "sparse_ops.hub needs huggingface_hub: pip install 'sparse-ops[hub]'"
    ) from error

# The file of a repository that `so.save` wrote.
FILE = "packed.safetensors"


_ABOUT: dict[str, Any] = {"library_name": "sparse-ops", "tags": ["pruned"]}


class HubModel(ModelHubMixin, **_ABOUT):
    """`push_to_hub`, `save_pretrained` and `from_pretrained`, for a model's own class.

    A converted model keeps its class, and with it these methods:

        class Net(nn.Module, so.hub.HubModel): ...

        so.sparsify(Net(width=8).eval(), example).push_to_hub("me/net")
        fast = Net.from_pretrained("me/net")

    The repository has a safetensors file and, as JSON, what the class was made with; no code.
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, nn.Module)
        save(self, Path(save_directory) / FILE)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> nn.Module:
        """The converted model of a repository or a folder; what else is given goes to the class."""
        about = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        download = {name: options.pop(name) for name in about if name in options}
        path = Path(model_id) / FILE
        if not Path(model_id).is_dir():
            path = Path(hf_hub_download(model_id, FILE, **download))
        model: Any = cls(**options)
        return load(path, model.eval())
