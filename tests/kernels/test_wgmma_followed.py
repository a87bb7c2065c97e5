"""The text that the kernel by wgmma includes, followed in numpy: each copy, wait and product.

A second reading of `cuda/periodic_conv2d_wgmma.cuh`, without C++: a step that is loaded while
products read it, a block that is added twice, a stage that is never free are errors here.
"""

import itertools
import re

import numpy as np
import pytest
import torch

from tests.kernels.followed import CASES, PATTERNS, Layer, name_of, write
from tests.kernels.on_host import cuda, structure, tap_tables, wgmma_choice, wgmma_tables

CARD = (9, 0)
WORD = re.compile(r"(\w+)(?:\(((?:[^()]|\([^()]*\))*)\))?")
BRANCH = re.compile(r"if \(([^{]*)\) \{\n(.*?)\n\}", re.DOTALL)


def of_slice(text, number):
    """What a slice's branch says, or all, if there are none."""
    for condition, own in BRANCH.findall(text):
        if f"slice == {number}" in condition.split(" || "):
            return own
    return text.rpartition("else {\n")[2].removesuffix("}\n")


def numbers_of(given):
    return [int(n) for n in given.split(",")] if given else []


def said(text):
    """(word, numbers) after (word, numbers), loops run through."""
    words = WORD.findall(text)
    while words:
        (name, given), *words = words
        if name != "REPEAT":
            yield name, numbers_of(given)
            continue
        count, end = int(given), words.index(("END", ""))
        body, words = words[:end], words[end + 1 :]
        assert sum(name == "COMMIT" for name, _ in body) % 2 == 0, "buffers change places"
        for k in range(count):
            for name, given in body:
                least, _, rest = given.partition(",")
                if name == "UNLESS_LAST":
                    yield from said(rest) if k + 1 < int(least) else ()
                elif name == "AGAIN":
                    yield from said(given) if k else ()
                else:
                    yield name, numbers_of(given)


