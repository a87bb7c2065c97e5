"""What a person reads of a plan."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.planning.assemble import LayerPlan
from sparse_ops.planning.columns import Column, shortened, table, wrapped
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.fastest import Forms
from sparse_ops.planning.measure import Comparison
from sparse_ops.planning.memory import Memory
from sparse_ops.planning.plans import Plan
from sparse_ops.planning.recognise import describe_zeros
from tests.convert.models import masks_of_net, net
from tests.convert.planning import planned, row

MEASURED = Comparison(12.0, 4.0, 3.0, 2.75, 3.25, 20)
LAYER = LayerPlan(
    "conv", "Conv2d", (512, 512, 3, 3), 235929, 1, "CSRConv2d", "auto", None, MEASURED, "fastest",
    zeros="4 dead filters, unstructured", floor_ms=1.0,
)  # fmt: skip
DENSE = replace(LAYER, becomes=None, measured=None, zeros="", floor_ms=None, reason="no mask")
WHOLE = Comparison(240.0, 84.0, 2.84, 2.5, 3.1, 20)


def named(layer, *names):
    return [replace(layer, name=name) for name in names]


def text_of(*layers, **options):
    return str(Plan(tuple(layers), options.pop("whole", WHOLE), (), **options))


def rows_of(text):
    """The table's rows, behind its titles."""
    lines = text.split("\n\n")[1].splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("layer"))
    return lines[first + 1 :]


def test_the_first_line_is_the_verdict():
    layers = [*named(LAYER, *(f"layers.{n}" for n in range(20))), *named(DENSE, "fc")]
    said = "2.8× faster: 240 → 84.0 ms, 20 of 21 layers packed"
    assert text_of(*layers).splitlines()[0] == said
    forms = {"dense_forms": Forms("channels_last"), "decisions": Decisions()}
    text = text_of(*layers, **forms, takes=Memory(programs=1))
    assert text.splitlines()[0] == f"{said}, as one program; dense runs in channels_last"
    text = text_of(*layers, **forms, takes=Memory(programs=3))
    assert text.splitlines()[0] == f"{said}, as 3 programs; dense runs in channels_last"
    narrow = replace(LAYER, left=(256, 128, 3, 3))
    assert text_of(narrow).startswith("2.8× faster: 240 → 84.0 ms, 1 of 1 layers packed, channels")
    slightly = text_of(LAYER, whole=replace(WHOLE, speedup=1.04, packed_ms=230.0))
    assert slightly.startswith("1.04× faster: 240 → 230 ms")


def test_where_nothing_is_replaced_the_first_line_says_why():
    one = replace(DENSE, reason="it is shared")
    assert text_of(one, whole=None).startswith("nothing is replaced: it is shared\n")
    assert text_of(one, one, whole=None).startswith(
        "nothing is replaced: it is shared (all 2 layers)\n"
    )
    assert str(planned(net())).startswith("nothing is replaced: no weight of the model is zero\n")
    slow = replace(LAYER, becomes=None, reason="not surely faster")
    text = text_of(one, slow, whole=None)
    assert text.startswith("nothing is replaced: dense is the fastest that was found\n")
    assert text_of(whole=None).startswith("nothing is replaced: the model has no Conv2d")


