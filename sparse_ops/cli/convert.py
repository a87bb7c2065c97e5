"""`sparse-ops convert`."""

from pathlib import Path
from typing import Annotated

import typer

from sparse_ops.cli.errors import check_can_write

MODEL_HELP = "One of ours, such as lenet300 or resnet18, or your own as package.module:function."

KEY_HELP = "Which of a file's state dicts, where there are several: the error lists them."

TRUST_HELP = (
    "Unpickle the whole file, as whole pickled models need it, whose class must be importable. "
    "This runs whatever code is in the file: only for files from those whom you trust."
)

WINOGRAD_HELP = (
    "Tiles of dense 3×3 layers: 2x2, or 4x4, which is faster and rounds 3 to 8 times as much."
)

OPTION_HELP = "An option of one of our models, such as variant=imagenet; repeatable."


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A file with a state dict: torch.save, TorchScript, .safetensors, .hdf5, .npz."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The packed file to write.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP + " Default: from result.json.")] = "",
    masks: Annotated[
        Path | None, typer.Option(help="Masks (.safetensors). Default: the weights' zeros.")
    ] = None,
    input: Annotated[
        str, typer.Option(help="One example's shape. Default: from result.json, or 1,28,28.")
    ] = "",
    batch: Annotated[int, typer.Option(help="The batch size to be fast at.")] = 1,
    classes: Annotated[
        int | None, typer.Option(help="Of one of our models. Default: from result.json, or 10.")
    ] = None,
    more: Annotated[list[str] | None, typer.Option("--set", help=OPTION_HELP)] = None,
    key: Annotated[str, typer.Option(help=KEY_HELP)] = "",
    trust_pickle: Annotated[bool, typer.Option("--trust-pickle", help=TRUST_HELP)] = False,
    threshold: Annotated[float, typer.Option(help="|weight| up to this counts as zero.")] = 0.0,
    budget: Annotated[float, typer.Option(help="Seconds to spend on timing.")] = 60.0,
    winograd: Annotated[str, typer.Option(help=WINOGRAD_HELP)] = "2x2",
    plan_json: Annotated[Path | None, typer.Option(help="Write the plan there too.")] = None,
) -> None:
    """Turns a pruned checkpoint into packed kernels, where they are measured faster."""
    import sparse_ops
    from sparse_ops._files import replacing
    from sparse_ops.cli import checkpoints, file_note, networks
    from sparse_ops.cli.named_network import network_of
    from sparse_ops.planning.masked import find_masks

    for path in (out, plan_json):
        if path is not None:
            check_can_write(path)
    held = checkpoints.contents(checkpoint, trust_pickle)
    run = networks.run_of(checkpoint)
    # A whole pickled model needs no other, unless one is named.
    whole = None if model or "model" in run else held.module(key)
    network = None
    if whole is not None:
        dense, found = whole.float().eval(), {}
        shape = networks.input_shape(input or "1,28,28")
    else:
        missing = f"there is no result.json beside {checkpoint}"
        network = network_of(run, model, input, classes, more or (), missing)
        dense, shape = network.build().eval(), network.shape
        found = checkpoints.load_(dense, held, key)
    example = networks.random_example(batch, shape)
    if masks is not None:
        found = sparse_ops.masks.load(masks)
    elif found:
        found = find_masks(dense, threshold) | found
    plan = sparse_ops.plan(
        dense, example, found or None, threshold=threshold, budget_s=budget, winograd=winograd
    )
    typer.echo(str(plan))
    sparse_ops.save(plan.apply(dense), out)
    if network is not None:
        file_note.note(out, network.as_data())
    if plan_json is not None:
        with replacing(plan_json) as temporary:
            temporary.write_text(plan.to_json() + "\n", encoding="utf-8")
    typer.echo(f"wrote {out} ({out.stat().st_size:,} bytes)")
