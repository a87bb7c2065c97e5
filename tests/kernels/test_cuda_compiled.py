"""The CUDA kernel, compiled by NVRTC for cards that are not here.

It fits them, and has as many products as its schedule says. NVRTC comes from NVIDIA's packages
(extra `nvrtc`).
"""

import itertools

import pytest
import torch

from sparse_ops.patterns import NAMED
from tests.kernels.cubin import instructions, needed, registers, stack_bytes
from tests.kernels.on_host import choice, configs, cuda, nvrtc, structure

pytestmark = pytest.mark.slow

# architecture -> (capability, multiprocessors, major version of NVRTC, its package)
CARDS = {
    "sm_70": ((7, 0), 80, 12, "nvidia-cuda-nvrtc-cu12"),
    "sm_75": ((7, 5), 40, 13, "nvidia-cuda-nvrtc"),
    "sm_80": ((8, 0), 108, 13, "nvidia-cuda-nvrtc"),
    "sm_86": ((8, 6), 84, 12, "nvidia-cuda-nvrtc-cu12"),
    "sm_90": ((9, 0), 132, 12, "nvidia-cuda-nvrtc-cu12"),
    "sm_90a": ((9, 0), 132, 13, "nvidia-cuda-nvrtc"),
}


def chosen(capability, processors):
    """The configurations for real layers: sorted and as they are, small and large batches."""
    found = {}
    for (channels, side), pattern, sort, batch in itertools.product(
        [(64, 56), (128, 28), (256, 14), (512, 7)], ["PSD2_P8", "PSD4_P16"], [True, False], [8, 256]
    ):
        _, _, alike = structure(NAMED[pattern], (channels, channels, 3, 3), sort)
        x = torch.empty(batch, channels, side, side, device="meta")
        geometry = cuda.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
        maps = choice.Maps.of(x, geometry)
        config = choice.choose(alike, maps, channels, capability, processors)
        found[config.eights, config.groups, config.threads * config.blocks] = config
    # Each of these is seconds of compiling.
    return list(found.values())[:4]


@pytest.mark.parametrize("architecture", CARDS)
def test_it_fits_the_card_and_has_the_products_of_its_schedule(architecture):
    capability, processors, major, package = CARDS[architecture]
    made_by = needed(major, package)
    # The code of a loop's body, once or several times over.
    per_product = {(7, 0): 16, (7, 5): 2}.get(capability, 1)
    units = 2 if capability < (7, 5) else 4
    for config in chosen(capability, processors):
        bf16 = capability >= (8, 0)
        defines = {name.upper(): number for name, number in config._asdict().items()}
        cubin = nvrtc.cubin(
            made_by, "periodic_conv2d.cuh", architecture, defines | {"BF16": int(bf16)}, None
        )
        where = f"{config} for {architecture} by NVRTC {made_by.version}"
        found = instructions(cubin, "periodic_conv2d")
        assert stack_bytes(cubin) <= 8 and found["STL"] == found["LDL"] == 0, f"{where} spills"
        taken = registers(cubin, "periodic_conv2d")
        assert taken * config.threads * config.blocks <= 65536, f"{where}: {taken} registers"
        products = config.groups * config.eights * units * per_product
        assert found["HMMA"] and found["HMMA"] % products == 0, f"{where}: {found}"
        if capability >= (7, 5):
            # Pixels are loaded once for all groups of a warp.
            assert found["LDSM"] * products == found["HMMA"] * units, f"{where}: {found}"
        assert bool(found["LDGSTS"]) == (capability >= (8, 0)), f"{where}: {found}"


def test_a_kernel_that_spills_would_be_noticed():
    made_by = needed(12, "nvidia-cuda-nvrtc-cu12")
    config = configs.TapConfig(4, 2, 2, 4, 64, 2)
    defines = {name.upper(): number for name, number in config._asdict().items()} | {"BF16": 1}
    cubin = nvrtc.cubin(made_by, "periodic_conv2d.cuh", "sm_90", defines, None)
    assert stack_bytes(cubin) > 8 and instructions(cubin, "periodic_conv2d")["STL"] > 0


def test_what_does_not_compile_is_said_in_the_compilers_words(tmp_path):
    made_by = needed(12, "nvidia-cuda-nvrtc-cu12")
    with pytest.raises(nvrtc.CompilerError, match=r"NVRTC 12\.\d+ says NVRTC_ERROR_INVALID_OPTION"):
        nvrtc.cubin(made_by, "periodic_conv2d.cuh", "sm_10", {}, tmp_path)
    defines = {"EIGHTS": 4, "BF16": 1}
    with pytest.raises(nvrtc.CompilerError, match="SPARSE_OPS_PIXEL_WARPS"):
        nvrtc.cubin(made_by, "periodic_conv2d.cuh", "sm_90", defines, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_architecture_that_an_nvrtc_names_is_a_number_of_ours():
    found = needed(12, "nvidia-cuda-nvrtc-cu12").architectures()
    assert {70, 75, 80, 86, 90} <= found
