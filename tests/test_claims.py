"""The program that holds published claims against measurements, on networks of no size."""

import json
import shutil
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import _claim_cases as cases
from benchmarks import _claim_masks as masks_
from benchmarks import _claim_measure, _claim_steps, claims
from benchmarks import _claim_training as claims_training
from benchmarks._claim_finding import HOLDS, NOT_HERE, REFUTED, SHORT
from benchmarks._claim_measure import check, packed_all
from sparse_ops import masks, models
from sparse_ops.cli import claims as claims_command
from sparse_ops.patterns import PSD1_P16, PSD2_P8
from sparse_ops.report import count_macs
from sparse_ops.training import passes
from tests.claim_rows import row as row_of
from tests.cli.running import run

# As published; below, the network is another.
MOBILE = cases.CASES["sabr-mobilenet_v2"]
NETWORKS = dict(cases.NETWORKS)
TINY = claims.Pace(images=64, epochs=1, budget_s=0.02, seconds=0.02, compile_s=None)


def conv_net(channels: int, layers: int, classes: int = 10) -> nn.Module:
    """So many layers with a weight, 16 wide; the last is linear."""
    found: OrderedDict[str, nn.Module] = OrderedDict()
    before = channels
    for number in range(layers - 1):
        found[f"conv{number}"] = nn.Conv2d(before, 16, 3, 2 if number < 2 else 1, padding=1)
        found[f"relu{number}"] = nn.ReLU()
        before = 16
    found |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    found["fc"] = nn.Linear(16, classes)
    return nn.Sequential(found)


@pytest.fixture(scope="module")
def tiny():
    """Every network is a small one; gives what runs the program, and what that has said."""
    grey = partial(models.small_vgg, width=8)
    with pytest.MonkeyPatch.context() as patch:
        for name, (_, shape) in list(cases.NETWORKS.items()):
            small = grey if shape[0] == 1 else partial(conv_net, 3, 10)
            shape = shape if shape[0] == 1 else (3, 12, 12)
            if name.startswith("lenet"):
                small = models.lenet300
            patch.setitem(cases.NETWORKS, name, (small, shape))
        # A process of its own would train the networks that are not small.
        taken = {"weight": 300, "filter": 200}
        patch.setattr(_claim_steps, "peak_bytes", lambda network, mode, batch: taken[mode])
        # The published totals are of the published network.
        mobile = replace(MOBILE, masks=masks_.by_totals(0.2, 0.22))
        patch.setitem(cases.CASES, "sabr-mobilenet_v2", mobile)

        def go(folder: Path, *only: str, train_only: bool = False) -> dict:
            said: list[str] = []
            out = folder / "claims.json"
            options = {"only": only, "train_only": train_only}
            claims.run(out, folder / "work", TINY, **options, say=said.append)
            return (json.loads(out.read_text()) if out.is_file() else {}) | {"said": said}

        yield go


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """A folder with what three cases came to."""
    folder = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patch:
        # What the machine can do is measured for seconds, and is of no matter here.
        patch.setattr(_claim_measure, "limits", lambda seconds: (1e11, 1e10))
        tiny(folder, *THREE)
    return folder


THREE = ("sabr-vgg11", "gsm-lenet300", "spred-filter-sgd-80")


def check_content(content: dict) -> None:
    for row in content["rows"]:
        # On a busy machine one pair is what there is time for.
        assert row["low"] <= row["speedup"] <= row["high"] and row["pairs"] >= 1
        assert 0 < row["kept"] <= row["weights"] and row["threads"] >= 1 and row["torch"]
        # Layers are counted for the whole batch.
        assert sum(layer["dense"] for layer in row["layers"]) == row["macs"] * row["batch"]
        assert all(size > 0 for size in row["bytes"].values())
    for finding in content["claims"]:
        assert finding["verdict"] in (HOLDS, SHORT, REFUTED, NOT_HERE)
        assert finding["why"] or finding["measured"] is not None
        if finding["verdict"] == NOT_HERE:
            assert finding["measured"] is None and finding["why"]
        else:
            keys = {f"{row['case']}@{row['batch']}" for row in content["rows"]}
            assert finding["rows"] and set(finding["rows"]) <= keys


def test_a_row_is_written_with_all_that_a_figure_depends_on(done):
    content = json.loads((done / "claims.json").read_text())
    check_content(content)
    keys = [(row["case"], row["batch"]) for row in content["rows"]]
    assert keys == [
        ("sabr-vgg11", 1),
        ("gsm-lenet300-60x", 1),
        ("gsm-lenet300-60x", 64),
        ("spred-filter-sgd-80", 16),
    ]
    first = content["rows"][0]
    densities = [layer["nnz"] / layer["weights"] for layer in first["layers"]]
    assert densities == pytest.approx([1 - p / 100 for p in masks_.SABR_VGG11], abs=0.02)
    about = {finding["quantity"] for finding in content["claims"] if "lenet300" in finding["claim"]}
    assert about == {"weights", "bytes on disk", "time"}


