import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sparse_ops as so
from tests.convert.models import EXAMPLE, Net, masks_of_net, net, says
from tests.packed_files import contents, rewritten


@pytest.fixture
def fast():
    plan = so.plan(net(), torch.randn(EXAMPLE), masks_of_net(), measure=says(2.0), progress=False)
    return plan.apply(net())


@pytest.fixture
def path(tmp_path, fast):
    so.save(fast, tmp_path / "packed.safetensors")
    return tmp_path / "packed.safetensors"


def test_what_is_loaded_computes_exactly_what_was_saved(fast, path):
    fresh = Net().eval()
    loaded = so.load(path, fresh)
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(loaded(x), fast(x))
    assert type(fresh.periodic) is nn.Conv2d
    assert repr(loaded) == repr(fast)


def test_a_plan_that_came_to_one_program_is_loaded_without_the_model(tmp_path):
    # Channel-pruned layers run beside programs.
    masks = {name: mask for name, mask in masks_of_net().items() if name != "stem.weight"}
    plan = so.plan(net(), torch.randn(EXAMPLE), masks, measure=says(2.0), progress=False)
    fast = plan.apply(net())
    so.save(fast, tmp_path / "x")
    plain = so.load(tmp_path / "x")
    assert plain.state_dict().keys() == fast.state_dict().keys()
    for count in (1, 3, 16):
        x = torch.randn(count, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(plain(x), fast(x), rtol=1e-5, atol=1e-6)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(plain(x), fast(x), rtol=1e-4, atol=1e-5)


def test_the_mode_of_the_fresh_model_is_kept(path):
    assert so.load(path, Net()).training
    assert not so.load(path, Net().eval()).periodic.training


def test_packed_layers_are_smaller_than_dense_ones_on_disk(tmp_path, path):
    save_file(net().state_dict(), tmp_path / "dense.safetensors")
    assert path.stat().st_size < (tmp_path / "dense.safetensors").stat().st_size + 4096
    tensors, _, _ = contents(path)
    assert "periodic.weight" not in tensors and "periodic.values" in tensors


def test_a_model_built_with_sparse_layers_is_saved_and_loaded(tmp_path):
    def build():
        return nn.Sequential(
            so.nn.PeriodicConv2d(8, 8, 3, padding=1, pattern=so.patterns.PS4_P4, activation="silu"),
            nn.Flatten(),
        )

    model = build()
    so.save(model, tmp_path / "x.safetensors")
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(so.load(tmp_path / "x.safetensors", build())(x), model(x))


def test_shared_and_half_precision_weights_are_saved(tmp_path):
    def build():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).bfloat16()
        model[1].weight = model[0].weight
        return model

    model = build()
    so.save(model, tmp_path / "x.safetensors")
    loaded = so.load(tmp_path / "x.safetensors", build())
    assert torch.equal(loaded[0].weight, model[0].weight)
    with pytest.raises(ValueError, match="bfloat16"):
        so.load(tmp_path / "x.safetensors", build().float())


def test_a_backend_that_cannot_run_here_becomes_auto(path, fast):
    tensors, metadata, model = contents(path)
    from sparse_ops.ops import _native

    broken = dict.fromkeys(_native.REFUSES, "another machine")
    model["layers"]["fc"]["backend"] = "avx512"
    rewritten(path, tensors, metadata, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "REFUSES", broken)
        loaded = so.load(path, Net().eval())
        assert loaded.fc.backend == "auto"
        loaded(torch.randn(EXAMPLE))


def test_not_a_number_is_a_weight_like_others(path):
    tensors, metadata, model = contents(path)
    tensors["fc.values"][0] = float("nan")
    rewritten(path, tensors, metadata, model)
    assert so.load(path, Net().eval())(torch.randn(EXAMPLE)).isnan().any()


def set_layer(name, **changes):
    return lambda tensors, metadata, model: model["layers"][name].update(changes)


def set_tensor(name, change):
    def apply(tensors, metadata, model):
        tensors[name] = change(tensors[name].clone())

    return apply


def put(tensor, index, value):
    tensor[index] = value
    return tensor


