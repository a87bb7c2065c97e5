"""What pre-defined sparsity saves in VGG16 and ResNet18: the published table, to the weight."""

import hashlib

import pytest
import torch
from torch import nn

from sparse_ops.masks import prunable
from sparse_ops.models import mobilenet_v2, resnet18, vgg16
from sparse_ops.patterns import NAMED
from sparse_ops.report import count_macs
from sparse_ops.training import Predefined
from sparse_ops.training.predefined import Aperiodic

# VGG16: kept weights, MACs, parameters saved in percent, dense MACs over these; then ResNet18.
TABLE = {
    "PSD4_P8": (7_565_504, 161_813_504, 48.55, 1.936, 5_824_192, 289_346_560, 47.79, 1.920),
    "PSD4_P16": (7_054_784, 151_000_064, 52.01, 2.074, 5_442_752, 270_341_120, 51.20, 2.055),
    "PSD2_P8": (4_705_472, 101_258_240, 67.97, 3.093, 3_688_128, 182_916_096, 66.91, 3.037),
    "PSD2_P16": (3_990_464, 86_119_424, 72.82, 3.637, 3_154_112, 156_308_480, 71.69, 3.553),
    "PSD1_P8": (3_275_456, 70_980_608, 77.67, 4.413, 2_620_096, 129_700_864, 76.47, 4.282),
    "PS2_P6": (3_275_456, 70_980_608, 77.67, 4.413, 2_620_096, 129_700_864, 76.47, 4.282),
    "PSD1_P16": (2_458_304, 53_679_104, 83.22, 5.835, 2_009_792, 99_292_160, 81.93, 5.594),
    "PS4_P4": (6_544_064, 140_186_624, 55.48, 2.234, 5_061_312, 251_335_680, 54.62, 2.210),
    "PS1_P9": (1_641_152, 36_377_600, 88.77, 8.610, 1_399_488, 68_883_456, 87.39, 8.063),
}
# Shape: kept weights, and the start of the SHA-1 of the mask as bytes; the first three patterns are
# those of the authors' code.
MASKS = {
    "PSD2_P8": {
        (4, 4): (32, "f5f0c0798a00"),
        (8, 8): (184, "69f120fb8cfa"),
        (16, 16): (736, "3cbaea7b0203"),
        (5, 7): (98, "eb910706ffb2"),
        (64, 64): (11_776, "f4b2b21732db"),
        (128, 64): (23_552, "fe02904b00ef"),
        (512, 512): (753_664, "4d27df636747"),
    },
    "PSD4_P8": {
        (4, 4): (64, "b39154ba28ea"),
        (8, 8): (296, "e7f7912f0cce"),
        (16, 16): (1_184, "7ebaf58d0c26"),
        (5, 7): (160, "7f9cc4232c52"),
        (64, 64): (18_944, "4c0c3ff68441"),
        (128, 64): (37_888, "9b0f64558bcf"),
        (512, 512): (1_212_416, "6b23cce205c7"),
    },
    "PSD4_P16": {
        (4, 4): (64, "b39154ba28ea"),
        (8, 8): (256, "1a21f36577cc"),
        (16, 16): (1_104, "ae854d71d18f"),
        (5, 7): (140, "5f83ee773a35"),
        (64, 64): (17_664, "3cec04524843"),
        (128, 64): (35_328, "9179e81b14be"),
        (512, 512): (1_130_496, "e7d7ee733d62"),
    },
    "PSD2_P16": {(16, 16): (624, "df6d9ce492be"), (64, 64): (9_984, "22bc4e0620a8")},
    "PSD1_P8": {(16, 16): (512, "ffc3faeb10b0"), (64, 64): (8_192, "fdadaf8d6f9b")},
    "PSD1_P16": {(16, 16): (384, "e30af10dd14e"), (64, 64): (6_144, "cbefea9c38ea")},
    "PS4_P4": {(64, 64): (16_384, "c0bfeaa8dde2")},
    "PS2_P6": {(64, 64): (8_192, "ded8b6574d8f")},
    "PS1_P9": {(64, 64): (4_096, "ae657b797dc3")},
}


