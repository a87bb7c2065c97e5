"""Prunes a torchvision network with torch.nn.utils.prune, and makes it faster in one call.

    pip install torchvision
    python examples/prune_torchvision.py                         # resnet18, random weights
    python examples/prune_torchvision.py --network vgg11_bn --sparsity 0.95 --batch 8
    python examples/prune_torchvision.py --weights resnet18.pth  # your own checkpoint

Without --weights they are random: what is shown is time and equality, not accuracy. A network that
is pruned as much as this has to be fine-tuned: `so.training.Fixed(so.masks.from_zeros(model))`.
"""

import argparse
import sys
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

import sparse_ops as so


def torchvision() -> Any:
    """torchvision, also one whose compiled operators are for another torch: none is needed here."""
    for name in ("nms", "qnms"):
        # Its import gives these operators fakes, and fails where they are not defined.
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float t) -> Tensor")
    try:
        import torchvision
    except ImportError as error:
        sys.exit(f"this example needs torchvision (pip install torchvision): {error}")
    return torchvision


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18", help="a name of torchvision.models")
    parser.add_argument("--weights", help="a state dict; default: random ones")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--side", type=int, default=224, help="of the images")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for the plan")
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = torchvision().models.get_model(given.network, weights=None).eval()
    if given.weights:
        model.load_state_dict(torch.load(given.weights, map_location="cpu", weights_only=True))

    # Anybody's pruning: the smallest weights of all convolutions and linear layers together.
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(
        [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=given.sparsity
    )

    example = torch.randn(given.batch, 3, given.side, given.side)
    plan = so.plan(model, example, budget_s=given.budget, progress=False)
    print(plan)
    fast = plan.apply(model)  # in one call: fast = so.sparsify(model, example)

    with torch.inference_mode():
        expected, y = model(example), fast(example)
    # With random weights, pruning may leave a network that always gives zero.
    largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    off = float((y - expected).abs().max() / largest)
    speedup = 1.0 if plan.whole is None else plan.whole.speedup
    removed = so.masks.sparsity(so.masks.from_zeros(model))
    print(
        f"{given.network}, {removed:.1%} removed, batch {given.batch}: {speedup:.2f}× the fastest "
        f"dense form, outputs {off:.1e} apart"
    )
    return {"off": off, "speedup": speedup, "sparsity": removed, "packed": float(len(plan.packed))}


if __name__ == "__main__":
    main()