def as_rows(block):
    """(width, 16): a product's right side, as its descriptor finds it in a block."""
    along_k, along_n = 128 // 2, 256 // 2
    n, k = np.ix_(np.arange(len(block) // 16), np.arange(16))
    return block[n // 8 * along_n + k // 8 * along_k + n % 8 * 8 + k % 8]


class Kernel:
    """What all blocks are told; `change` is done to the texts."""

    def __init__(self, layer, config, change=lambda text: text):
        t = wgmma_tables.tables(layer.table, layer.found, config, CARD)
        self.layer, self.config, self.maps = layer, config, layer.maps
        texts = {name: change(text) for name, text in t.texts.items()}
        self.texts = {name.removesuffix(".cuh"): text for name, text in texts.items()}
        self.weight = np.append(layer.weight, 0)[t.source.numpy()]
        self.eights = t.eights.numpy()
        self.positions = wgmma_choice.rows(layer.maps, config.tile)
        self.rows = -(-self.positions // 8) * 8
        self.taps = np.array(cuda.taps_of(layer.geometry))
        images = layer.x.permute(0, 2, 3, 1)
        images = images if t.order is None else images[..., t.order]
        self.flat = images.reshape(-1, layer.channels).numpy()
        chunks = -(-layer.channels // config.chunk)
        self.flat = np.pad(self.flat, ((0, 0), (0, chunks * config.chunk - layer.channels)))
        self.chunks, self.added = chunks, np.zeros(len(self.weight), int)

    def window(self, m):
        """(image, row, column): where in x the windows of pixels of y begin."""
        out_h, out_w = self.maps.out
        image, rest = np.divmod(m, out_h * out_w)
        y, x = np.divmod(rest, out_w)
        (stride_h, stride_w), (pad_h, pad_w) = (
            self.layer.geometry.stride,
            self.layer.geometry.padding,
        )
        return image, y * stride_h - pad_h, x * stride_w - pad_w

    def number(self, window):
        (image, y, x), (height, width) = window, self.maps.size
        return (image * height + y) * width + x

    def run(self):
        """y (N, H', W', O)."""
        y = np.full((self.maps.pixels, len(self.layer.table)), np.nan)
        tiles = range(0, self.maps.pixels, self.config.tile)
        for number, m0 in itertools.product(range(len(self.eights)), tiles):
            item = Item(self, number, m0)
            for name, given in said(of_slice(self.texts["schedule"], number)):
                getattr(item, name.lower())(*given)
            item.end()
            m = np.arange(m0, min(m0 + self.config.tile, self.maps.pixels))
            sums = item.sums.transpose(1, 0, 2).reshape(self.config.tile, -1)
            for eight, first in enumerate(self.eights[number]):
                write(y, m, first, sums[: len(m), 8 * eight : 8 * eight + 8])
        once = (self.added[:-1] == len(tiles)).all() and self.added[-1] == 0
        assert once, "a block is not added once"
        return y.reshape(self.layer.exact.shape)


class Item:
    """A tile of pixels by a slice of filters: methods are named as the words of the text."""

    def __init__(self, kernel, number, m0):
        self.kernel, config = kernel, kernel.config
        ((_, (self.turn,)),) = said(of_slice(kernel.texts["turns"], number))
        copies = said(of_slice(kernel.texts["weights"], number))
        copies = [given for name, given in copies if name == "COPY"]
        self.stages = [
            (block + n * each, each) for steps, block, each in copies for n in range(steps)
        ]
        assert all(0 < blocks <= config.stage for _, blocks in self.stages)
        last = kernel.maps.pixels - 1
        self.windows = kernel.window(np.minimum(m0 + np.arange(config.tile), last))
        self.first = kernel.number(kernel.window(m0))
        self.own = [self.row_of(tap) for tap in kernel.taps]
        self.chunks, self.chunks_freed, self.stage, self.stages_freed = 0, 0, -1, 0
        self.step, self.dirty, self.loaded = 0, set(), {}
        self.open, self.groups = [], []
        self.sums = np.zeros((config.groups, config.tile, config.width))

    def row_of(self, tap):
        """Where in a place each pixel's row is under a tap; in the padding, one of zeros."""
        (height, width), (_, y, x) = self.kernel.maps.size, self.windows
        down, right = tap >> 16, tap & 0xFFFF
        at = self.kernel.number(self.windows) - self.first + down * width + right
        inside = (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
        assert (at[inside] >= 0).all() and (at[inside] < self.kernel.positions).all(), (
            "rows are left"
        )
        return np.where(inside, at, self.kernel.rows + at % 8)

    def next_chunk(self):
        kernel = self.kernel
        assert self.chunks == self.chunks_freed, "two chunks are held"
        turned, wide = (self.chunks + self.turn) % kernel.chunks, kernel.config.chunk
        at = self.first + np.arange(kernel.rows)
        there = (at >= 0) & (at < min(len(kernel.flat), self.first + kernel.positions))
        pixels = kernel.flat[np.where(there, at, 0), turned * wide : (turned + 1) * wide]
        pixels = np.where(there[:, None], pixels, np.nan)
        self.place = np.concatenate([pixels, np.zeros((8, wide))])
        self.chunks, self.step = self.chunks + 1, 0

    def free_chunk(self):
        self.chunks_freed += 1
        assert self.chunks == self.chunks_freed, "a chunk that was not waited for is free"

    def skip(self, steps):
        self.step += steps

    def load(self, buffer, n, tap):
        assert self.chunks > self.chunks_freed, "a chunk is read that is free"
        assert (buffer, n) not in self.at_work(0), "registers are written that a product reads"
        assert n < self.kernel.config.at_once and 16 * self.step < self.kernel.config.chunk
        self.loaded[buffer, n] = self.place[self.own[tap], 16 * self.step : 16 * self.step + 16]
        self.dirty.add((buffer, n))

    def at_work(self, what):
        """The registers, or the stages, that products at work read."""
        return {each[what] for group in [*self.groups, self.open] for each in group}

    def next_stage(self):
        self.stage += 1
        assert self.stage - self.stages_freed < 2, "two stages are too few"
        assert self.stage < len(self.stages), "a stage is waited for that nobody copies"

    def free_stage(self):
        assert self.stages_freed <= self.stage, "a stage that was not waited for is free"
        assert self.stages_freed not in self.at_work(1), "a stage is free while a product reads it"
        self.stages_freed += 1

    def fence(self):
        self.dirty.clear()

    def add(self, buffer, n, group, block):
        assert (buffer, n) not in self.dirty, "there is no fence"
        assert self.stages_freed <= self.stage, "a stage is read that is free"
        first, blocks = self.stages[self.stage]
        assert block < blocks, "a product reads more than was copied"
        right = as_rows(self.kernel.weight[first + block])
        self.sums[group] += self.loaded[buffer, n] @ right.T
        self.kernel.added[first + block] += 1
        self.open.append(((buffer, n), self.stage))

    def commit(self):
        self.groups.append(self.open)
        self.open = []

    def wait(self, left):
        self.groups = self.groups[max(0, len(self.groups) - left) :]

    def end(self):
        assert not self.at_work(0), "the sums are read while products are at work"
        assert self.chunks == self.chunks_freed == self.kernel.chunks, "chunks are left"
        assert self.stage + 1 == self.stages_freed == len(self.stages), "stages are left"


def made(layer, *numbers):
    return wgmma_choice.made(numbers, layer.found)


OWN = [
    # Loops of four steps; chunks of no weights; a slice that is not full.
    ("PS4_P4", 64, 256, (5, 4), 5, 1, 1, 1, True),
    ("PSD2_P8", 64, 128, (3, 2), 13, 1, 1, 1, True),
    ("user", 48, 96, (4, 4), 6, 1, 2, 2, True),
    ("PS4_P4", 96, 64, (7, 5), 3, 2, 0, 1, True),
]


def is_taken(case):
    shape = (*case[1:3], *PATTERNS[case[0]].kernel_size)
    _, _, found = structure(PATTERNS[case[0]], shape, case[-1])
    return wgmma_choice.refuses_alike(found) is None


TAKEN = [case for case in CASES if is_taken(case)] + OWN


@pytest.mark.parametrize("case", TAKEN, ids=name_of)
def test_followed_in_numpy_it_gives_the_convolution(case):
    layer = Layer(case)
    assert is_taken(case)
    chosen = wgmma_choice.choose(layer.found, layer.maps, layer.channels, CARD, 8)
    shapes = [(1, 4, 1, 16), (4, 1, 2, 64), (2, 4, 1, 32)]
    some = [
        made(layer, *shape, 2, 2, at_once, loops)
        for shape, (at_once, loops) in zip(shapes, [(1, 1), (2, 1), (3, 0)], strict=True)
    ]
    for config in (chosen, *some):
        assert wgmma_choice.resident(config, layer.maps, CARD) == 1
        np.testing.assert_array_equal(Kernel(layer, config).run(), layer.exact)


@pytest.mark.parametrize(("at_once", "loops"), [*itertools.product((1, 2, 3, 9), (0, 1))])
def test_it_is_the_same_in_loops_or_not_and_in_units_of_any_length(at_once, loops):
    layer = Layer(("PS4_P4", 64, 256, (3, 4), 3, 1, 1, 1, True))
    config = made(layer, 2, 2, 1, 64, 2, 2, at_once, loops)
    kernel = Kernel(layer, config)
    assert ("REPEAT" in kernel.texts["schedule"]) == bool(loops)
    np.testing.assert_array_equal(kernel.run(), layer.exact)


def test_chunks_and_slices_that_keep_nothing_are_passed_over():
    layer = Layer(("PS4_P4", 64, 128, (3, 4), 3, 1, 1, 1, True))
    # Half of the filters keep nothing, the others only channels of the second and third chunk.
    kept = torch.zeros(layer.table.shape, dtype=torch.bool)
    kept[:32, 32 * 9 : 96 * 9 : 2] = True
    layer.table = torch.where(kept, kept.flatten().cumsum(0).reshape(kept.shape) - 1, -1).int()
    layer.found = tap_tables.alike(layer.table, 9)
    weight = torch.randint(1, 9, kept.shape).double() * kept
    layer.weight = weight[kept].numpy()
    weight = weight.reshape(64, 128, 3, 3)
    layer.exact = torch.nn.functional.conv2d(layer.x, weight, None, 1, 1)
    layer.exact = layer.exact.permute(0, 2, 3, 1).numpy()
    kernel = Kernel(layer, made(layer, 4, 1, 1, 32, 2, 2, 2, 1))
    empty = [s for s in range(2) if (kernel.eights[s] >= 32).all()]
    own = of_slice(kernel.texts["schedule"], empty[0])
    assert {name for name, _ in said(own)} == {"NEXT_CHUNK", "FREE_CHUNK"}
    np.testing.assert_array_equal(kernel.run(), layer.exact)


PLANTED = {
    "a fence is missing": ("FENCE\nADD(1", "ADD(1", "no fence"),
    "one product more is left at work": ("WAIT(1)", "WAIT(2)", "registers are written"),
    "a commit is missing": ("COMMIT WAIT(1)", "WAIT(1)", "registers are written"),
    "the last products are not waited for": (
        "WAIT(0) FREE_STAGE",
        "",
        "while products are at work",
    ),
    "a stage is free too soon": ("WAIT(1)\nFREE", "FREE", "registers are written|while a product"),
    "a stage is never free": ("AGAIN(FREE_STAGE)", "", "too few"),
    "a chunk is never free": ("\nFREE_CHUNK", "", "two chunks"),
    "a chunk is free too soon": ("NEXT_CHUNK\n", "NEXT_CHUNK FREE_CHUNK\n", "that is free"),
    "a stage is not copied": ("COPY(8, 64", "COPY(7, 64", "nobody copies"),
    "a stage has fewer blocks": ("64, 8)", "64, 7)", "more than was copied"),
    "a loop has an odd number of units": ("AGAIN", "COMMIT AGAIN", "change places"),
    "a step is not skipped": ("SKIP(1)", "", "not equal"),
    "another tap": ("LOAD(1, 1, 7)", "LOAD(1, 1, 6)", "not equal"),
    "another group": ("ADD(0, 0, 1, 5)", "ADD(0, 0, 0, 5)", "not equal"),
    "another block": ("ADD(0, 0, 1, 5)", "ADD(0, 0, 1, 4)", "not added once"),
    "slices begin with the same chunk": ("BEGIN(3)", "BEGIN(0)", "not equal"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_shows(name):
    old, new, words = PLANTED[name]
    layer = Layer(("PS4_P4", 64, 128, (3, 4), 3, 1, 1, 1, True))
    config = made(layer, 2, 2, 1, 32, 2, 2, 2, 1)
    whole = Kernel(layer, config)
    np.testing.assert_array_equal(whole.run(), layer.exact)
    kernel = Kernel(layer, config, lambda text: text.replace(old, new))
    assert kernel.texts != whole.texts
    with pytest.raises(AssertionError, match=words):
        np.testing.assert_array_equal(kernel.run(), layer.exact)
