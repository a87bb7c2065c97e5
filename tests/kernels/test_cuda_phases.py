"""How the threads of a block wait for each other, as `cuda/periodic_conv2d_wgmma.cuh` does it.

A second reading of its two rings without the rest, on the text that is made for weights: for more
numbers of places and stages, and more orders of who comes first, than the kernel itself is run in
(`test_wgmma_on_host.py`). It ends, nobody reads what is not there yet, and nothing is copied to
where somebody still reads.
"""

import random
import re

import pytest
import torch

from sparse_ops.ops import _kernels
from tests.kernels.on_host import choice, configs, nvrtc, wgmma_choice

text = _kernels.kernels("wgmma_text")
# Of a block: those that copy pixels; warps of a warpgroup that multiply, which differ in nothing.
COPIERS, WARPS = 2, 2
CHUNK, STEPS, TAPS, GROUPS = 2, 8, 3, 2


class Wrong(AssertionError):
    """What must not happen, in words."""


class Barrier:
    """Of shared memory: a phase ends when so many have arrived, and all bytes that were said."""

    def __init__(self, count):
        self.count, self.phase, self.awaited, self.bytes = count, 0, count, 0

    def changes(self, arrived=0, more=0):
        self.awaited, self.bytes = self.awaited - arrived, self.bytes + more
        if self.awaited < 0:
            raise Wrong("more arrive at a barrier than it counts")
        if self.awaited == 0 and self.bytes == 0:
            self.phase, self.awaited = self.phase + 1, self.count

    def over(self, parity):
        return lambda: self.phase % 2 != parity


class Ring:
    """One thread's way through a ring: where it is, in which turn, and how many it has passed."""

    def __init__(self, size, planted):
        self.size, self.at, self.turn, self.passed = size, size - 1, 1, -1
        self.turns = planted != "turns are not told apart"

    def next(self):
        self.at = 0 if self.at + 1 == self.size else self.at + 1
        self.turn ^= self.turns and self.at == 0
        self.passed += 1


class Room:
    """The places of a ring in shared memory; each is filled in parts."""

    def __init__(self, size, filling, emptying, parts):
        self.full = [Barrier(filling) for _ in range(size)]
        self.empty = [Barrier(emptying) for _ in range(size)]
        self.held = [[None] * parts for _ in range(size)]
        self.readers = [0] * size

    def begins(self, at, part):
        if self.readers[at]:
            raise Wrong("a copy is to where somebody reads")
        self.held[at][part] = None

    def reads(self, ring):
        if self.held[ring.at] != [ring.passed] * len(self.held[ring.at]):
            raise Wrong("something is read that is not there")


def tokens(lines):
    return re.findall(r"[A-Z_]+(?:\([\d, ]*\))?", " ".join(lines))


def commands(lines):
    """A text for one slice, its loops written out."""
    found, lines = [], list(lines)
    while lines:
        line = lines.pop(0)
        if not line.startswith("REPEAT"):
            found += tokens([line])
            continue
        end, count = lines.index("END"), int(line[7:-1])
        for turn in range(count):
            for own in lines[:end]:
                if own.startswith("UNLESS_LAST"):
                    own = own.partition(", ")[2][:-1] if turn + 1 < count else ""
                elif own.startswith("AGAIN"):
                    own = own[6:-1] if turn else ""
                found += tokens([own])
        lines = lines[end + 1 :]
    return found


