"""Swaps nn.Conv2d for PeriodicConv2d in a network of your own, trains both, and measures both.

    python examples/swap_conv2d.py                 # 2,000 images, 4 epochs, some minutes
    python examples/swap_conv2d.py --images 10000 --epochs 10

The swapped network learns with a third of the weights of its 3×3 convolutions. For inference it is
turned into its dense equivalent and planned: what is measured faster on this machine is packed, the
rest stays dense, BatchNorm and ReLU are folded.
"""

import argparse
from dataclasses import replace

import torch
from torch import nn

import sparse_ops as so
from sparse_ops.data import Split


def network() -> nn.Module:
    """Plain torch: nothing in it knows of sparse_ops."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64, help="to be fast at")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for the plan")
    given = parser.parse_args(arguments)

    data = so.data.load("fashion-mnist-subset")
    few = Split(data.train.images[: given.images], data.train.labels[: given.images])
    data = replace(data, train=few)

    torch.manual_seed(0)
    dense = network()
    sparse = network()
    sparse.load_state_dict(dense.state_dict())
    print(so.swap_(sparse))  # PSD2_P8 for 3×3; the first convolution stays

    found = {}
    for name, model in (("dense", dense), ("swapped", sparse)):
        # What is not kept is not there: no method has to keep it away.
        method = so.training.Dense()
        so.training.fit(model, data, method, epochs=given.epochs, batch_size=32, progress=False)
        top1 = so.training.evaluate(model, data.test).top1
        weights = sum(parameter.numel() for parameter in model.parameters())
        found |= {f"{name} top-1": top1, f"{name} parameters": float(weights)}
        print(f"{name}: top-1 {top1:.2%} of {len(data.test)} images, {weights:,} parameters")

    example = data.test.images[: given.batch]
    masked = so.convert.to_dense(sparse).eval()
    plan = so.plan(masked, example, budget_s=given.budget, progress=False)
    print(plan)
    fast = plan.apply(masked)
    with torch.inference_mode():
        off = (fast(example) - sparse(example)).abs().max()
        agree = (fast(example).argmax(1) == sparse(example).argmax(1)).float().mean()
    print(
        f"packed against swapped: {off:.1e} apart at most, {agree:.1%} of the labels are the same"
    )
    return found | {"agree": float(agree), "packed": float(len(plan.packed))}


if __name__ == "__main__":
    main()
