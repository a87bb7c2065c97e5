"""Models and inputs, as a command line names them."""

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops._files import replacing
from sparse_ops.cli.errors import UserError
from sparse_ops.masks import Masks, save


def build(
    spec: str,
    *,
    classes: int = 10,
    channels: int = 1,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """One of our models by its name, or what `package.module:function` gives without arguments.

    Args:
        classes, channels: of one of our models, where `options` do not say them.
        options: of its function, such as {"variant": "imagenet"}.

    Raises:
        UserError: there is no such model, or it cannot be built.
    """
    from sparse_ops.models import MODELS

    chosen = dict(options or {})
    if ":" in spec:
        if chosen:
            raise UserError(f"{spec} is called without arguments: it takes no {', '.join(chosen)}")
        return _imported(spec)
    if spec not in MODELS:
        raise UserError(
            f"there is no model {spec!r}; there are {', '.join(MODELS)}, "
            "and your own as package.module:function"
        )
    known = inspect.signature(MODELS[spec]).parameters
    if unknown := [key for key in chosen if key not in known]:
        raise UserError(f"{spec} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    chosen.setdefault("num_classes", classes)
    if "in_channels" in known:
        chosen.setdefault("in_channels", channels)
    elif channels != 1:
        raise UserError(f"{spec} takes images of 1 channel, not {channels}")
    try:
        return MODELS[spec](**chosen)
    except TypeError as error:
        raise UserError(f"{spec} cannot be built with {chosen}: {error}") from error


def _imported(spec: str) -> nn.Module:
    module_name, _, function = spec.partition(":")
    # An installed script does not look in the current folder; `python -m` does.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        model = getattr(importlib.import_module(module_name), function)()
    except Exception as error:
        raise UserError(f"{spec} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec} must give an nn.Module, got {type(model).__name__}")
    return model


def input_shape(text: str) -> tuple[int, ...]:
    """(C, H, W), or whatever one example is, of "1,28,28".

    Raises:
        UserError: it is no list of numbers above 0.
    """
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UserError(f"--input must be numbers above 0, such as 1,28,28, got {text!r}")
    return shape


def random_example(batch: int, shape: tuple[int, ...]) -> tuple[Tensor]:
    """Random numbers, the same in every run; none of them is zero."""
    if batch < 1:
        raise UserError(f"--batch must be at least 1, got {batch}")
    return (torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)),)


def write(model: nn.Module, masks: Masks, folder: Path) -> None:
    """Writes a trained model's tensors, as `checkpoints` reads them, and its masks."""
    with replacing(folder / "model.pt") as temporary:
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, temporary)
    save(masks, folder / "masks.safetensors")


def run_of(checkpoint: Path) -> dict[str, Any]:
    """What `train` wrote of the run that made a checkpoint; nothing if there is no such file."""
    try:
        result = json.loads((checkpoint.parent / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}