def counts(model: nn.Module) -> tuple[int, int]:
    layers = count_macs(model.eval(), torch.zeros(1, 3, 32, 32))
    return sum(layer.nnz for layer in layers), sum(layer.kept for layer in layers)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize(("build", "column"), [(vgg16, 0), (resnet18, 4)])
def test_what_is_saved_is_what_was_published(build, column, name):
    kept, macs, saved, ratio = TABLE[name][column : column + 4]
    model = build()
    # No weight is zero by chance before it is masked.
    for weight in prunable(model).values():
        nn.init.ones_(weight)
    dense_kept, dense_macs = counts(model)
    Predefined(pattern=NAMED[name]).prepare(model)
    assert counts(model) == (kept, macs)
    parameters = sum(p.numel() for p in model.parameters())
    assert round(100 * (dense_kept - kept) / parameters, 2) == saved
    if (build, name) == (vgg16, "PSD1_P16"):
        assert parameters - dense_kept + kept == 2_470_986
    # 4.41249 stands in the table as 4.413: it was rounded twice.
    assert round(round(dense_macs / macs, 4) + 1e-9, 3) == ratio


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name, shapes in MASKS.items() for shape in shapes]
)
def test_masks_are_those_of_the_authors_to_the_last_tap(name, shape):
    kept, digest = MASKS[name][shape]
    mask = NAMED[name].mask((*shape, 3, 3))
    assert int(mask.sum()) == kept
    assert hashlib.sha1(mask.numpy().astype("uint8").tobytes()).hexdigest()[:12] == digest


@pytest.mark.parametrize(
    ("taps", "kept", "macs"),
    [(4, 2_226_144, 87_888_384), (2, 2_211_872, 86_581_760), (1, 2_204_736, 85_928_448)],
)
def test_random_taps_save_next_to_nothing_in_mobilenet(taps, kept, macs):
    model = mobilenet_v2()
    for weight in prunable(model).values():
        nn.init.ones_(weight)
    method = Predefined(pattern=Aperiodic(taps))
    method.prepare(model)
    assert counts(model) == (kept, macs)
    # The depthwise ones, not the first and not those of 1×1.
    assert {mask.shape[1:] for mask in method.masks.values()} == {(1, 3, 3)}
    assert len(method.masks) == 17


@pytest.mark.parametrize("taps", [1, 4, 8, 9])
def test_each_kernel_keeps_as_many_random_taps(taps):
    shapes = {"a": (16, 8, 3, 3), "b": (16, 8, 3, 3)}
    masks = Aperiodic(taps, seed=3).masks(shapes)
    for name, mask in masks.items():
        assert mask.shape == shapes[name]
        assert bool((mask.flatten(2).sum(2) == taps).all())
    again, other = Aperiodic(taps, seed=3).masks(shapes), Aperiodic(taps, seed=4).masks(shapes)
    assert all(torch.equal(masks[name], again[name]) for name in masks)
    if taps < 9:
        assert not torch.equal(masks["a"], masks["b"])
        assert not torch.equal(masks["a"], other["a"])


def test_every_tap_is_as_likely_as_another():
    mask = Aperiodic(2).masks({"w": (512, 512, 3, 3)})["w"]
    share = mask.float().mean((0, 1)).flatten()
    # 262,144 kernels: the standard deviation of a share is 0.0008.
    assert bool(((share - 2 / 9).abs() < 0.005).all())


@pytest.mark.parametrize("taps", [0, 10, -1])
def test_more_taps_than_a_kernel_has_are_refused(taps):
    with pytest.raises(ValueError, match=rf"taps must be in \[1, 9\], got {taps}"):
        Aperiodic(taps)


def test_shapes_of_another_kernel_are_refused():
    with pytest.raises(ValueError, match=r"shape must be \(O, I, 3, 3\), got \(4, 4, 5, 5\)"):
        Aperiodic(2).masks({"w": (4, 4, 5, 5)})