class Block:
    """Threads are generators, which yield what they wait for; tiles are slices by turns."""

    def __init__(self, kept, tiles, places, stages, warpgroups, loops, planted=""):
        self.slices = [
            commands(text.lines(text.steps_of(own), CHUNK, 2, loops)) * tiles for own in kept
        ]
        self.copies = [sum(bool(step.any()) for step in own) for own in kept]
        self.tiles, self.planted = tiles, planted
        warps = WARPS * warpgroups - (planted == "one warp is not counted")
        self.pixels = Room(places, COPIERS, warps, COPIERS)
        self.weights = Room(stages, 1, warps, 1)
        self.arriving = []
        threads = [self.pixel_copier(part) for part in range(COPIERS)]
        threads += [self.weight_copier(), *(self.warp() for _ in range(WARPS * warpgroups))]
        self.threads = {n: [thread, lambda: True] for n, thread in enumerate(threads)}

    def pixel_copier(self, part):
        ring, room = Ring(len(self.pixels.full), self.planted), self.pixels
        for _ in range(self.tiles * len(self.slices) * (STEPS // CHUNK)):
            ring.next()
            if self.planted != "a place is not waited for":
                yield room.empty[ring.at].over(ring.turn ^ 1)
            room.begins(ring.at, part)
            self.arriving.append((room, ring.at, part, ring.passed, 1, 0))
            yield lambda: True

    def weight_copier(self):
        ring, room = Ring(len(self.weights.full), self.planted), self.weights
        for _ in range(self.tiles * sum(self.copies)):
            ring.next()
            yield room.empty[ring.at].over(ring.turn ^ 1)
            room.full[ring.at].changes(arrived=1, more=16)
            room.begins(ring.at, 0)
            self.arriving.append((room, ring.at, 0, ring.passed, 0, -16))

    def arrives(self, room, at, part, number, arrived, more):
        room.held[at][part] = number
        room.full[at].changes(arrived, more)

    def warp(self):
        place, pixels = Ring(len(self.pixels.full), self.planted), self.pixels
        stage, freed = (Ring(len(self.weights.full), self.planted) for _ in range(2))
        weights, at_work = self.weights, []
        for command in (c for own in self.slices for c in own):
            name, _, number = command.partition("(")
            if name == "NEXT_CHUNK":
                place.next()
                yield pixels.full[place.at].over(place.turn)
                pixels.readers[place.at] += 1
            elif name == "LOAD":
                pixels.reads(place)
                yield lambda: True
            elif name == "FREE_CHUNK":
                pixels.readers[place.at] -= 1
                pixels.empty[place.at].changes(arrived=1)
            elif name == "NEXT_STAGE":
                stage.next()
                if self.planted != "a stage is not waited for":
                    yield weights.full[stage.at].over(stage.turn)
            elif name == "ADD":
                weights.reads(stage)
            elif name == "COMMIT":
                # A product may read until it is waited for.
                weights.readers[stage.at] += 1
                at_work.append(stage.at)
                yield lambda: True
            elif name == "WAIT" and self.planted != "products are not waited for":
                while len(at_work) > int(number[:-1]):
                    weights.readers[at_work.pop(0)] -= 1
            elif name == "FREE_STAGE" and self.planted != "a stage is never free":
                freed.next()
                weights.empty[freed.at].changes(arrived=1)
        if freed.passed != stage.passed and not self.planted:
            raise Wrong("a stage is left behind")

    def run(self, seed):
        choose = random.Random(seed)
        # Now and then a thread is held, so that the others get ahead of it.
        held, rounds = None, 0
        while self.threads:
            if rounds == 0:
                held, rounds = choose.randrange(2 * len(self.threads)), choose.randrange(1, 64)
            rounds -= 1
            ready = [n for n, (_, waits) in self.threads.items() if waits()]
            free = [n for n in ready if n != held]
            if self.arriving and (not free or choose.random() < 0.25):
                self.arrives(*self.arriving.pop(choose.randrange(len(self.arriving))))
            elif ready:
                n = choose.choice(free or ready)
                try:
                    self.threads[n][1] = next(self.threads[n][0])
                except StopIteration:
                    del self.threads[n]
            else:
                raise Wrong("threads wait for each other")
        if self.arriving:
            raise Wrong("a copy arrives that nobody reads")


def weight(seed):
    """(slices, steps, taps, groups): what a weight keeps; some chunks are alike, some empty."""
    choose = random.Random(seed)
    slices, share = choose.choice([1, 2]), choose.choice([0.1, 0.5, 1.0])
    kept = torch.tensor([choose.random() < share for _ in range(slices * STEPS * TAPS * GROUPS)])
    kept = kept.reshape(slices, STEPS, TAPS, GROUPS)
    kept[:, 2:4] = choose.choice([kept[:, 2:3], torch.zeros_like(kept[:, 2:3])])
    return kept


@pytest.mark.parametrize("warpgroups", [1, 2, 3])
@pytest.mark.parametrize("stages", range(2, 7))
@pytest.mark.parametrize("places", range(2, 7))
def test_it_ends_and_nobody_reads_what_is_not_there(places, stages, warpgroups):
    for seed in range(12):
        Block(weight(seed), 3, places, stages, warpgroups, seed % 2 == 0).run(seed)


PLANTED = {
    "turns are not told apart": "not there|wait for each other|somebody reads|more arrive",
    "a place is not waited for": "not there|somebody reads|more arrive",
    "a stage is not waited for": "not there",
    "products are not waited for": "somebody reads",
    "a stage is never free": "wait for each other",
    "one warp is not counted": "somebody reads|not there|more arrive|wait for each other",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_shows(planted):
    with pytest.raises(Wrong, match=PLANTED[planted]):
        for seed in range(40):
            Block(weight(seed), 3, 3, 4, 2, False, planted).run(seed)


def test_a_copy_is_of_the_weights_of_each_step_that_keeps_any():
    for seed in range(12):
        kept = weight(seed)
        counts = [re.findall(r"COPY\((\d+)", text.weights(own[None])) for own in kept]
        block = Block(kept, 1, 2, 2, 1, False)
        assert [sum(map(int, own)) for own in counts] == block.copies
        assert [own.count("NEXT_STAGE") for own in block.slices] == block.copies


# Function -> what it does, in this order.
ORDER = {
    "void copy_all_pixels(": (
        "ring.next();",
        "ptx::wait_phase(plan.empty_pixels(ring.at), ring.turn ^ 1);",
        "ptx::copy16(",
        "ptx::copies_arrive(plan.full_pixels(ring.at));",
    ),
    "void copy_all_weights(": (
        "ring.next();",
        "ptx::wait_phase(plan.empty_weights(ring.at), ring.turn ^ 1);",
        "ptx::expect_bytes(barrier, bytes);",
        "ptx::copy_bytes(",
    ),
    "void next_chunk()": (
        "place.next();",
        "ptx::wait_phase(plan.full_pixels(place.at), place.turn",
    ),
    "void free_chunk()": (
        "ptx::whole_warp();",
        "if (first) ptx::arrive(plan.empty_pixels(place.at",
    ),
    "void next_stage()": (
        "stage.next();",
        "ptx::wait_phase(plan.full_weights(stage.at), stage.turn",
    ),
    "void free_stage()": ("freed.next();", "if (first) ptx::arrive(plan.empty_weights(freed.at"),
}


def test_the_kernel_waits_where_this_does():
    """Or the reading above is of another text."""
    kernel = nvrtc.sources()["periodic_conv2d_wgmma.cuh"]
    for function, lines in ORDER.items():
        own = kernel[kernel.index(function) :]
        end = own.index("\n}\n" if "copy" in function else "\n  }\n")
        places = [own[:end].index(line) for line in lines]
        assert places == sorted(places), function
    assert kernel.count("wait_phase(") == 4 and kernel.count("arrive(") == 3


def test_threads_give_registers_before_others_take_them_and_no_more_than_there_are():
    """`setmaxnreg` hangs where there are not enough, and takes steps of 8 from 24 to 256."""
    for warpgroups, (more, fewer) in configs.REGISTERS.items():
        config = configs.WgmmaConfig(4, 2, warpgroups, 64, 3, 5, 3, 1)
        assert config.threads == 128 * (warpgroups + 1) and config.registers == (more, fewer)
        begun = min(255, 65536 // config.threads) // 8 * 8
        if warpgroups == 1:
            assert (more, fewer) == (0, 0) and begun == 248
            continue
        assert 24 <= fewer < begun < more <= 256 and more % 8 == fewer % 8 == 0
        assert 128 * (warpgroups * more + fewer) <= config.threads * begun


def test_all_blocks_of_a_multiprocessor_have_room_for_their_registers():
    maps = choice.Maps(64, (14, 14), (14, 14), choice.Geometry((3, 3), (1, 1), (1, 1), (1, 1)))
    config = configs.WgmmaConfig(4, 4, 2, 64, 3, 5, 3, 1, 15, 1)
    assert wgmma_choice.resident(config, maps, (9, 0)) == 1
    for capability in ((7, 0), (7, 5), (8, 0), (9, 0)):
        for shape in choice.shapes(256, capability):
            for warps in choice.PIXEL_WARPS:
                config = configs.TapConfig(*shape)._replace(pixel_warps=warps)
                blocks = choice.resident(config, maps, capability)
                # What the launch bounds leave a thread: 128 of them, or all for 64 filters.
                wide = config.eights * config.groups > 4 or capability < (7, 5)
                assert blocks * config.threads <= (256 if wide else 512)
