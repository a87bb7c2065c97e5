"""Folders of image files: `train/<class>/*.png` and `test/<class>/*.png`, or JPEG."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ENDINGS = {".png", ".jpg", ".jpeg"}


def read_images(folder: Path, size: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Reads the image files of every class, a class a folder.

    Args:
        folder: holds one folder a class; classes are numbered in the order of their names.
        size: images become size × size; they are squeezed, not cut, and turned as they say they
            are to be shown.

    Returns:
        images (N, 3, size, size), uint8; labels (N,); the classes' names.

    Raises:
        ValueError: there is no class or one without images, or a file is not an image.
        FileNotFoundError: there is no such folder.
        ImportError: pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "folders of images are read with pillow: pip install 'sparse-ops[images]'"
        ) from error
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; it must hold one folder for each class, "
            f"with {', '.join(sorted(ENDINGS))} files in it"
        )
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise ValueError(f"{folder} must hold one folder for each class, got none")
    images, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(f for f in (folder / name).iterdir() if f.suffix.lower() in ENDINGS)
        if not files:
            raise ValueError(f"{folder / name} must hold {', '.join(sorted(ENDINGS))} files")
        for file in files:
            try:
                with Image.open(file) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB")
                    resized = upright.resize((size, size), Image.Resampling.BILINEAR)
            # Pillow's refusals have no common base below Exception; a bomb is one of them.
            except Exception as error:
                raise ValueError(f"{file} is not an image that can be read: {error}") from error
            images.append(torch.from_numpy(np.array(resized)).permute(2, 0, 1))
            labels.append(label)
    return torch.stack(images), torch.tensor(labels), tuple(classes)
