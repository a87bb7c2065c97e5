"""What cuda/periodic_conv2d_wgmma.cuh does in which order, as text for its compiler.

A step is 16 channels of a chunk. A unit is the pixels of a few taps of a step, loaded together, and
the products of all groups of filters that keep weights there; while a unit is multiplied, the
pixels of the next are loaded. Neighbouring steps that keep the same, as all of a class do, may be a
loop: that is compiled sooner, and takes more registers. A product is of one group: of overlapping
ones, the compiler moves sums about.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from .configs import WgmmaConfig
from .tap_tables import DEPTH

# Taps of a step, with the groups that keep weights there.
Step = list[tuple[int, list[int]]]


class Part(NamedTuple):
    """Neighbouring steps of a chunk that keep the same weights.

    Attributes:
        chunk, first: the chunk, and its first such step.
        count: how many.
        units: what each is, cut into parts.
    """

    chunk: int
    first: int
    count: int
    units: list[Step]


def steps_of(kept: Tensor) -> list[Step]:
    """The taps of each step of a slice, (steps, taps, groups)."""
    own = [[tap.nonzero()[:, 0].tolist() for tap in step] for step in kept]
    return [[(tap, groups) for tap, groups in enumerate(step) if groups] for step in own]


def cut(step: Step, at_once: int, even: bool) -> list[Step]:
    """A step in units of at most so many taps, all of about the same length."""
    count = -(-len(step) // at_once)
    count += even and count % 2
    ends = [len(step) * (n + 1) // count for n in range(count)]
    return [step[first:end] for first, end in zip([0, *ends], ends, strict=False)]


def parts_of(steps: list[Step], per_chunk: int, at_once: int, loops: bool) -> list[Part]:
    """All of a slice that keeps anything, in order of use.

    The pixels of neighbouring units are in two buffers by turns, so that what is repeated is an
    even number of units.
    """
    found = []
    numbered = [
        (number // per_chunk, number % per_chunk, step) for number, step in enumerate(steps)
    ]
    for (chunk, step), same in groupby(numbered, key=lambda own: (own[0], own[2])):
        own = [first for _, first, _ in same]
        if not step:
            continue
        units = -(-len(step) // at_once)
        if loops and len(own) > 1 and units + units % 2 <= len(step):
            found.append(Part(chunk, own[0], len(own), cut(step, at_once, True)))
        else:
            found += [Part(chunk, first, 1, cut(step, at_once, False)) for first in own]
    return found


def lines(steps: list[Step], per_chunk: int, at_once: int, loops: bool) -> Iterator[str]:
    """The text for a slice, in the macros of periodic_conv2d_wgmma.cuh."""
    parts, chunks = parts_of(steps, per_chunk, at_once, loops), -(-len(steps) // per_chunk)
    at, step, buffer = -1, 0, 0

    def load(unit: Step) -> Iterator[str]:
        for n, (tap, _) in enumerate(unit):
            yield f"LOAD({buffer}, {n}, {tap})"

    def move(part: Part) -> Iterator[str]:
        """To where the pixels of a part's first step are."""
        nonlocal at, step
        while at < part.chunk:
            at, step = at + 1, 0
            # One of which nothing is read is free at once.
            yield "NEXT_CHUNK" if at == part.chunk else "NEXT_CHUNK FREE_CHUNK"
        if part.first > step:
            yield f"SKIP({part.first - step})"
        step = part.first

    if parts:
        yield from move(parts[0])
        yield from load(parts[0].units[0])
    for number, part in enumerate(parts):
        block = 0
        if part.count > 1:
            yield f"REPEAT({part.count})"
        for place, unit in enumerate(part.units):
            if place == 0:
                yield "NEXT_STAGE"
            yield "FENCE"
            for n, (_, groups) in enumerate(unit):
                for group in groups:
                    yield f"ADD({buffer}, {n}, {group}, {block})"
                    block += 1
            yield "COMMIT WAIT(1)"
            if place == 0 and (number or part.count > 1):
                # The stage before: its last products are done.
                yield "FREE_STAGE" if number else "AGAIN(FREE_STAGE)"
            buffer = 1 - buffer
            if place + 1 < len(part.units):
                yield from load(part.units[place + 1])
        if part.count > 1:
            ahead = " ".join(load(part.units[0]))
            yield f"UNLESS_LAST({part.count}, SKIP(1) {ahead})"
            yield "END"
            step += part.count - 1
        following = parts[number + 1] if number + 1 < len(parts) else None
        if following is None or following.chunk != part.chunk:
            # Its products have begun: their pixels are in registers.
            yield "FREE_CHUNK"
        if following is not None:
            yield from move(following)
            yield from load(following.units[0])
    if parts:
        yield "WAIT(0) FREE_STAGE"
    yield from ["NEXT_CHUNK FREE_CHUNK"] * (chunks - 1 - at)