HOSTILE = {
    "a plain file": (lambda t, m, d: m.pop("format"), "plain tensors"),
    "another format": (lambda t, m, d: m.update(format="x"), "not sparse_ops.packed"),
    "a newer version": (lambda t, m, d: m.update(version="3"), "version"),
    "an older version": (lambda t, m, d: m.update(version="1"), "convert the model again"),
    "no version": (lambda t, m, d: m.pop("version"), "version"),
    "no layers": (lambda t, m, d: d.pop("layers"), "layers"),
    "layers as a list": (lambda t, m, d: d.update(layers=[1]), "layers"),
    "layers of no content": (lambda t, m, d: d["layers"].update(fc=None), "layers"),
    "no folded": (lambda t, m, d: d.pop("folded"), "folded"),
    "an unknown layer": (lambda t, m, d: d["layers"].update(x={}), "does not have"),
    "an unknown kind": (set_layer("fc", kind="Evil"), "kind"),
    "a kind that is no word": (set_layer("fc", kind=["CSRLinear"]), "kind"),
    "the kind of another layer": (set_layer("fc", kind="CSRConv2d"), "cannot stand for"),
    "another format of the kind": (set_layer("fc", format="periodic"), "format"),
    "a negative shape": (set_layer("fc", shape=[-10, 12]), "shape"),
    "a huge shape": (set_layer("fc", shape=[2**62, 2**62]), "shape"),
    "another shape": (set_layer("fc", shape=[12, 10]), "shape"),
    "a shape that is none": (set_layer("fc", shape="10,12"), "shape"),
    "another dtype": (set_layer("fc", dtype="float16"), "dtype"),
    "an unknown activation": (set_layer("fc", activation="exec"), "a newer one may have written"),
    "no word on the activation": (lambda t, m, d: d["layers"]["fc"].pop("activation"), "not there"),
    "an activation of lists": (set_layer("fc", activation=[]), "activation"),
    "an activation out of nothing": (set_layer("fc", activation="relu"), "does not have"),
    "another activation": (set_layer("periodic", activation="silu"), "relu2"),
    "an unknown backend": (set_layer("fc", backend="rm -rf"), "backend"),
    "another stride": (set_layer("anything", stride=[1, 1]), "stride"),
    "another padding": (set_layer("anything", padding=[9, 9]), "padding"),
    "other groups": (set_layer("anything", groups=2), "groups"),
    "a bias that is no truth": (set_layer("fc", bias="yes"), "bias"),
    "no bias": (set_layer("fc", bias=False), "bias"),
    "no supports": (set_layer("periodic", supports=[]), "supports"),
    "supports of words": (set_layer("periodic", supports=[["a"]]), "taps"),
    "too many supports": (set_layer("periodic", supports=[[0]] * 5000), "supports"),
    "a tap outside": (set_layer("periodic", supports=[[9]]), "taps"),
    "a negative tap": (set_layer("periodic", supports=[[-1]]), "taps"),
    "another pattern": (set_layer("periodic", supports=[[0]]), "values must be"),
    "another kernel size": (set_layer("periodic", kernel_size=[9, 1]), "kernel_size"),
    "an unknown fold": (
        lambda t, m, d: d["folded"].update(norm1={"into": "stem", "what": "x"}),
        "cannot be",
    ),
    "a fold into nothing": (
        lambda t, m, d: d["folded"].update(norm1={"into": "nowhere", "what": "batch_norm"}),
        "has not both",
    ),
    "a fold of a layer": (
        lambda t, m, d: d["folded"].update(plain={"into": "stem", "what": "batch_norm"}),
        "no BatchNorm",
    ),
    "a fold into a norm": (
        lambda t, m, d: d["folded"].update(norm1={"into": "norm2", "what": "batch_norm"}),
        "cannot be",
    ),
    "a missing tensor": (lambda t, m, d: t.pop("fc.values"), "missing"),
    "a missing dense tensor": (lambda t, m, d: t.pop("plain.weight"), "missing"),
    "a tensor too many": (lambda t, m, d: t.update(x=torch.ones(1)), "no place"),
    "a dense tensor of another shape": (
        set_tensor("plain.weight", lambda t: t[:-1].contiguous()),
        "plain.weight must be",
    ),
    "values of another length": (set_tensor("fc.values", lambda t: t[:-1].clone()), "values"),
    "values of another dtype": (set_tensor("fc.values", lambda t: t.double()), "values"),
    "values that are numbers of things": (set_tensor("fc.values", lambda t: t.int()), "values"),
    "a bias of another length": (set_tensor("fc.bias", lambda t: t[:-1].clone()), "bias"),
    "a column out of range": (set_tensor("fc.col_indices", lambda t: put(t, 0, 12)), "col_"),
    "a huge column": (set_tensor("fc.col_indices", lambda t: put(t, -1, 2**31 - 1)), "col_"),
    "a negative column": (set_tensor("fc.col_indices", lambda t: put(t, 0, -1)), "col_"),
    "columns of another dtype": (set_tensor("fc.col_indices", lambda t: t.long()), "int32"),
    "unsorted columns": (set_tensor("fc.col_indices", lambda t: t.flip(0)), "rise"),
    "a row that ends too late": (
        set_tensor("fc.crow_indices", lambda t: put(t, -1, 2**20)),
        "crow_indices",
    ),
    "a row that falls": (set_tensor("fc.crow_indices", lambda t: put(t, 1, 30)), "fall"),
    "too few rows": (set_tensor("fc.crow_indices", lambda t: t[1:].clone()), "crow_indices"),
    "a channel out of range": (
        set_tensor("stem.kept_out_channels", lambda t: put(t, -1, 8)),
        "out_channels",
    ),
    "a channel twice": (set_tensor("stem.kept_out_channels", lambda t: put(t, 1, 0)), "rise"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_with_what_is_wrong(path, case):
    change, words = HOSTILE[case]
    tensors, metadata, model = contents(path)
    change(tensors, metadata, model)
    rewritten(path, tensors, metadata, model)
    with pytest.raises(ValueError, match=words):
        so.load(path, Net().eval())


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "null", "[]", '{"layers": 1, "folded": {}}', "9" * 9999]
)
def test_a_description_that_is_none_is_refused(path, text):
    tensors, metadata, _ = contents(path)
    save_file(tensors, path, {**metadata, "model": text})
    with pytest.raises(ValueError, match="description"):
        so.load(path, Net().eval())


