"""Checkpoints that people have: what is read of them, and what is said of the rest."""

import argparse
import datetime
import gzip
import io
import pathlib
import pickle
import zipfile
from collections import Counter, defaultdict, deque

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import sparse_ops as so
from sparse_ops.cli import checkpoints, torch_files
from sparse_ops.cli.errors import UserError
from tests.cli.running import run


def network() -> nn.Sequential:
    """Each has other numbers, so that what is read can be told from what was there."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    net[1].running_mean.normal_()
    return net.eval()


def behind(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


def typed(state: dict, dtype: torch.dtype) -> dict:
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}


def run_of(state: dict) -> dict:
    """What training scripts keep beside a network, under names like a network's, too."""
    momentum = {number: {"momentum_buffer": v} for number, v in enumerate(state.values())}
    adam = {"state": {name: {"exp_avg": v} for name, v in state.items()}, "param_groups": []}
    return {
        "model_state_dict": state,
        "optimizer_state_dict": {"state": momentum, "param_groups": [{"lr": 0.1}]},
        "other_optimizers": [adam],
        "epoch": 3,
        "best": np.float64(0.9),
        "step": np.int64(7),
        "losses": [1.0, 0.5],
        "confusion": np.eye(3),
        "classes": np.array(["cat", "dog"]),
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
        "counts": defaultdict(list, a=[1]),
        "last": deque([1.0, 2.0], maxlen=2),
        "day": datetime.datetime(2020, 1, 1),
        "seen": Counter("ab"),
    }


def lightning(state: dict) -> dict:
    hooks = {"ModelCheckpoint{'monitor': None}": {"best": torch.tensor(0.5), "dir": "x"}}
    metric = {"criterion.weight": torch.ones(3), "val_acc.total": torch.tensor(3)}
    return {
        "state_dict": behind("net.", state) | metric,
        "pytorch-lightning_version": "2.1",
        "callbacks": hooks,
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [],
    }


def profiled(state: dict) -> dict:
    layers = {name.rpartition(".")[0] for name in state}
    counts = {f"{layer}.{c}" for layer in layers for c in ("total_ops", "total_params")}
    return state | {name: torch.zeros(1, dtype=torch.float64) for name in counts | {"total_ops"}}


def averaged(state: dict) -> dict:
    net = network()
    net.load_state_dict(state)
    return dict(AveragedModel(net).state_dict())


# Those that one meets most, and one that nobody would think of.
KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "params_ema", "ema")
KEYS += ("state_dict_ema", "model_ema", "generator", "student", "module", "of_tuesday")

CONTAINERS = {
    "plain": lambda s: s,
    **{f"under {key}": lambda s, key=key: {key: s, "epoch": 3} for key in KEYS},
    "a training run": run_of,
    "Lightning": lightning,
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": s}}, "iter": 5},
    "a list": lambda s: [s, {"epoch": 3}],
    "the generator of two": lambda s: {"generator": s, "discriminator": {"0.weight": s["0.bias"]}},
    "module.": lambda s: behind("module.", s),
    "compiled in processes": lambda s: behind("module._orig_mod.", s),
    "processes compiled": lambda s: {"state_dict": behind("_orig_mod.module.", s)},
    "Lightning, compiled": lambda s: {"state_dict": behind("model._orig_mod.", s)},
    "averaged": averaged,
    "averaged in processes": lambda s: {"model_ema": behind("module.", averaged(s))},
    "profiled": profiled,
    "no counts of batches": lambda s: {n: v for n, v in s.items() if "num_batches" not in n},
    "float16": lambda s: typed(s, torch.float16),
    "bfloat16": lambda s: {"ema": typed(s, torch.bfloat16)},
    "float64": lambda s: typed(s, torch.float64),
    "parameters": lambda s: {n: nn.Parameter(v, v.is_floating_point()) for n, v in s.items()},
    "arrays": lambda s: {n: np.asarray(v) for n, v in s.items()},
    "arrays by columns, of other bytes": lambda s: {
        n: np.asfortranarray(v.numpy().astype(v.numpy().dtype.newbyteorder(">")))
        for n, v in s.items()
    },
    "sparse tensors": lambda s: {n: v.to_sparse() if v.dim() == 2 else v for n, v in s.items()},
    "numbers and lists among tensors": lambda s: (
        s | {"epoch": 3, "acc": np.float32(0.9), "classes": ["a"], "odd": np.array([{}], object)}
    ),
}