NAMES = [
    [f"features.denseblock{b}.denselayer{n}.conv2" for b in (1, 2, 3) for n in range(1, 25)],
    [f"layer{b}.{n}.downsample.0" for b in (1, 2, 3, 4) for n in (0, 1)],
    [f"model.encoder.layers.{n}.mlp.gate_up_projection_of_it" for n in range(40)],
    ["x" * 120 + end for end in "abc"],
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("left", [None, (256, 256, 3, 3)])
@pytest.mark.parametrize("order", [None, 0, 2])
def test_no_line_is_longer_than_100_characters_and_no_layer_is_named_like_another(
    names, left, order
):
    layers = named(replace(LAYER, left=left, becomes="PeriodicConv2d"), *names)
    decisions = None if order is None else Decisions(orders=tuple((n, order) for n in names))
    text = text_of(*layers, decisions=decisions)
    table_ = text.split("\n\n")[1]
    assert max(map(len, table_.splitlines())) <= 100
    assert len({line.split()[0] for line in rows_of(text)}) == len(rows_of(text)) == len(names)
    for line in text.splitlines():
        assert len(line) <= 100 or "x" * 100 in line


def test_a_row_tells_all_that_was_measured():
    decisions = Decisions(orders=(("conv", 2),))
    narrow = replace(LAYER, left=(256, 128, 3, 3))
    (line,) = rows_of(text_of(narrow, decisions=decisions))
    assert line.split() == [
        "conv", "512×512×3×3→256×128", "10.0%", "12.0", "4.000", "3.00×", "2.75–3.25", "25%", "csr",
        "n16", "a",
    ]  # fmt: skip
    assert "n16: 16 images innermost" in text_of(narrow, decisions=decisions)
    (line,) = rows_of(text_of(replace(LAYER, constant=True, becomes=None, measured=None)))
    assert line.split() == ["conv", "512×512×3×3", "10.0%", "constant", "a"]


def test_titles_stand_above_their_columns():
    titles = text_of(LAYER).split("\n\n")[1].splitlines()
    assert titles[0].split() == ["dense", "packed", "times", "of"]
    assert titles[1].split() == [
        "layer", "weight", "kept", "ms", "ms", "faster", "10", "to", "90%", "floor", "becomes",
        "why",
    ]  # fmt: skip
    assert titles[2].index("csr") == titles[1].index("becomes")
    assert titles[2].index("12.0") + len("12.0") == titles[0].index("dense") + len("dense")


def test_where_there_is_no_room_the_spread_is_left_out():
    names = Column("layer", ["n" * 30], right=False)
    spread = Column("spread", ["1.0–2.0"], optional=True)
    assert table(names, [spread], 39)[1] == "n" * 30 + "  1.0–2.0"
    assert table(names, [spread], 38) == ["layer", "n" * 30]


def test_each_reason_stands_once_with_its_letter_and_layers():
    first, second = named(LAYER, *"abcdefg"), named(DENSE, "y", "z")
    text = text_of(*first, *second)
    assert text.count("fastest") == 1 and text.count("no mask") == 1
    assert "\na  fastest (a, b, c and 4 more)\nb  no mask (y, z)\n" in text
    assert [line.split()[-1] for line in rows_of(text)] == [*"aaaaaaabb"]
    many = [replace(DENSE, name=str(n), reason=f"reason {n}") for n in range(30)]
    text = text_of(*many)
    assert [line.split()[-1] for line in rows_of(text)][24:] == ["y", "z", "aa", "ab", "ac", "ad"]
    assert "\nad  reason 29 (29)\n" in text


def test_zeros_that_differ_in_numbers_only_are_told_together():
    zeros = [
        "2 dead filters, 70% of the kernels wholly zero, unstructured",
        "14 dead filters, 70% of the kernels wholly zero, unstructured",
        "periodic, period 8, 1 of them whole",
        "periodic, period 4, 1 of them whole",
        "unstructured",
    ]
    layers = [replace(LAYER, name=f"l{n}", zeros=words) for n, words in enumerate(zeros)]
    lines = [line for line in text_of(*layers).splitlines() if line.startswith("zeros: ")]
    assert lines == [
        "zeros: 2 to 14 dead filters, 70% of the kernels wholly zero, unstructured (l0, l1)",
        "zeros: periodic, period 8, 1 of them whole (l2)",
        "zeros: periodic, period 4, 1 of them whole (l3)",
        "zeros: unstructured (l4)",
    ]


def test_dead_outputs_that_stay_are_told_with_their_reason():
    kept = replace(LAYER, dead_kept=3, dead_why="3 as the model gives it out")
    text = text_of(*named(kept, "a", "b"), LAYER)
    assert "dead outputs stay, as the model gives it out: 3 of a, 3 of b\n" in text


@pytest.mark.parametrize("width", [12, 17, 26])
@pytest.mark.parametrize("names", NAMES)
def test_names_are_shortened_in_the_middle_and_stay_different(names, width):
    found = shortened(names, width)
    assert len(set(found)) == len(names) and max(map(len, found)) <= width
    for name, short in zip(names, found, strict=True):
        assert short[0] == name[0] and (short == name or "…" in short)


def test_names_that_fit_are_left_alone():
    assert shortened(["layer1.0", "a" * 20], 20) == ["layer1.0", "a" * 20]
    assert shortened(["layer1.0.downsample.0", "fc"], 20) == ["layer1….downsample.0", "fc"]


def test_long_lines_are_wrapped_between_words():
    words = " ".join(["never-cut-word"] * 20)
    lines = wrapped(words, 3)
    assert len(lines) > 1 and max(map(len, lines)) <= 100
    assert " ".join(line.strip() for line in lines) == words
    assert all(line.startswith("   never") for line in lines[1:])


def test_a_layer_without_a_mask_is_not_said_to_have_no_zeros_where_others_were_given_one():
    model = net()
    with torch.no_grad():
        model.plain.weight[0] = 0
    assert row(planned(model, masks_of_net()), "plain").reason == "no mask was given for it"
    model = net()
    so.masks.apply_(model, masks_of_net())
    assert row(planned(model), "plain").reason == "it has no mask: no weight of it is zero"


def test_kernels_of_one_weight_are_not_called_whole():
    torch.manual_seed(0)
    mask = torch.rand(8, 6, 1, 1) > 0.5
    mask[0], mask[:, 0] = True, True
    assert describe_zeros(mask) == "unstructured"
    mask[2] = False
    assert describe_zeros(mask) == "1 dead filters, unstructured"
    assert describe_zeros(mask.expand(8, 6, 1, 3)).startswith("1 dead filters, whole kernels")


def test_the_text_of_a_real_plan_fits_and_has_every_layer():
    model = nn.Sequential(net(), nn.Flatten())
    masks = {f"0.{name}": mask for name, mask in masks_of_net().items()}
    text = str(planned(model, masks))
    assert text.startswith("2.0× faster: 2.000 → 1.000 ms, 4 of 5 layers packed")
    assert [line.split()[0] for line in rows_of(text)] == [
        "0.stem", "0.periodic", "0.anything", "0.plain", "0.fc",
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= 100 and "\x1b" not in text
