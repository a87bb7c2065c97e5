"""Learns hand gestures sparsely with SABR, and packs the network for this machine.

    python -m examples.gestures.render --fetch      # or photographs, <gesture>/<image>
    python -m examples.gestures.train               # VGG11, a quarter as wide, at 48×48
    python -m examples.gestures.train --network mobilenet_v2
    python -m examples.gestures.train --folder HG14 --width 1 --size 128      # photographs; hours
    python -m examples.gestures.train --quick       # a small network, under a minute

SABR has three phases: the network learns as usual; then under an L1 penalty for each layer that
grows as long as validation accuracy holds; then each layer is cut where its weights are spread.
How sparse it becomes is not chosen: it comes out. The packed network is planned for one image at a
time, as a camera gives them.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import sparse_ops as so
from examples.gestures.model import NETWORKS, NORMALIZE, Settings, built, save
from examples.gestures.render import MARK
from sparse_ops.data.images import read_images
from sparse_ops.training.evaluation import evaluate

# Chosen on the validation images, for 2,100 rendered ones and some minutes of one core.
CHOSEN: dict[str, dict[str, float]] = {
    "vgg11": {
        "width": 0.25,
        "size": 48,
        "lr": 1e-3,
        "epochs": 14,
        "sparse_epochs": 12,
        "strength": 2e-3,
    },
    "mobilenet_v2": {
        "width": 0.35,
        "size": 64,
        "lr": 1.5e-3,
        "epochs": 18,
        "sparse_epochs": 14,
        "strength": 5e-4,
    },
    "small_vgg": {
        "width": 1.0,
        "size": 48,
        "lr": 1e-3,
        "epochs": 14,
        "sparse_epochs": 12,
        "strength": 2e-3,
    },
}
QUICK = {
    "network": "small_vgg",
    "size": 32,
    "epochs": 6,
    "sparse_epochs": 6,
    "budget": 2.0,
}
# The authors' epochs under the penalty, whose growth in all ours has in fewer.
AUTHORS = 50


@dataclass(frozen=True)
class Divided:
    """The images, a tenth of each gesture to test on, a fifth of the others to validate with."""

    train: so.data.Split
    validation: so.data.Split
    test: so.data.Split
    classes: tuple[str, ...]


def divided(folder: Path, size: int) -> Divided:
    """Reads a folder of gestures.

    Raises:
        ValueError: see `read_images`; or there are too few images to be divided.
        FileNotFoundError: there is no such folder.
    """
    images, labels, classes = read_images(folder, size)
    # Shifted a little each time, and never mirrored: a mirrored hand is another gesture.
    moves = so.data.Augment(pad=max(1, size // 16), flip=False)
    everything = so.data.Split(images, labels, NORMALIZE, moves)
    rest, test = so.data.hold_out(everything, 0.1)
    train, validation = so.data.hold_out(rest, 0.2)
    return Divided(train, validation, test, classes)


def sparse_(
    model: torch.nn.Module, data: Divided, given: argparse.Namespace
) -> tuple[so.masks.Masks, dict[str, float]]:
    """Trains `model` in SABR's three phases; gives its masks and what it got right on the way."""
    right: dict[str, float] = {}

    def note(title: str) -> None:
        right[title] = evaluate(model, data.test).top1
        print(f"{title}: {right[title]:.1%} of {len(data.test)} test images", flush=True)

    def adam(groups: list) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=given.lr)

    train = {"optimizer": adam, "batch_size": given.batch, "validation": data.validation}
    schedule = so.training.Cosine(warm_up=min(1, given.epochs / 2))
    so.training.fit(
        model, data.train, so.training.Dense(), epochs=given.epochs, schedule=schedule, **train
    )
    note("trained")
    # The authors' settings of the cut.
    theta, gamma = (0.05, 0.025) if given.network == "mobilenet_v2" else (0.2, 0.1)
    faster = AUTHORS / max(1, given.sparse_epochs)
    method = so.training.SABR(
        strength=given.strength,
        increase=1.15**faster,
        decrease=1.2**faster,
        # Two standard deviations of the share of so many that is right, where nine in ten are.
        tolerance=0.6 / len(data.validation) ** 0.5,
        theta=theta,
        gamma=gamma,
    )
    masks = so.training.fit(
        model,
        data.train,
        method,
        epochs=given.sparse_epochs,
        schedule=so.training.Plateau(0.51, patience=3, least=0.1),
        before_cut=lambda _: note("under the penalty"),
        **train,
    )
    note("cut")
    return masks, right


def pictures_of(split: so.data.Split, classes: int) -> list:
    """The first image of each class, (H, W, 3), uint8."""

    def first(label: int) -> Tensor:
        return split.images[int((split.labels == label).nonzero()[0])]

    return [first(label).permute(1, 2, 0).numpy() for label in range(classes)]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("data/gestures"))
    parser.add_argument("--network", choices=NETWORKS, default="vgg11")
    parser.add_argument("--width", type=float, help="factor on its channels")
    parser.add_argument("--size", type=int, help="of the images, in pixels")
    parser.add_argument("--epochs", type=int, help="of the first phase")
    parser.add_argument("--sparse-epochs", type=int, help="of the second phase, at most")
    parser.add_argument("--strength", type=float, help="of the penalty at first")
    parser.add_argument("--lr", type=float, help="of Adam")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for the plan")
    parser.add_argument("--quick", action="store_true", help=f"sets {QUICK}")
    parser.add_argument("--out", type=Path, default=Path("gestures-run"))
    quick = "--quick" in (sys.argv[1:] if arguments is None else arguments)
    parser.set_defaults(**QUICK if quick else {})
    given = parser.parse_args(arguments)
    for key, value in CHOSEN[given.network].items():
        if getattr(given, key) is None:
            setattr(given, key, value)

    torch.manual_seed(0)
    try:
        data = divided(given.folder, given.size)
    except (ValueError, OSError) as error:
        sys.exit(f"{error}; python -m examples.gestures.render --fetch renders images")
    rendered = (given.folder / MARK).is_file()
    settings = Settings(given.network, given.size, data.classes, rendered, given.width)
    kind = "rendered images" if rendered else "images"
    print(f"{len(data.classes)} gestures, {len(data.train)} {kind} to learn from", flush=True)
    model = built(settings)
    masks, found = sparse_(model, data, given)

    example = NORMALIZE.apply(data.test.images[:1])
    plan = so.plan(model, example, masks, budget_s=given.budget, progress=False)
    print(plan)
    fast = plan.apply(model)
    found["packed"] = evaluate(fast, data.test, batch_size=1).top1
    found["sparsity"] = so.masks.sparsity(masks)
    save(given.out, settings, model, fast, pictures_of(data.test, len(data.classes)))
    speedup = 1.0 if plan.whole is None else plan.whole.speedup
    print(
        f"packed: {found['packed']:.1%} of {len(data.test)} test images; {found['sparsity']:.1%} "
        f"removed, {speedup:.2f}× the fastest dense form; written to {given.out}/"
    )
    return found


if __name__ == "__main__":
    main()
