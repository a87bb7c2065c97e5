"""How the blocks of a cluster wait for each other, as `cuda/periodic_conv2d_wgmma.cuh` does it.

A second reading of its barriers without the rest: for many numbers of stages, and more orders of
who comes first than the text itself is run in (`test_wgmma_on_host.py`). It ends, nobody reads what
is not there yet, and nothing is copied to where somebody still reads.
"""

import random

import pytest

from tests.kernels.on_host import choice, configs, nvrtc, wgmma_choice

BLOCKS, PLACES = 2, 3
# The one that copies, and others, which differ in nothing.
THREADS = 3
# The bytes of a stage: of its entries and half of its weights, and of the other half.
PARTS = (5, 3)


class Wrong(AssertionError):
    """What must not happen, in words."""


class Barrier:
    """Of shared memory: a phase ends when one has arrived, and all bytes that it said have."""

    def __init__(self):
        self.phase, self.awaited, self.bytes = 0, 1, 0

    def changes(self, arrived=0, more=0):
        self.awaited, self.bytes = self.awaited - arrived, self.bytes + more
        if self.awaited < 0:
            raise Wrong("more arrive at a barrier than it counts")
        if self.awaited == 0 and self.bytes == 0:
            self.phase, self.awaited = self.phase + 1, 1


class Cluster:
    """Two blocks; threads are generators, which yield what they wait for."""

    def __init__(self, stages, planted=""):
        self.stages, self.planted = stages, planted
        self.barriers = [[Barrier() for _ in range(PLACES)] for _ in range(BLOCKS)]
        # Of each block and place: which stage each part is of, and what reads there.
        self.held = [[[None, None] for _ in range(PLACES)] for _ in range(BLOCKS)]
        self.readers = [[0] * PLACES for _ in range(BLOCKS)]
        self.arriving = []
        self.met = [[0] * THREADS for _ in range(BLOCKS)]  # at the block's barrier
        self.came = [[0] * THREADS for _ in range(BLOCKS)]  # at the cluster's

    def block_barrier(self, block, thread):
        self.met[block][thread] += 1
        mine = self.met[block][thread]
        return lambda: min(self.met[block]) >= mine

    def cluster_wait(self, block, thread):
        mine = self.came[block][thread]
        return lambda: min(min(own) for own in self.came) >= mine

    def copy_stage(self, block, stage):
        """To both blocks: this one's part; its own barrier is told of both parts."""
        place = stage % PLACES
        said = PARTS[0] if self.planted == "one part is waited for" else sum(PARTS)
        self.barriers[block][place].changes(arrived=1, more=said)
        for to in range(BLOCKS):
            if self.readers[to][place]:
                raise Wrong("a copy is to where somebody reads")
            self.arriving.append((to, place, block, stage))

    def arrives(self, to, place, part, stage):
        self.held[to][place][part] = stage
        self.barriers[to][place].changes(more=-PARTS[part])

    def thread(self, block, thread):
        place = parity = 0
        older = None
        yield self.block_barrier(block, thread)
        self.came[block][thread] += 1
        yield self.cluster_wait(block, thread)
        if thread == 0:
            self.copy_stage(block, 0)
        for stage in range(self.stages):
            yield self.block_barrier(block, thread)
            if stage > 0 and self.planted != "blocks do not wait for each other":
                yield self.cluster_wait(block, thread)
            now, phase = place, parity
            barrier = self.barriers[block][now]
            place = (place + 1) % PLACES
            if place == 0 and self.planted != "phases are not told apart":
                parity ^= 1
            if thread == 0 and stage + 1 < self.stages:
                self.copy_stage(block, stage + 1)
            if self.planted != "phases are not waited for":
                yield lambda barrier=barrier, phase=phase: barrier.phase % 2 != phase
            if self.held[block][now] != [stage] * 2:
                raise Wrong("a stage is read before it is there")
            self.readers[block][now] += 1
            # In the first turn of a stage the products of the one before come to their end.
            yield lambda: True
            if older is not None:
                self.readers[block][older] -= 1
            older = now
            if self.planted != "a block does not say that it is done":
                self.came[block][thread] += 1
            yield lambda: True
        yield self.cluster_wait(block, thread)

    def run(self, seed):
        choose = random.Random(seed)
        threads = {
            (b, t): [self.thread(b, t), lambda: True] for b in range(BLOCKS) for t in range(THREADS)
        }
        # Now and then a block is held, so that the other gets ahead of it.
        held, rounds = None, 0
        while threads:
            if rounds == 0:
                held, rounds = choose.choice([None, 0, 1]), choose.randrange(1, 64)
            rounds -= 1
            ready = [key for key, (_, waits) in threads.items() if waits()]
            free = [key for key in ready if key[0] != held]
            if self.arriving and (not free or choose.random() < 0.25):
                self.arrives(*self.arriving.pop(choose.randrange(len(self.arriving))))
            elif free or ready:
                key = choose.choice(free or ready)
                try:
                    threads[key][1] = next(threads[key][0])
                except StopIteration:
                    del threads[key]
            else:
                raise Wrong("threads wait for each other")
        if self.arriving:
            raise Wrong("a copy is to a block that has ended")