def test_a_file_that_is_none_is_refused(tmp_path):
    for content in (b"", b"\0" * 7, b"PK\3\4 pickle", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match="x"):
            so.load(tmp_path / "x", Net())
    with pytest.raises(OSError, match="missing"):
        so.load(tmp_path / "missing", Net())
    with pytest.raises(OSError, match="folder"):
        so.load(tmp_path, Net())


def test_a_file_for_another_model_is_refused(path):
    with pytest.raises(ValueError, match=r"does not have|has not both"):
        so.load(path, nn.Sequential(nn.Linear(12, 10)))


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_refused_or_loads_as_a_valid_model(path, seed):
    whole = path.read_bytes()
    chance = random.Random(seed)
    shapes = {name: t.shape for name, t in so.load(path, Net().eval()).state_dict().items()}
    header = 8 + int.from_bytes(whole[:8], "little")
    x = torch.randn(1, 3, 8, 8)
    loaded = 0
    for turn in range(60):
        damaged = bytearray(whole)
        if turn % 6 == 5:
            del damaged[chance.randrange(len(whole)) :]
        else:
            for _ in range(chance.choice((1, 1, 4))):
                place = chance.randrange(header) if turn % 2 else chance.randrange(len(whole))
                damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            model = so.load(path, Net().eval())
        except ValueError:
            continue
        loaded += 1
        assert {name: t.shape for name, t in model.state_dict().items()} == shapes
        model(x)
    assert loaded < 60


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, fast, monkeypatch):
    target = tmp_path / "x.safetensors"
    target.write_text("before")

    def full(*arguments):
        (next(tmp_path.glob(".x*"))).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparse_ops._files.save_file", full)
    with pytest.raises(OSError, match="space"):
        so.save(fast, target)
    assert target.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(OSError, match="no folder"):
        so.save(fast, tmp_path / "missing" / "x")
    with pytest.raises(OSError, match="folder"):
        so.save(fast, tmp_path)


JUNK = (None, True, -1, 2**70, "x", [], {}, [[]], [-1, 2**70])


def test_junk_in_any_place_of_the_description_is_refused_or_harmless(path):
    tensors, metadata, model = contents(path)
    x = torch.randn(1, 3, 8, 8)
    tables = [table for part in ("layers", "folded") for table in model[part].values()]
    fresh = Net().eval()
    harmless = 0
    for table in tables:
        for key, value in list(table.items()):
            for junk in JUNK:
                table[key] = junk
                rewritten(path, tensors, metadata, model)
                try:
                    loaded = so.load(path, fresh)
                except ValueError:
                    continue
                loaded(x)
                harmless += junk != value
            table[key] = value
    assert harmless == 0