def test_what_has_been_measured_is_not_measured_again(tiny, done):
    before = json.loads((done / "claims.json").read_text())
    again = tiny(done, *THREE)
    assert again["said"] == []
    assert again["rows"] == before["rows"] and again["claims"] == before["claims"]


def test_what_is_trained_is_trained_once(tiny, done, tmp_path, monkeypatch):
    row = json.loads((done / "claims.json").read_text())["rows"][-1]
    assert (row["images"], row["tested"]) == (64, 64)
    assert 0 < row["accuracy"] < 1 and "steps" not in row
    # 80 % of the filters of four layers: 6 of 8, 6 of 8, 12 of 16, 12 of 16 of theirs.
    assert row["sparsity"] == pytest.approx(0.75, abs=0.01)
    monkeypatch.setattr(claims, "measure", lambda *_: row)
    shutil.copytree(done / "work", tmp_path / "work")
    # Neither trained nor tested a second time.
    monkeypatch.setattr(claims_training, "evaluate", None)
    monkeypatch.setattr(passes, "one_epoch", None)
    (again,) = tiny(tmp_path, "spred-filter-sgd-80")["rows"]
    assert (again["accuracy"], again["sparsity"]) == (row["accuracy"], row["sparsity"])


def test_training_alone_measures_nothing_and_is_taken_up_by_the_measurement(
    tiny, tmp_path, monkeypatch
):
    case = "spred-filter-adam-40"
    with monkeypatch.context() as patch:
        patch.setattr(claims, "measure", None)
        trained = tiny(tmp_path, "gsm-lenet300", case, train_only=True)
    assert trained.keys() == {"said"} and len(trained["said"]) == 2
    assert trained["said"][1].endswith("% of 64 test images")
    monkeypatch.setattr(claims, "measure", lambda *_: row_of(case, 1.5, 16) | {"low": 1.2})
    monkeypatch.setattr(claims_training, "evaluate", None)
    (found,) = tiny(tmp_path, case)["rows"]
    assert f"{found['accuracy']:.2%}" in trained["said"][1]


def test_steps_of_training_are_measured_by_turns(tiny, tmp_path, monkeypatch):
    case = "levels-weight-80"
    monkeypatch.setattr(claims, "measure", lambda *_: row_of(case, 1.5))
    content = tiny(tmp_path, case)
    assert content["said"][1].startswith("  batch 1:")
    steps = content["rows"][0]["steps"]
    assert steps["low"] <= steps["ratio"] <= steps["high"]
    # However short the pace.
    assert steps["batch"] == TINY.batch_size and steps["pairs"] + steps["dropped"] >= 5
    judged = {c["quantity"]: c["measured"] for c in content["claims"]}
    assert judged["training time"] == steps["ratio"] and judged["bytes in training"] == 1.5


# As it is before a fixture puts another in its place.
peak_bytes = _claim_steps.peak_bytes


def test_memory_of_training_is_that_of_a_process_that_does_nothing_else():
    if not _claim_steps.STATUS.is_file():
        pytest.skip("this system does not say what a process took at most")
    held = torch.ones(2**28)
    taken = peak_bytes("lenet5", "weight", 512)
    # At least what 512 images are after the first convolution, 20 maps of 24×24; not what is held
    # here.
    assert 512 * 20 * 24 * 24 * 4 < taken < held.nbytes / 2
    with pytest.raises(RuntimeError, match="training nothing by itself failed:"):
        peak_bytes("nothing", "weight", 1)


def test_cases_are_measured_in_the_order_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "measure", lambda *_: row_of("", 1.5))
    said = tiny(tmp_path, "gsm-lenet5-300x", "gsm-lenet300", "psconv-vgg16")["said"]
    names = [line.partition(":")[0] for line in said if not line.startswith(" ")]
    assert names == ["gsm-lenet5-300x", "gsm-lenet300-60x", "psconv-vgg16"]


@pytest.mark.slow
def test_every_claim_gets_a_verdict(tiny, tmp_path):
    content = tiny(tmp_path)
    check_content(content)
    assert {row["case"] for row in content["rows"]} == set(cases.CASES)
    sources = {finding["source"] for finding in content["claims"]}
    assert len(sources) == 6  # five documents, and what all of them say
    quantities = {finding["quantity"] for finding in content["claims"]}
    assert {"time", "operations", "bytes on disk", "bytes in memory", "accuracy"} <= quantities
    assert {"time saved", "training time", "inference time", "weights"} <= quantities
    assert "bytes in training" in quantities


def test_a_network_that_computes_something_else_is_never_fast():
    model = models.lenet300().eval()
    x = torch.randn(2, 1, 28, 28)
    other = models.lenet300().eval()
    check(model, model, x)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.fc3.weight[0, 0] += 0.05
    with pytest.raises(RuntimeError, match="wrong before it is fast"):
        check(model, other, x)


