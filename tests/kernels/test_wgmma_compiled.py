"""The CUDA kernel by wgmma, compiled by NVRTC for a Hopper card that is not here.

It fits the card, does what its text says, and the compiler does not make products wait for each
other. NVRTC comes from NVIDIA's packages (extra `nvrtc`).
"""

import re
from contextlib import suppress

import pytest
import torch

from sparse_ops.patterns import NAMED
from tests.kernels.cubin import instructions, needed, registers, signature, stack_bytes
from tests.kernels.on_host import choice, cuda, nvrtc, structure, wgmma_choice, wgmma_tables

pytestmark = pytest.mark.slow

COMPILERS = {12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc"}
KERNEL = "periodic_conv2d_wgmma"
CARD = (9, 0)
GEOMETRY = cuda.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
# Channels, side of x, pattern, batch: those of the same channels are cut in different ways.
LAYERS = [
    (64, 56, "PSD4_P16", 256),
    (128, 28, "PSD2_P8", 32),
    (128, 28, "PSD4_P16", 256),
    (256, 14, "PSD2_P8", 32),
    (256, 14, "PSD2_P8", 256),
    (512, 7, "PSD2_P8", 32),
    (512, 7, "PSD4_P16", 32),
]
# It takes more registers than there are, unless its loop is written out.
TOO_MUCH = (256, "PSD2_P8", (4, 8, 2, 64, 3, 6, 3, 1))


def sorted_weight(channels, pattern):
    """(places of the values, what is alike) of a weight whose channels are sorted."""
    return structure(NAMED[pattern], (channels, channels, 3, 3), True)[1:]


def compiled(made_by, config, text, bf16=1, folder=None):
    defines = cuda.defines_of(config) | {"BF16": bf16}
    return nvrtc.cubin(made_by, f"{KERNEL}.cuh", "sm_90a", defines, folder, text)


def count(text, macro):
    return len(re.findall(rf"\b{macro}\(", text))


@pytest.mark.parametrize("major", COMPILERS)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: "-".join(map(str, layer)))
def test_it_fits_the_card_and_does_what_its_text_says(layer, major):
    made_by = needed(major, COMPILERS[major])
    channels, side, pattern, batch = layer
    table, alike = sorted_weight(channels, pattern)
    x = torch.empty(batch, channels, side, side, device="meta")
    for config in wgmma_choice.ranked(alike, choice.Maps.of(x, GEOMETRY), channels, CARD, 132):
        text = wgmma_tables.tables(table, alike, config, CARD).texts
        # As on a card: the first that the compiler has registers for.
        with suppress(nvrtc.RegistersError):
            cubin = compiled(made_by, config, text, bf16=int(batch == 32))
            break
    where = f"{config} by NVRTC {made_by.version}"
    assert "serialized" not in made_by.said, made_by.said
    found = instructions(cubin, KERNEL)
    assert stack_bytes(cubin) == 0 == found["STL"] + found["LDL"], f"{where} spills"
    told = signature(cubin, KERNEL)
    assert (told.architecture, told.threads) == (90, config.threads)
    # Threads begin with these; then those that copy give some to those that multiply.
    taken = -(-registers(cubin, KERNEL) // 8) * 8
    more, fewer = config.registers
    assert taken * config.threads <= 65536, f"{where}: {taken}"
    assert more * (config.threads - 128) + fewer * 128 <= taken * config.threads, where
    assert found["USETMAXREG"] == 2, f"{where}: {found}"
    schedule, weights = text["schedule.cuh"], text["weights.cuh"]
    assert found["HGMMA"] == count(schedule, "ADD") and found["HMMA"] == 0, f"{where}: {found}"
    assert found["LDSM"] == count(schedule, "LOAD"), f"{where}: {found}"
    assert found["UBLKCP"] >= count(weights, "COPY") > 0 and found["LDGSTS"], f"{where}: {found}"


def test_what_the_compiler_makes_wait_for_each_other_is_an_error_and_no_cubin(tmp_path):
    made_by = needed(13, COMPILERS[13])
    channels, pattern, numbers = TOO_MUCH
    table, alike = sorted_weight(channels, pattern)
    config = wgmma_choice.made(numbers, alike)
    text = wgmma_tables.tables(table, alike, config, CARD).texts
    with pytest.raises(nvrtc.RegistersError, match=r"too few registers .*LOOPS=1"):
        compiled(made_by, config, text, folder=tmp_path)
    assert "wgmma.mma_async instructions are serialized" in made_by.said
    assert [nvrtc.read(file) for file in tmp_path.iterdir()] == [b""]


def test_one_warpgroup_takes_as_many_registers_as_there_can_be():
    made_by = needed(13, COMPILERS[13])
    table, alike = sorted_weight(64, "PSD4_P16")
    config = wgmma_choice.made((4, 2, 1, 64, 3, 6, 3, 1), alike)
    text = wgmma_tables.tables(table, alike, config, CARD).texts
    found = instructions(compiled(made_by, config, text), KERNEL)
    assert config.registers == (0, 0) and found["USETMAXREG"] == 0