@pytest.mark.parametrize("stages", range(1, 21))
def test_it_ends_and_nobody_reads_what_is_not_there(stages):
    for seed in range(40):
        Cluster(stages).run(seed)


PLANTED = {
    "phases are not told apart": "before it is there|wait for each other|somebody reads",
    "phases are not waited for": "before it is there",
    "blocks do not wait for each other": "somebody reads|before it is there|more arrive",
    "a block does not say that it is done": "somebody reads|before it is there|more arrive",
    "one part is waited for": "before it is there|wait for each other|more arrive",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_shows(planted):
    with pytest.raises(Wrong, match=PLANTED[planted]):
        for seed in range(40):
            Cluster(8, planted).run(seed)


def test_the_text_waits_where_this_does():
    """In this order, each of these once; or the reading above is of another text."""
    text = nvrtc.sources()["periodic_conv2d_wgmma.cuh"]
    loop = text[text.index("for (int s = 0; s < p.stages; s++)") :]
    lines = (
        "__syncthreads();",
        "if (CLUSTER > 1 && s > 0) ptx::cluster_wait();",
        "const int phase = parity;",
        "place = place == 2 ? 0 : place + 1;",
        "if (place == 0) parity ^= 1;",
        "if (s + 1 < p.stages) copy_stage(next, ring + place * PLACE, place);",
        "if (CLUSTER > 1) ptx::wait_phase(barrier, phase);",
        "if (CLUSTER > 1 && left == (int)now.entries) ptx::cluster_arrive();",
        "if (CLUSTER > 1) ptx::cluster_wait();",
        "ptx::wait_products<0>();",
    )
    places = [loop.index(line) for line in lines]
    assert places == sorted(places)
    assert text.count("cluster_wait()") == 3 and text.count("cluster_arrive()") == 2
    assert text.count("wait_phase(") == text.count("expect_bytes(") == 1


def test_no_kernel_takes_or_gives_registers_and_all_of_a_block_have_room():
    """`setmaxnreg` may hang where the warps' sum is over a multiprocessor's: it is not used."""
    for name, text in nvrtc.sources().items():
        assert "setmaxnreg" not in text, f"{name}: sum the registers of all warps, and test that"
    maps = choice.Maps(64, (14, 14), (14, 14), choice.Geometry((3, 3), (1, 1), (1, 1), (1, 1)))
    for shape in wgmma_choice.shapes(256):
        for warpgroups in wgmma_choice.WARPGROUPS:
            config = shape._replace(warpgroups=warpgroups)
            blocks = wgmma_choice.resident(config, maps, (9, 0))
            assert blocks * config.threads * wgmma_choice.registers(config) <= 65536
    for capability in ((7, 0), (7, 5), (8, 0), (9, 0)):
        for shape in choice.shapes(256, capability):
            for warps in choice.PIXEL_WARPS:
                config = configs.TapConfig(*shape)._replace(pixel_warps=warps)
                blocks = choice.resident(config, maps, capability)
                # What the launch bounds leave a thread: 128 of them, or all for 64 filters.
                wide = config.eights * config.groups > 4 or capability < (7, 5)
                assert blocks * config.threads <= (256 if wide else 512)