def test_erk_meets_the_sparsity_and_keeps_small_layers_denser():
    model = models.resnet56()
    made = masks_.erk(0.9)(model, torch.zeros(1, 3, 32, 32))
    assert masks.sparsity(made) == pytest.approx(0.9, abs=1e-4)
    density = {name: float(mask.float().mean()) for name, mask in made.items()}
    assert density["conv1.conv.weight"] > density["stage2.4.conv1.conv.weight"]
    assert density["stage2.4.conv1.conv.weight"] > density["stage3.4.conv1.conv.weight"]
    assert all(bool((dict(model.named_parameters())[n][~m] == 0).all()) for n, m in made.items())


def test_masks_of_mobilenet_meet_both_published_totals():
    model = models.mobilenet_v2(14, variant="imagenet").eval()
    example = torch.zeros(1, 3, 128, 128)
    MOBILE.masks(model, example)
    layers = count_macs(model, example)
    assert sum(l.nnz for l in layers) == pytest.approx(85_939, rel=0.001)
    assert sum(l.weights for l in layers) == 2_207_680
    macs = 1 - sum(l.kept for l in layers) / sum(l.dense for l in layers)
    assert macs == pytest.approx(0.8534, abs=0.001)
    with pytest.raises(ValueError, match=r"macs_kept must be in \[0\.0"):
        masks_.by_totals(0.04, 0.9)(model, example)


@pytest.mark.parametrize(
    ("network", "pattern"),
    [
        ("shufflenet-grey", PSD1_P16),
        ("shufflenet-wide-grey", PSD2_P8),
        ("mobilenet_v2-wide-grey", PSD2_P8),
    ],
)
def test_other_networks_are_made_as_large_as_what_is_left_of_resnet18(network, pattern):
    build, _ = NETWORKS[network]
    found = sum(layer.dense for layer in count_macs(build().eval(), torch.zeros(1, *cases.GREY)))
    resnet = models.resnet18(in_channels=1).eval()
    masks_.on_pattern(pattern)(resnet, torch.zeros(1))
    wanted = sum(layer.kept for layer in count_macs(resnet, torch.zeros(1, *cases.GREY)))
    assert found == pytest.approx(wanted, rel=0.01)


def test_everything_that_has_a_mask_is_packed_for_the_disk():
    model = conv_net(3, 4).eval()
    made = masks_.on_pattern(PSD1_P16)(model, torch.zeros(1)) | {"fc.weight": torch.eye(10, 16) > 0}
    packed = packed_all(model, made)
    kinds = [type(m).__name__ for m in packed.modules()]
    assert kinds.count("PeriodicConv2d") == 2 and kinds.count("CSRLinear") == 1


def test_the_smallest_filters_and_what_is_behind_them_are_removed():
    model = models.small_vgg(width=8).eval()
    norms = conv_norms(model)
    made = masks_.smallest("filter", 0.5)(model, torch.zeros(1))
    assert len(made) == len(norms)
    for name, mask in made.items():
        gone = ~mask.flatten(1).any(1)
        assert bool(gone.sum() == len(gone) // 2)
        assert norms[name][gone].max() <= norms[name][~gone].min()


def conv_norms(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of the filters of all convolutions but the first."""
    found = {
        f"{name}.weight": layer.weight.detach().flatten(1).norm(dim=1)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d)
    }
    return dict(list(found.items())[1:])


def test_the_command_shows_the_table_and_refuses_what_it_does_not_know(done):
    files = ["--out", done / "claims.json", "--work", done / "work"]
    output = run("claims", *files, "--only", "sabr-vgg11").output
    assert "wrote" in output and "cannot be" in output
    assert "there are psconv-resnet18" in run("claims", *files, "--only", "x", ok=False).output
    assert "--images must be at least 1" in run("claims", "--images", "0", ok=False).output
    assert "--amp must be bfloat16" in run("claims", "--amp", "half", ok=False).output


def test_the_command_is_kept_without_folders():
    given = "claims --only sabr --work /a --out=/b/c.json --threads 1 --folder /d"
    kept = claims_command._without_folders(given.split())
    assert kept == ["claims", "--only", "sabr", "--threads", "1"]


def test_figures_of_two_machines_are_not_mixed(tiny, done, tmp_path):
    content = json.loads((done / "claims.json").read_text())
    content["machine"]["cpu"] = "another"
    (tmp_path / "claims.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was measured on another"):
        tiny(tmp_path, "gsm-lenet300")


def test_outside_of_a_checkout_the_command_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_command, "__file__", str(tmp_path / "a" / "b" / "claims.py"))
    output = " ".join(run("claims", ok=False).output.split())
    assert "claims are measured from a checkout" in output
