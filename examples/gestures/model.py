"""What training leaves for recognition: a folder with two networks, their settings and pictures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sparse_ops as so

NETWORKS = ("vgg11", "mobilenet_v2", "small_vgg")
# The usual ones of photographs, those of ImageNet.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZE = so.data.Normalize(MEAN, DEVIATION)
SETTINGS, DENSE, PACKED, PICTURES = (
    "settings.json",
    "dense.safetensors",
    "packed.safetensors",
    "pictures",
)


@dataclass(frozen=True)
class Settings:
    """What the networks are, and what their outputs mean.

    Attributes:
        network: one of `NETWORKS`.
        size: of the images' sides, in pixels.
        classes: the gestures' names.
        rendered: whether they learned from rendered images.
        width: factor on the network's channels.
    """

    network: str
    size: int
    classes: tuple[str, ...]
    rendered: bool
    width: float = 1.0


def built(settings: Settings) -> nn.Module:
    """The network as it is before it has learned anything."""
    more: dict[str, Any] = {"width": settings.width}
    if settings.network == "mobilenet_v2":
        more["variant"] = "imagenet"
    elif settings.network == "small_vgg":
        more["width"] = round(64 * settings.width)
    build = getattr(so.models, settings.network)
    model: nn.Module = build(len(settings.classes), in_channels=3, **more)
    return model


def prepared(picture: np.ndarray, size: int) -> Tensor:
    """A picture (H, W, 3), uint8, RGB, as a network's input (1, 3, size, size)."""
    small = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)
    return NORMALIZE.apply(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None])


def save(
    folder: Path, settings: Settings, model: nn.Module, fast: nn.Module, pictures: list[np.ndarray]
) -> None:
    """Writes the folder: the network as trained, the packed one, a picture of each gesture."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(asdict(settings), indent=1) + "\n")
    save_file({k: t.contiguous() for k, t in model.state_dict().items()}, folder / DENSE)
    so.save(fast, folder / PACKED)
    for name, picture in zip(settings.classes, pictures, strict=True):
        Image.fromarray(picture).save(folder / PICTURES / f"{name}.png")


def load(folder: Path) -> tuple[Settings, nn.Module, nn.Module, list[np.ndarray]]:
    """What `save` wrote: settings, the dense network, the packed one, pictures.

    Raises:
        ValueError: a file is damaged or does not go with the others.
        FileNotFoundError: there is no such folder, or a file is missing.
    """
    try:
        read = json.loads((folder / SETTINGS).read_text())
        settings = Settings(**read | {"classes": tuple(read["classes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / SETTINGS} cannot be read: {error!r}") from error
    if settings.network not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {settings.network!r}")
    dense = built(settings).eval()
    dense.load_state_dict(load_file(folder / DENSE))
    fast = so.load(folder / PACKED, built(settings).eval())
    pictures = []
    for name in settings.classes:
        with Image.open(folder / PICTURES / f"{name}.png") as picture:
            pictures.append(np.array(picture.convert("RGB")))
    return settings, dense, fast, pictures
