"""Programs of all kinds of steps, put together at random."""

import random

import torch

from sparse_ops.program.program import (
    CHANNELS,
    FUNCTIONS,
    IMAGES,
    LANES,
    OPERATORS,
    PLANAR,
    bits,
)
from tests.program.programs import Builder, some_columns


def random_program(seed: int):
    """(program, inputs): of all kinds of steps, orders and halos, some values parts of others."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    shape = (
        choose.choice((1, 1, 2, 15, 16, 17, 33)), choose.choice((1, 3, 16, 17, 32)),
        choose.choice((1, 5, 6, 9)), choose.choice((1, 4, 7, 10)),
    )  # fmt: skip
    builder = Builder(shape)
    if choose.random() < 0.7:
        builder.convert(0, choose.choice((CHANNELS, IMAGES)), choose.choice((0, 1, 2)))
    for _ in range(choose.randint(3, 12)):
        _grow(builder, choose)
    images = [v for v in range(len(builder.values)) if len(builder.shapes[v]) == 4]
    outputs = []
    for v in choose.sample(images, min(2, len(images))):
        outputs.append(v if builder.values[v].order == PLANAR else builder.convert(v, PLANAR))
    outputs.append(_classified(builder, choose, images[-1]))
    outputs.append(choose.choice(outputs))
    program = builder.program(*outputs, number=seed * 2 + 10**6, piece=choose.choice((0, 0, 2, 16)))
    return program, [torch.randn(shape)]


def _classified(builder, choose, v):
    """(N, classes) from a value."""
    v = builder.add("flatten", [v], order=PLANAR)
    features = builder.shapes[v][1]
    weight = torch.randn(choose.choice((1, 10, 17)), features)
    columns = some_columns(features, weight.shape[0]) if choose.random() < 0.5 else None
    bias = torch.randn(weight.shape[0]) if choose.random() < 0.7 else None
    v = builder.linear(v, weight, bias, columns=columns, activation=choose.choice((0, 1)))
    return builder.add("softmax", [v], {"log": choose.randint(0, 1)})


def _grow(builder, choose):
    """One or two more steps on a value, preferably the last."""
    images = [v for v in range(len(builder.values)) if len(builder.shapes[v]) == 4]
    v = images[-1] if choose.random() < 0.6 else choose.choice(images)
    halo = choose.choice((0, 0, 1, 3))
    halo = 0 if builder.values[v].order == PLANAR else halo
    choose.choice(_GROWTHS)(builder, choose, v, halo)


def _convert(builder, choose, v, halo):
    order = choose.choice((PLANAR, CHANNELS, IMAGES))
    builder.convert(v, order, 0 if order == PLANAR else choose.choice((0, 1, 2)))


def _conv(builder, choose, v, halo):
    _, C, H, W = builder.shapes[v]
    order = builder.values[v].order
    kernel = (choose.choice((1, 3)), choose.choice((1, 3, 2)))
    dilation = (choose.choice((1, 1, 2)), choose.choice((1, 1, 2)))
    padding = tuple(
        choose.choice((0, d * (k - 1) // 2, d * (k - 1)))
        for d, k in zip(dilation, kernel, strict=True)
    )
    room = [
        s + 2 * p - d * (k - 1)
        for s, p, d, k in zip((H, W), padding, dilation, kernel, strict=True)
    ]
    if min(room) < 1:
        return
    if order != PLANAR and builder.values[v].halo < max(padding):
        v = builder.convert(v, order, max(padding))
    depthwise = choose.random() < 0.25
    O = C if depthwise else choose.choice((1, 7, 16, 17, 32, 48))
    weight = torch.randn(O, 1 if depthwise else C, *kernel) / (1 if depthwise else C) ** 0.5
    classes = choose.choice((1, 2, O))
    count = weight[0].numel()
    sparse = order != CHANNELS and choose.random() < 0.6
    v = builder.conv(
        v, weight, torch.randn(O) if choose.random() < 0.7 else None,
        columns=some_columns(count, min(classes, O)) if sparse else None,
        halo=halo, padding_h=padding[0], padding_w=padding[1], dilation_h=dilation[0],
        dilation_w=dilation[1], stride_h=choose.choice((1, 1, 2)),
        stride_w=choose.choice((1, 1, 2)),
        activation=choose.choice((0, 1, 2)),
    )  # fmt: skip
    if choose.random() < 0.4:
        # A block of two convolutions and a residual.
        weight = torch.randn(O, O, 1, 1) / O**0.5
        columns = some_columns(O, 2 if O > 1 else 1) if sparse else None
        builder.conv(v, weight, None, v, columns=columns, halo=halo, activation=1)


def _stem(builder, choose, v, halo):
    """From an image to channels innermost."""
    _, C, H, W = builder.shapes[0]
    if C > 4 or min(H, W) < 2:
        return
    weight = torch.randn(choose.choice((16, 24)), C, 3, 3)
    builder.conv(
        0, weight, torch.randn(weight.shape[0]), order=CHANNELS, halo=choose.choice((0, 1)),
        padding_h=1, padding_w=1, stride_h=2, stride_w=2, activation=1,
    )  # fmt: skip


def _pool(builder, choose, v, halo):
    H, W = builder.shapes[v][2:]
    kernel = (choose.choice((1, 2, 3)), choose.choice((1, 2, 3)))
    padding = tuple(choose.choice((0, k // 2)) for k in kernel)
    if min(s + 2 * p - k for s, p, k in zip((H, W), padding, kernel, strict=True)) < 0:
        return
    attributes = {
        "mode": choose.randint(0, 1), "kernel_h": kernel[0], "kernel_w": kernel[1],
        "stride_h": choose.choice((1, 2)), "stride_w": choose.choice((1, 2)),
        "padding_h": padding[0], "padding_w": padding[1], "ceil_mode": choose.randint(0, 1),
        "count_include_pad": choose.randint(0, 1),
    }  # fmt: skip
    builder.add("pool", [v], attributes, halo=halo)


def _adaptive_pool(builder, choose, v, halo):
    size = {"height": choose.choice((1, 2)), "width": choose.choice((1, 3))}
    builder.add("adaptive_pool", [v], {"mode": choose.randint(0, 1), **size}, halo=halo)


_FUNCTIONS = (
    ("relu",),
    ("clamp", -0.5, 0.75),
    ("abs",),
    ("neg",),
    ("add", 0.3),
    ("mul", -0.7),
    ("sigmoid",),
    ("silu",),
    ("tanh",),
    ("hardsigmoid",),
    ("leaky_relu", 0.1),
)


def _unary(builder, choose, v, halo):
    name, *parameters = choose.choice(_FUNCTIONS)
    given = dict(zip(("parameter", "parameter2"), map(bits, parameters), strict=False))
    builder.add("unary", [v], {"function": FUNCTIONS[name], **given}, halo=halo)


def _binary(builder, choose, v, halo):
    alike = [
        u for u in range(len(builder.values))
        if builder.shapes[u] == builder.shapes[v]
        and builder.values[u].order == builder.values[v].order
    ]  # fmt: skip
    attributes = {"operator": choose.choice((0, 1, 2, 4, 5)), "activation": choose.choice((0, 1))}
    builder.add("binary", [v, choose.choice(alike)], attributes, halo=halo)


def _gate(builder, choose, v, halo):
    """A squeeze-and-excitation without its convolutions."""
    gate = builder.add("adaptive_pool", [v], {"mode": 1, "height": 1, "width": 1})
    gate = builder.add("unary", [gate], {"function": FUNCTIONS["sigmoid"]})
    if choose.random() < 0.5:
        gate = builder.add("flatten", [gate], order=PLANAR)
    builder.add("binary", [v, gate], {"operator": OPERATORS["mul"]}, halo=halo)


def _concat(builder, choose, v, halo):
    value = builder.values[v]
    alike = [
        u for u in range(len(builder.values))
        if len(builder.shapes[u]) == 4 and builder.values[u].order == value.order
        and builder.shapes[u][2:] == builder.shapes[v][2:] and builder.shapes[u][1] <= 96
    ] or [v]  # fmt: skip
    several = [choose.choice(alike) for _ in range(choose.randint(1, 3))]
    halo = builder.values[several[0]].halo if choose.random() < 0.7 else halo
    whole = builder.add("concat", several, halo=halo)
    first = 0
    wholes = {each.whole for each in builder.values}
    for u in several:
        part = builder.values[u]
        free = (
            u >= builder.inputs and part.whole == -1 and u not in wholes and several.count(u) == 1
        )
        fits = part.halo == halo and (part.order != CHANNELS or first % LANES == 0)
        if free and fits:
            builder.part(u, whole, first)
        first += builder.shapes[u][1]


def _upsample(builder, choose, v, halo):
    if max(builder.shapes[v][2:]) > 12:
        return
    attributes = {"mode": choose.randint(0, 1), "scale_h": choose.choice((1, 2, 3)), "scale_w": 2}
    attributes["align_corners"] = choose.randint(0, attributes["mode"])
    builder.add("upsample", [v], attributes, halo=halo)


def _affine(builder, choose, v, halo):
    C = builder.shapes[v][1]
    builder.add("affine", [v], {"activation": 1}, [torch.randn(C), torch.randn(C)], halo=halo)


def _prelu(builder, choose, v, halo):
    builder.add("prelu", [v], {}, [torch.randn(builder.shapes[v][1])], halo=halo)


def _slice(builder, choose, v, halo):
    C = builder.shapes[v][1]
    first = choose.randrange(C)
    builder.add("slice", [v], {"first": first, "count": choose.randint(1, C - first)}, halo=halo)


def _shuffle(builder, choose, v, halo):
    C = builder.shapes[v][1]
    groups = choose.choice([g for g in (1, 2, 4, C) if C % g == 0])
    builder.add("shuffle", [v], {"groups": groups}, halo=halo)


def _interleave(builder, choose, v, halo):
    C, H, W = builder.shapes[v][1:]
    stride = choose.choice(((2, 2), (1, 2), (2, 1), (3, 2)))
    if C % (stride[0] * stride[1]) or max(H, W) > 12 or builder.values[v].order == CHANNELS:
        return
    attributes = {"stride_h": stride[0], "stride_w": stride[1]}
    attributes |= {"cut_h": choose.randrange(stride[0]), "cut_w": choose.randrange(stride[1])}
    builder.add("interleave", [v], attributes, halo=halo)


def _pad(builder, choose, v, halo):
    sides = {side: choose.randint(0, 2) for side in ("left", "right", "top", "bottom")}
    builder.add("pad", [v], {**sides, "value": bits(choose.choice((0.0, -1.5)))}, halo=halo)


_GROWTHS = (
    _convert, _convert, _conv, _conv, _conv, _stem, _pool, _adaptive_pool, _unary, _binary, _gate,
    _concat, _concat, _upsample, _affine, _prelu, _slice, _shuffle, _pad,
    _interleave, _interleave,
)  # fmt: skip
