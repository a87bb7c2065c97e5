"""Packed files taken apart, and put together again otherwise."""

import json

from safetensors import safe_open
from safetensors.torch import load_file, save_file


def contents(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return load_file(path), metadata, json.loads(metadata["model"])


def rewritten(path, tensors, metadata, model):
    save_file(tensors, path, {**metadata, "model": json.dumps(model)})
