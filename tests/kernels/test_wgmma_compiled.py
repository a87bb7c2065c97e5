"""The CUDA kernel by wgmma, compiled by NVRTC for a Hopper card that is not here.

It fits the card, has as many products as its schedule says, and the compiler does not make them
wait for each other. NVRTC comes from NVIDIA's packages (extra `nvrtc`).
"""

import itertools

import pytest
import torch

from sparse_ops.patterns import NAMED
from tests.kernels.cubin import instructions, needed, registers, stack_bytes
from tests.kernels.on_host import choice, configs, cuda, nvrtc, structure, wgmma_choice

pytestmark = pytest.mark.slow

COMPILERS = {12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc"}
KERNEL = "periodic_conv2d_wgmma"


def chosen():
    """The configurations for real layers, small and large batches."""
    found = {}
    for (channels, side), pattern, batch in itertools.product(
        [(64, 56), (128, 28), (256, 14), (512, 7)], ["PSD2_P8", "PSD4_P16"], [32, 256]
    ):
        _, _, alike = structure(NAMED[pattern], (channels, channels, 3, 3), True)
        x = torch.empty(batch, channels, side, side, device="meta")
        maps = choice.Maps.of(x, cuda.Geometry((3, 3), (1, 1), (1, 1), (1, 1)))
        config = wgmma_choice.choose(alike, maps, channels, (9, 0), 132)
        found[config.eights, config.groups] = config
    # The most of sums, and one of the widest products; each of these is seconds of compiling.
    some = list(found.values())[:3]
    return [*some, some[-1]._replace(cluster=2), configs.WgmmaConfig(8, 4, 2, 64, 12, 1)]


def compiled(made_by, config, bf16=1):
    defines = {name.upper(): number for name, number in config._asdict().items()}
    return nvrtc.cubin(made_by, f"{KERNEL}.cuh", "sm_90a", defines | {"BF16": bf16}, None)


@pytest.mark.parametrize("major", COMPILERS)
def test_it_fits_the_card_and_has_the_products_of_its_schedule(major):
    made_by = needed(major, COMPILERS[major])
    for config in chosen():
        cubin = compiled(made_by, config, bf16=int(config.eights > 1))
        where = f"{config} by NVRTC {made_by.version}"
        assert "serialized" not in made_by.said, made_by.said
        found = instructions(cubin, KERNEL)
        assert stack_bytes(cubin) <= 8 and found["STL"] == found["LDL"] == 0, f"{where} spills"
        taken = registers(cubin, KERNEL)
        # They are given out in eights, to warps.
        assert -(-taken // 8) * 8 * config.threads * config.blocks <= 65536, f"{where}: {taken}"
        # A turn has three entries, whose pixels are loaded once for all groups; two are loaded
        # before the first.
        assert found["HGMMA"] == 3 * config.groups and found["HMMA"] == 0, f"{where}: {found}"
        assert found["LDSM"] == 3 + 2 and found["LDGSTS"], f"{where}: {found}"


def test_products_that_wait_for_each_other_would_be_noticed(monkeypatch):
    made_by = needed(13, COMPILERS[13])
    texts = nvrtc.sources()
    plain = texts[f"{KERNEL}.cuh"]
    texts[f"{KERNEL}.cuh"] = plain.replace(
        "if (newest == 0) ptx::commit_products();", "if (newest == 0) ptx::wait_products<0>();"
    )
    assert texts[f"{KERNEL}.cuh"] != plain
    monkeypatch.setattr(nvrtc, "sources", lambda: texts)
    compiled(made_by, configs.WgmmaConfig(4, 4, 2, 64, 12, 2))
    assert "wgmma.mma_async instructions are serialized" in made_by.said