def read(path, **options):
    """The state of a new network after reading, and the masks."""
    net = network()
    masks = checkpoints.load_(net, checkpoints.contents(path, **options))
    return net.state_dict(), masks


def assert_read(path, state, dtype=torch.float32, **options):
    found, _ = read(path, **options)
    for name, value in state.items():
        if "num_batches" not in name:
            assert torch.equal(found[name], value.to(dtype).to(value.dtype)), name


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_are_read(container, tmp_path):
    state = dict(network().state_dict())
    content = CONTAINERS[container](state)
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(container, torch.float32)
    for zip_format in (True, False):
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zip_format)
        assert_read(tmp_path / "x.pth", state, dtype)


@pytest.mark.parametrize("traced", [False, True], ids=["script", "trace"])
def test_weights_of_torchscript_are_read_without_its_code(traced, tmp_path, monkeypatch):
    net = network()
    made = torch.jit.trace(net, torch.zeros(1, 1, 4, 4)) if traced else torch.jit.script(net)
    made.save(tmp_path / "x.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    assert_read(tmp_path / "x.pt", net.state_dict())


def test_safetensors_are_read_as_other_files_are(tmp_path):
    state = network().state_dict()
    save_file(behind("module.", typed(state, torch.float16)), tmp_path / "x.safetensors")
    assert_read(tmp_path / "x.safetensors", state, torch.float16)


def test_several_that_fit_are_listed_with_sizes_and_chosen_by_key(tmp_path):
    one, two = (dict(network().state_dict()) for _ in range(2))
    other = {"state_dict": one, "state_dict_ema": two, "epoch": 3}
    torch.save(other, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"state_dict \(9 tensors, \d+ numbers\), state_dict_ema"):
        read(tmp_path / "x.pt")
    net = network()
    checkpoints.load_(net, checkpoints.contents(tmp_path / "x.pt"), "state_dict_ema")
    assert torch.equal(net[0].weight, two["0.weight"])
    # Two networks within one state dict.
    both = behind("student.", one) | behind("teacher.net.", two)
    torch.save({"state_dict": both}, tmp_path / "y.pt")
    with pytest.raises(UserError, match=r"state_dict/student \(9 .* state_dict/teacher.net \(9 "):
        read(tmp_path / "y.pt")
    for key in ("state_dict/teacher", "state_dict/teacher.net."):
        checkpoints.load_(net, checkpoints.contents(tmp_path / "y.pt"), key)
        assert torch.equal(net[0].weight, two["0.weight"])
    with pytest.raises(UserError, match=r"has no 'net'; it has state_dict \(18 tensors"):
        checkpoints.load_(net, checkpoints.contents(tmp_path / "y.pt"), "net")


def test_the_commands_take_a_key_and_show_lists_them(tmp_path):
    one, two = so.models.lenet300(), so.models.lenet300()
    so.training.cut_(two, 0.98)
    file, out = tmp_path / "x.pt", tmp_path / "out.safetensors"
    torch.save({"params": one.state_dict(), "params_ema": two.state_dict()}, file)
    options = ("--model", "lenet300", "--out", out, "--budget", 0.1)
    assert "--key params" in " ".join(run("convert", file, *options, ok=False).output.split())
    run("convert", file, *options, "--key", "params_ema")
    x = torch.randn(2, 1, 28, 28)
    fast = so.load(out, so.models.lenet300().eval())
    torch.testing.assert_close(fast(x), two.eval()(x), rtol=1e-4, atol=1e-5)
    output = run("show", file).output
    assert "--key params_ema  6 tensors, 266,610 numbers" in output
    assert "260,876 of 266,200 numbers" in run("show", file, "--key", "params_ema").output


def test_entries_of_a_larger_network_are_not_dropped_in_silence(tmp_path, capsys):
    state = dict(network().state_dict())
    torch.save(state | {"4.weight": torch.ones(3, 3)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"the model has no place for 4.weight \(1 of 10 entries\)"):
        read(tmp_path / "x.pt")
    torch.save(state | behind("ema.", state), tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"no place for ema.0.weight, .* \(8 of 18 entries\)"):
        read(tmp_path / "x.pt")
    checkpoints.load_(network(), checkpoints.contents(tmp_path / "x.pt"), "ema")
    torch.save(behind("net.", state) | {"loss.weight": torch.ones(3, 3)}, tmp_path / "x.pt")
    read(tmp_path / "x.pt")
    assert "x.pt: not the model's, and left out: loss.weight" in capsys.readouterr().out
    torch.save(state | {"3.weight": torch.ones(3, 16, dtype=torch.int8)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"3.weight is torch.int8, torch.float32 was wanted"):
        read(tmp_path / "x.pt")


def test_masks_come_under_the_names_of_the_model(tmp_path):
    net = network()
    prune.l1_unstructured(net[3], "weight", 0.5)
    with torch.no_grad():
        # Kept, and zero.
        row, column = net[3].weight_mask.nonzero()[0].tolist()
        net[3].weight_orig[row, column] = 0
    torch.save({"state_dict": behind("net.", net.state_dict())}, tmp_path / "x.ckpt")
    state, masks = read(tmp_path / "x.ckpt")
    assert torch.equal(masks["3.weight"], net[3].weight_mask.bool())
    assert torch.equal(state["3.weight"], net[3].weight_orig * net[3].weight_mask)


class Doubled(nn.Module):
    """Somebody's own class, which can be imported from here."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x):
        return 2 * self.inner(x)


def test_whole_models_are_read_only_if_they_are_trusted(tmp_path):
    model, file, out = Doubled().eval(), tmp_path / "x.pt", tmp_path / "out.safetensors"
    so.training.cut_(model, 0.5)
    torch.save({"model": nn.DataParallel(model).half(), "epoch": 3}, file)
    options = ("--out", out, "--input", "6", "--budget", 0.1)
    output = " ".join(run("convert", file, *options, ok=False).output.split())
    assert "a whole model, pickled, of tests.cli.test_checkpoints.Doubled" in output
    assert "--trust-pickle reads that, by running whatever code is in the file" in output
    run("convert", file, *options, "--trust-pickle")
    x = torch.randn(3, 6)
    torch.testing.assert_close(so.load(out, Doubled().eval())(x), model.float()(x))
    help_text = " ".join(run("convert", "--help").output.replace("│", "").split())
    assert "runs whatever code is in the file" in help_text


def zipped(name: str) -> bytes:
    with io.BytesIO() as memory:
        with zipfile.ZipFile(memory, "w") as archive:
            archive.writestr(name, "x")
        return memory.getvalue()


UNREADABLE = {
    "empty": (b"", "it is empty"),
    "a web page": (b"<!DOCTYPE html><html>404", "a web page or XML"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
    "text": (b"epoch,loss\n1,0.5\n", "text that begins 'epoch,loss"),
    "gzip": (gzip.compress(b"x"), "compressed by gzip: unpack it first"),
    "another zip": (zipped("photo.txt"), "a zip file of photo.txt"),
    "arrays": (zipped("w.npy"), "name must end in .npz"),
    "an exported program": (zipped("m/models/model.json"), "a program of torch.export"),
    "a plain pickle": (pickle.dumps({"w": 1}), "a plain pickle, not written by torch.save"),
    "bytes": (bytes(range(200, 256)), "56 bytes that begin c8 c9"),
    "safetensors": (b"\x08" + bytes(7) + b"{}      ", "name must end in .safetensors"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_an_unreadable_file_holds_is_said(case, tmp_path):
    content, words = UNREADABLE[case]
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError) as error:
        checkpoints.contents(tmp_path / "x.pt")
    assert words in str(error.value)


def test_what_a_file_without_a_network_holds_is_said(tmp_path):
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2, 2)}}, "param_groups": []}
    for content, words in (
        (optimizer, "a dict with state, param_groups"),
        ({"epoch": 3, "loss": torch.tensor(0.5)}, "a dict with epoch, loss"),
        (torch.ones(3), "Tensor"),
    ):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(UserError, match=f"holds no names with tensors, but {words}"):
            checkpoints.contents(tmp_path / "x.pt")


class Flags:
    """Pickles as a dtype that says of itself that its numbers are pointers."""

    def __reduce__(self):
        flags = (3, "<", None, None, None, -1, -1, 63)
        return np.dtype, ("f8", False, True), flags


def test_a_hostile_dtype_is_not_handed_to_numpy(tmp_path):
    scalar = np.float64(0).__reduce__()[0]

    class Scalar:
        def __reduce__(self):
            return scalar, (Flags(), b"\x01" * 8)

    state = dict(network().state_dict())
    torch.save({"net": state, "acc": Scalar()}, tmp_path / "x.pt")
    assert_read(tmp_path / "x.pt", state)
    number = torch_files.load(tmp_path / "x.pt")[1]["acc"]
    assert number == np.frombuffer(b"\x01" * 8)[0] and not np.dtype("f8").hasobject
