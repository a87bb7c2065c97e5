"""The networks of the published experiments have the published sizes, to the last weight."""

import pytest
import torch
from torch import nn

from sparse_ops import models
from sparse_ops.masks import prunable
from sparse_ops.report import count_macs
from sparse_ops.training.recipes import read

# model: parameters, weights of Conv2d and Linear, side of the image, multiply-accumulates.
SIZES = {
    "lenet300": (lambda: models.lenet300(), 266_610, 266_200, 28, 266_200),
    "lenet5": (lambda: models.lenet5(), 431_080, 430_500, 28, 2_293_000),
    "vgg11, 14 gestures": (lambda: models.vgg11(14), 22_073_230, 22_069_952, 128, 2_457_082_880),
    "vgg16": (lambda: models.vgg16(), 14_728_266, 14_715_584, 32, 313_201_664),
    "vgg16, Tiny ImageNet": (
        lambda: models.vgg16(200),
        None,
        14_710_464 + 512 * 200,
        64,
        1_252_786_176 + 512 * 200,
    ),
    "vgg19": (lambda: models.vgg19(), 20_040_522, 20_024_000, 32, 398_136_320),
    "vgg19, 100 classes": (lambda: models.vgg19(100), 20_086_692, 20_070_080, 32, None),
    "vgg19, Tiny ImageNet": (
        lambda: models.vgg19(200),
        20_137_992,
        20_121_280,
        64,
        1_592_627_200,
    ),
    "resnet18": (lambda: models.resnet18(), 11_173_962, 11_164_352, 32, 555_422_720),
    "resnet18, 100 classes": (lambda: models.resnet18(100), 11_220_132, None, 32, None),
    "resnet18, Tiny ImageNet": (
        lambda: models.resnet18(200),
        None,
        None,
        64,
        2_221_670_400 + 512 * 200,
    ),
    # As torchvision counts its own.
    "resnet18, ImageNet": (
        lambda: models.resnet18(1000, stem="imagenet"),
        11_689_512,
        None,
        224,
        1_814_073_344,
    ),
    "resnet32": (lambda: models.resnet32(), 1_860_522, 1_855_584, 32, 275_612_928),
    "resnet32, 100 classes": (lambda: models.resnet32(100), 1_872_132, 1_867_104, 32, None),
    "resnet32, Tiny ImageNet": (
        lambda: models.resnet32(200),
        1_885_032,
        1_879_904,
        64,
        1_102_472_192,
    ),
    "resnet56": (lambda: models.resnet56(), 855_770, 851_504, 32, 125_747_840),
    "mobilenet_v2": (lambda: models.mobilenet_v2(), 2_296_922, None, 32, 91_154_944),
    "mobilenet_v2, 14 gestures": (
        lambda: models.mobilenet_v2(14, variant="imagenet"),
        2_241_806,
        2_224_736 - 17_056,
        128,
        97_811_968,
    ),
    # As the narrower ones of the publication: 1.97 million.
    "mobilenet_v2, half as wide": (
        lambda: models.mobilenet_v2(1000, variant="imagenet", width=0.5),
        1_968_680,
        None,
        224,
        None,
    ),
    # 16, 32, 64 and 128 channels, and 128 hidden ones of 7·7·128.
    "vgg11, a quarter as wide": (
        lambda: models.vgg11(14, width=0.25),
        None,
        9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 3 * 128 * 128) + 128 * (6272 + 14),
        32,
        None,
    ),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_are_those_published(case):
    make, parameters, weights, side, macs = SIZES[case]
    model = make().eval()
    if parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == parameters
    if weights is not None:
        assert sum(w.numel() for w in prunable(model).values()) == weights
    if macs is not None:
        x = torch.zeros(1, 1 if side == 28 else 3, side, side)
        assert sum(layer.dense for layer in count_macs(model, x)) == macs


def weights_and_macs(model: nn.Module, side: int) -> list[tuple[int, int]]:
    return [(l.weights, l.dense) for l in count_macs(model.eval(), torch.zeros(1, 3, side, side))]


def test_vgg11_has_the_layers_of_the_published_table():
    assert [macs for _, macs in weights_and_macs(models.vgg11(14), 128)] == [
        28_311_552,
        301_989_888,
        301_989_888,
        603_979_776,
        301_989_888,
        603_979_776,
        150_994_944,
        150_994_944,
        12_845_056,
        7_168,
    ]


