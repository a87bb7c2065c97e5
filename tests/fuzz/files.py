"""Packed files with something else in them: refused in words, or they run; nothing else."""

import copy
import functools
import json
import os
import random
import struct
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import sparse_ops as so
from tests.convert.models import EXAMPLE, masks_of_net, net, says
from tests.convert.small_networks import MODELS, images
from tests.packed_files import contents
from tests.program.converted import ORDERS, converted
from tests.program.hostile import NUMBERS, changed_numbers

JUNK = (None, True, -1, 0, 7, 2**70, 0.5, "x", "", "weight.T", [], {}, [[]], [-1, 2**70], {"a": 1})
FILES = ("layers", "masks", *(f"{m.__name__} {order}" for m in MODELS[:3] for order in ORDERS))
HOWS = ("description", "description", "code", "tensor", "tensor", "names", "metadata", "bytes",
        "header", "cut")  # fmt: skip
SIMPLER = {"file": list(FILES), "how": [], "model": [False, True]}
REFUSALS = (ValueError, OSError)


def draw(chance):
    return {
        "file": chance.choice(FILES),
        "model": chance.random() < 0.4,
        "changes": [
            {"how": chance.choice(HOWS), "seed": chance.randrange(10**6)}
            for _ in range(chance.choice((1, 1, 1, 2, 4)))
        ],
    }


def prepare():
    for file in FILES:
        whole(file)


def scratch():
    """With shared memory no disk is worn."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=where)


@functools.cache
def whole(file):
    """(the bytes of a good file, the model that it needs, an input)."""
    torch.manual_seed(0)
    with scratch() as folder:
        return made(file, Path(folder) / "whole.safetensors")


def made(file, path):
    if file == "masks":
        so.masks.save(masks_of_net(), path)
        return path.read_bytes(), net(), torch.randn(EXAMPLE)
    if file == "layers":
        model, x = net(), torch.randn(EXAMPLE)
        plan = so.plan(model, x, masks_of_net(), measure=says(2.0), progress=False, fold=False)
        so.save(plan.apply(model), path)
        return path.read_bytes(), model, x
    name, order = file.split()
    kind = {model.__name__: model for model in MODELS}[name]
    so.save(converted(kind, ORDERS[order]), path)
    return path.read_bytes(), kind().eval(), images(2)


def places(data, here=()):
    """Where there is something in a description, however deep."""
    inner = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in inner:
        yield (*here, key)
        if isinstance(value, dict | list):
            yield from places(value, (*here, key))


def check(case):
    torch.set_num_threads(1)
    with scratch() as folder:
        return check_file(case, Path(folder) / "changed.safetensors")


def check_file(case, path):
    data, model, x = whole(case["file"])
    path.write_bytes(data)
    for change in case["changes"]:
        change_(path, change["how"], random.Random(change["seed"]))
    if case["file"] == "masks":
        try:
            masks = so.masks.load(path)
        except REFUSALS as error:
            assert len(str(error)) > 10
            return "refused"
        assert all(mask.dtype == torch.bool for mask in masks.values())
        return "masks read"
    return read(path, model if case["model"] or case["file"] == "layers" else None, x)


def read(path, model, x):
    """Loads a file, which may be refused in words, and runs what it gives."""
    try:
        loaded = so.load(path, model)
    except REFUSALS as error:
        assert len(str(error)) > 10
        return "refused"
    try:
        with torch.no_grad():
            loaded(x)
    except (ValueError, RuntimeError) as error:
        # A file may be for inputs of another size.
        assert len(str(error)) > 10
        return "loaded, not run"
    return "loaded"


def change_(path, how, chance):
    """Another file in its place; where it cannot be read any more, its bytes are changed."""
    if how in ("bytes", "header", "cut"):
        path.write_bytes(_changed_bytes(path.read_bytes(), how, chance))
        return
    try:
        tensors, metadata, about = _contents(path)
    # What was changed before may not be a file of ours any more, in whatever way.
    except Exception:
        path.write_bytes(_changed_bytes(path.read_bytes(), "bytes", chance))
        return
    if how == "description" and isinstance(about, dict | list) and about:
        place = chance.choice(list(places(about)))
        owner = about
        for key in place[:-1]:
            owner = owner[key]
        _change_value(owner, place[-1], chance)
    elif how == "metadata" and metadata:
        name = chance.choice(list(metadata))
        metadata[chance.choice((name, "x"))] = chance.choice(("", "0", "3", "null", "[" * 10**4))
        about = None if name == "model" else about
    elif how == "code" and (codes := [n for n, t in tensors.items() if is_code(n, t)]):
        name = chance.choice(codes)
        tensors[name] = changed_numbers(tensors[name], chance)
    elif tensors:
        _change_tensor(tensors, chance, rename=how == "names")
    if about is not None:
        metadata["model"] = json.dumps(about)
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path, metadata)


def is_code(name, tensor):
    return (
        "_code_" in name
        and tensor.dtype == torch.int64
        and tensor.numel() > 0
        and tensor.dim() == 1
    )


def _contents(path):
    try:
        return contents(path)
    except KeyError:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata()), None


def _change_value(owner, key, chance):
    way = chance.randrange(4)
    if way == 0:
        del owner[key]
    elif way == 1 and isinstance(owner[key], int):
        owner[key] = chance.choice(NUMBERS)
    elif way == 2:
        owner[key] = copy.deepcopy(chance.choice(list(owner if isinstance(owner, list)
                                                      else owner.values())))  # fmt: skip
    else:
        owner[key] = chance.choice(JUNK)


def _change_tensor(tensors, chance, rename):
    name, other = chance.choice(list(tensors)), chance.choice(list(tensors))
    tensor = tensors[name].clone()
    if rename:
        way = chance.randrange(4)
        if way < 2:
            del tensors[name]
        if way > 0:
            tensors[chance.choice((f"{name}.x", "x", "", f"_program_{name}", name[:-1]))] = tensor
        tensors.update({name: tensors[other]} if way == 3 and other in tensors else {})
        return
    way = chance.randrange(7)
    if way == 0 and tensor.numel():
        flat = tensor.view(-1)
        low, high = (-128, 127) if tensor.dtype == torch.int8 else (-(2**31), 2**31 - 1)
        flat[chance.randrange(flat.numel())] = max(low, min(high, chance.choice(NUMBERS)))
    elif way == 1:
        tensor = tensor.flatten()[: chance.randrange(tensor.numel() + 1)]
    elif way == 2:
        tensor = tensor.to(chance.choice((torch.float64, torch.float16, torch.int64, torch.bool)))
    elif way == 3:
        tensor = tensor.flip(0) if tensor.dim() else tensor
    elif way == 4:
        tensor = tensors[other].clone()
    elif way == 5:
        tensor = tensor.unsqueeze(0)
    elif tensor.is_floating_point():
        tensor = torch.full_like(tensor, chance.choice((float("nan"), float("inf"))))
    tensors[name] = tensor


def _changed_bytes(data, how, chance):
    data = bytearray(data)
    header = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else len(data)
    if how == "cut":
        del data[chance.randrange(len(data) + 1) :]
        return bytes(data)
    end = min(len(data), 8 + header) if how == "header" else len(data)
    for _ in range(chance.choice((1, 1, 3)) if end else 0):
        data[chance.randrange(end)] = chance.randrange(256)
    return bytes(data)