def by_slice(texts: list[str]) -> str:
    """A text for each slice; those of the same share it."""
    found: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        found.setdefault(text, []).append(number)
    if len(found) == 1:
        return texts[0] + "\n"
    *others, last = found
    cases = []
    for text in others:
        which = " || ".join(f"slice == {number}" for number in found[text])
        cases.append(f"if ({which}) {{\n{text}\n}} else ")
    return "".join(cases) + f"{{\n{last}\n}}\n"


def weights(kept: Tensor) -> str:
    """The copies of weights: of each step of a slice that keeps any, (slices, steps, taps, groups).

    COPY(steps, block, blocks): of so many steps, the first block and how many each has.
    """
    texts, block = [], 0
    for own in kept.sum((2, 3)).tolist():
        text = []
        for blocks, same in groupby(n for n in own if n):
            count = len(list(same))
            text.append(f"COPY({count}, {block}, {blocks})")
            block += count * blocks
        texts.append("\n".join(text))
    return by_slice(texts)


def _product(count: int, bf16: bool) -> str:
    """The product of so many sums a thread, twice as many filters."""
    kind = "bf16" if bf16 else "f16"
    sums = ", ".join(f"%{i}" for i in range(count))
    pixels = ", ".join(f"%{count + i}" for i in range(4))
    given = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    return f"""template <>
struct Product<{str(bf16).lower()}, {count}> {{
  static SPARSE_OPS_INLINE void add(float (&d)[{count}], const u32 (&a)[4], u32 b) {{
    asm volatile("{{.reg .b64 b;\\n mov.b64 b, {{%{count + 4}, %{count + 5}}};\\n"
                 "wgmma.mma_async.sync.aligned.m64n{2 * count}k16.f32.{kind}.{kind} "
                 "{{{sums}}}, {{{pixels}}}, b, 1, 1, 1, 0;}}"
                 : {given}
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(ROWS_APART));
  }}
}};
"""


def head(eights: int, taps: int) -> str:
    """How many taps there are, and the product of a schedule in both types; a host has its own."""
    own = "".join(_product(4 * eights, bf16) for bf16 in (True, False))
    return (
        f"namespace sparse_ops {{\nconstexpr int TAPS = {taps};\n"
        "#if SPARSE_OPS_HAS_WGMMA && !defined(SPARSE_OPS_HOST)\n"
        f"namespace ptx {{\n{own}}}\n#endif\n}}\n"
    )


def schedule(kept: Tensor, config: WgmmaConfig) -> str:
    """What is multiplied in which order, (slices, steps, taps, groups)."""
    per_chunk, at_once, loops = config.chunk // DEPTH, config.at_once, bool(config.loops)
    own = ["\n".join(lines(steps_of(each), per_chunk, at_once, loops)) for each in kept]
    return by_slice(own)


def texts(kept: Tensor, turns: list[int], config: WgmmaConfig) -> dict[str, str]:
    """File name -> text, of what the kernel includes.

    Args:
        kept: (slices, steps, taps, groups), bool.
        turns: of each slice, with which chunk of the channels it begins.
    """
    return {
        "head.cuh": head(config.eights, kept.shape[2]),
        "schedule.cuh": schedule(kept, config),
        "turns.cuh": by_slice([f"BEGIN({turn})" for turn in turns]),
        "weights.cuh": weights(kept),
    }
