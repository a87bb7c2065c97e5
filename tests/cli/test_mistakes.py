"""What a user gets wrong, by command, and the words that say so."""

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.running import run

TRAIN = ["train", "--out", "{dir}/run", "--model"]
RECIPE = ["train", "--out", "{dir}/run", "--recipe", "gsm-lenet300-60x"]


MISTAKES = {
    "no such command": (["fly"], "fly"),
    "no model": (["convert", "{pt}", "--out", "{out}"], "--model is needed"),
    "an unknown model": (["convert", "{pt}", "--model", "x", "--out", "{out}"], "no model"),
    "no such file": (["convert", "{dir}/no.pt", "--model", "lenet300", "--out", "{out}"], "no.pt"),
    "another model": (["convert", "{pt}", "--model", "lenet5", "--out", "{out}"], "not of this"),
    "an empty batch": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{out}", "--batch", "0"],
        "--batch",
    ),
    "a shape of words": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{out}", "--input", "a,b"],
        "--input",
    ),
    "three channels": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{out}", "--input", "3,28,28"],
        "channel",
    ),
    "no folder to write to": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{dir}/no/x"],
        "no folder",
    ),
    "masks that are none": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{out}", "--masks", "{pt}"],
        "safetensors",
    ),
    "a packed file as checkpoint": (
        ["convert", "{packed}", "--model", "lenet300", "--out", "{out}"],
        "sparse_ops.packed",
    ),
    "a checkpoint as packed file": (["bench", "{pt}", "--model", "lenet300"], "safetensors"),
    "no time": (["bench", "{packed}", "--model", "lenet300", "--seconds", "0"], "--seconds"),
    "an unknown method": (
        ["train", "--model", "lenet300", "--method", "x", "--out", "{dir}/run"],
        "no method",
    ),
    "an unknown pattern": (
        [*TRAIN, "lenet5", "--method", "predefined", "--pattern", "x"],
        "no pattern",
    ),
    "an option of another method": (
        [*TRAIN, "lenet5", "--method", "gsm", "--pattern", "PS4_P4"],
        "no --pattern",
    ),
    "a sparsity above one": (
        [*TRAIN, "lenet300", "--method", "gsm", "--sparsity", "2"],
        "sparsity",
    ),
    "an unknown data set": (
        [*TRAIN, "lenet300", "--method", "gsm", "--data", "x"],
        "no data set",
    ),
    "neither model nor recipe": (["train", "--out", "{dir}/run"], "--model and --method"),
    "an unknown recipe": (["train", "--recipe", "x", "--out", "{dir}/run"], "no recipe 'x'"),
    "a recipe and a method": (
        ["train", "--recipe", "gsm-lenet300-60x", "--method", "gsm", "--out", "{dir}/run"],
        "a recipe has its own method",
    ),
    "a recipe and a sparsity": (
        ["train", "--recipe", "gsm-lenet300-60x", "--sparsity", "0.9", "--out", "{dir}/run"],
        "--set PHASE.options.sparsity",
    ),
    "a change to no phase": (
        [*TRAIN, "lenet300", "--method", "gsm", "--set", "sgm.epochs=1"],
        "'sgm.epochs' must begin with data, model or a phase (base, gsm)",
    ),
    "nothing to unset": (
        [*RECIPE, "--data", "fashion-mnist-subset", "--unset", "gsm.clip"],
        "there is no 'gsm.clip' to unset",
    ),
    "an optimizer that GSM is not for": (
        [*TRAIN, "lenet300", "--method", "gsm", "--optimizer", "adam"],
        "gsm is GSM, whose momentum is that of SGD",
    ),
    "an unknown schedule": (
        [*TRAIN, "lenet300", "--method", "gsm", "--schedule", "x"],
        "there is no schedule 'x'; there are multi-step, cosine, plateau, none",
    ),
    "images of another size": (
        [*RECIPE, "--data", "images", "--folder", "{images}"],
        "lenet300 takes images of 1×28×28, images has 3×32×32: set model.name to a network that",
    ),
    "fewer epochs of no recipe": (
        [*TRAIN, "lenet300", "--method", "gsm", "--shorten", "0.1"],
        "--shorten is for a --recipe",
    ),
    "a change without a value": (
        ["train", "--recipe", "gsm-lenet300-60x", "--set", "gsm.epochs", "--out", "{dir}/run"],
        "KEY=VALUE",
    ),
    "images that are not there": (
        ["train", "--recipe", "gsm-resnet56-10x", "--folder", "{dir}", "--out", "{dir}/run"],
        "data_batch_1",
    ),
    "an unknown device": (
        [*TRAIN, "lenet300", "--method", "gsm", "--device", "x"],
        "--device must be",
    ),
    "an unknown precision": (
        [*TRAIN, "lenet300", "--method", "gsm", "--amp", "x"],
        "amp must be one of",
    ),
    "a file as a folder": (["demo", "--quick", "--out", "{pt}"], "model.pt"),
}


def coloured(folder: Path) -> Path:
    """Two images of one class to learn from, and to be tested on."""
    for split in ("train", "test"):
        (folder / split / "one").mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.new("RGB", (8, 8), "red").save(folder / split / "one" / name)
    return folder


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_an_exit_code(case, checkpoint, packed, tmp_path):
    arguments, words = MISTAKES[case]
    names = {"pt": checkpoint, "packed": packed, "dir": tmp_path, "out": tmp_path / "out"}
    if "{images}" in arguments:
        names["images"] = coloured(tmp_path / "images")
    output = run(*(a.format(**names) for a in arguments), ok=False).output
    assert words in " ".join(output.split())
    assert not (tmp_path / "out").exists()