@pytest.mark.parametrize(("build", "inner"), [(models.vgg16, 2), (models.vgg19, 3)])
def test_vggs_have_the_layers_of_the_published_table(build, inner):
    last = (2_359_296, 9_437_184)
    assert weights_and_macs(build(), 32) == [
        (1_728, 1_769_472),
        (36_864, 37_748_736),
        (73_728, 18_874_368),
        (147_456, 37_748_736),
        (294_912, 18_874_368),
        *[(589_824, 37_748_736)] * inner,
        (1_179_648, 18_874_368),
        *[(2_359_296, 37_748_736)] * inner,
        *[last] * (inner + 1),
        (5_120, 5_120),
    ]


# Stage by stage, each as (weights, MACs) of the first convolution, of the others, of the shortcut.
RESIDUAL = {
    "resnet18": (
        (1_728, 1_769_472),
        [
            ((36_864, 37_748_736), 3, (36_864, 37_748_736), None),
            ((73_728, 18_874_368), 3, (147_456, 37_748_736), (8_192, 2_097_152)),
            ((294_912, 18_874_368), 3, (589_824, 37_748_736), (32_768, 2_097_152)),
            ((1_179_648, 18_874_368), 3, (2_359_296, 37_748_736), (131_072, 2_097_152)),
        ],
        (5_120, 5_120),
    ),
    "resnet32": (
        (864, 884_736),
        [
            ((9_216, 9_437_184), 9, (9_216, 9_437_184), None),
            ((18_432, 4_718_592), 9, (36_864, 9_437_184), (2_048, 524_288)),
            ((73_728, 4_718_592), 9, (147_456, 9_437_184), (8_192, 524_288)),
        ],
        (1_280, 1_280),
    ),
    "resnet56": (
        (432, 442_368),
        [
            ((2_304, 2_359_296), 17, (2_304, 2_359_296), None),
            ((4_608, 1_179_648), 17, (9_216, 2_359_296), (512, 131_072)),
            ((18_432, 1_179_648), 17, (36_864, 2_359_296), (2_048, 131_072)),
        ],
        (640, 640),
    ),
}


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_networks_have_the_layers_of_the_published_table(name):
    stem, stages, classifier = RESIDUAL[name]
    expected = [stem, classifier]
    for first, count, other, shortcut in stages:
        expected += [first, *[other] * count, *([shortcut] if shortcut else [])]
    assert sorted(weights_and_macs(models.MODELS[name](), 32)) == sorted(expected)


def test_resnet56_has_the_arrays_and_names_of_the_authors_files():
    state = models.resnet56().state_dict()
    assert len(state) == 344
    assert sum(value.numel() for value in state.values()) == 860_083
    assert {
        "conv1.conv.weight",
        "conv1.bn.running_mean",
        "stage1.0.conv1.conv.weight",
        "stage3.8.conv2.bn.num_batches_tracked",
        "stage2.0.shortcut.conv.weight",
        "linear.weight",
    } <= set(state)


def test_names_are_those_of_torchvision_where_it_has_the_network():
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "fc.bias"} <= set(
        models.resnet18().state_dict()
    )
    assert {"features.0.weight", "features.18.bias", "classifier.3.weight"} <= set(
        models.vgg11().state_dict()
    )
    assert {
        "features.0.0.weight",
        "features.1.conv.0.0.weight",
        "features.2.conv.3.weight",
        "features.18.1.running_var",
        "classifier.1.weight",
    } <= set(models.mobilenet_v2(variant="imagenet").state_dict())


def test_probabilities_come_out_where_they_are_asked_for():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for build in (models.vgg11, models.mobilenet_v2):
        torch.testing.assert_close(build(softmax=True).eval()(x).sum(1), torch.ones(2))
        plain = build().eval()(x)
        assert not torch.allclose(plain.sum(1), torch.ones(2))


def test_mobilenet_may_average_four_parts_of_an_image_as_its_code_for_tiny_imagenet_does():
    model = models.mobilenet_v2(200, head=2).eval()
    assert model.classifier[1].in_features == 4 * 1280
    x = torch.randn(1, 3, 64, 64)
    features = model.features(x)
    # Their average pooling of 4×4.
    parts = torch.nn.functional.avg_pool2d(features, 4).flatten(1)
    assert torch.allclose(model(x), model.classifier(parts), atol=1e-5)
    assert read("predefined-mobilenet-v2-tiny-imagenet-dense").model["head"] == 2


def test_a_shortcut_of_mobilenet_is_where_the_authors_have_one():
    blocks = list(models.mobilenet_v2().features)[1:-1]
    kinds = [type(block.shortcut).__name__ for block in blocks]
    assert kinds.count("NoneType") == 3  # stride 2
    assert kinds.count("Sequential") == 4  # 32 to 16, 16 to 24, 64 to 96, 160 to 320
    assert kinds.count("Identity") == 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.resnet18(stem="large"), "stem must be cifar or imagenet, got 'large'"),
        (lambda: models.mobilenet_v2(variant="x"), "variant must be cifar or imagenet, got 'x'"),
        (lambda: models.vgg11(hidden=0), "hidden must be at least 1, got 0"),
        (lambda: models.vgg11(width=0), "width must be above 0, got 0"),
        (lambda: models.vgg19(0), "num_classes must be at least 1, got 0"),
        (lambda: models.resnet56(0), "num_classes must be at least 1, got 0"),
        (lambda: models.shufflenet_v1(groups=5), "groups must be one of 1, 2, 3, 4, 8, got 5"),
        (lambda: models.shufflenet_v1(variant="x"), "variant must be cifar or imagenet, got 'x'"),
        (lambda: models.shufflenet_v1(width=0.1), "width must leave every stage more than the one"),
    ],
)
def test_what_cannot_be_built_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("groups", "published"), [(1, 143), (2, 140), (3, 137), (4, 133), (8, 137)]
)
def test_shufflenet_has_the_published_operations(groups, published):
    """Millions at 224×224, the convolutions alone, as its table has them."""
    model = models.shufflenet_v1(1000, groups=groups, variant="imagenet").eval()
    layers = count_macs(model, torch.zeros(1, 3, 224, 224))
    convolutions = sum(layer.dense for layer in layers if layer.kind == "Conv2d")
    assert int(convolutions / 1e6 + 0.5) == published


def test_shufflenet_can_be_as_large_as_a_network_of_pre_defined_patterns():
    # Multiply-accumulates of ResNet18 under PSD1_P16, PSD1_P8, PSD2_P16.
    wanted = {1.544: 99_292_160, 1.775: 129_700_864, 1.957: 156_308_480}
    for width, macs in wanted.items():
        model = models.shufflenet_v1(width=width).eval()
        found = sum(layer.dense for layer in count_macs(model, torch.zeros(1, 3, 32, 32)))
        assert found == pytest.approx(macs, rel=0.01)


def test_channels_of_shufflenet_come_from_every_group():
    model = models.shufflenet_v1(groups=3)
    block = model.stage3[1]
    # A channel of one group, through the shuffle, reaches all groups of the last convolution.
    x = torch.zeros(1, block.conv1.out_channels, 1, 1)
    x[:, : block.conv1.out_channels // 3] = 1
    reached = block.shuffle(x).reshape(3, -1).sum(1)
    assert bool((reached > 0).all()) and float(reached.sum()) == block.conv1.out_channels // 3


def std(weight: torch.Tensor) -> float:
    return float(weight.detach().std())


def test_first_weights_are_drawn_as_the_papers_say():
    vgg16 = models.vgg16()
    conv = vgg16.features[3].weight.detach()
    bound = 0.5 * (6 / (64 * 9 + 64 * 9)) ** 0.5
    assert float(conv.abs().max()) <= bound < 1.01 * float(conv.abs().max())
    assert bool((vgg16.features[1].weight == 0.5).all())
    assert not bool(vgg16.features[0].bias.any())
    assert std(vgg16.classifier[0].weight) == pytest.approx(0.01, rel=0.1)

    vgg19 = models.vgg19()
    assert std(vgg19.features[7].weight) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)

    resnet32 = models.resnet32()
    first = resnet32.stage2[0].conv1.conv.weight
    assert std(first) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert std(resnet32.linear.weight) == pytest.approx(0.01, rel=0.1)

    for layer in (models.resnet56().stage3[8].conv1.conv, models.lenet5(xavier=True).conv2):
        weight = layer.weight.detach()
        taps = weight[0, 0].numel()
        bound = (6 / ((weight.shape[0] + weight.shape[1]) * taps)) ** 0.5
        assert float(weight.abs().max()) <= bound < 1.01 * float(weight.abs().max())
    assert not bool(models.lenet300(xavier=True).fc1.bias.any())
