"""`sparse-ops train`."""

from pathlib import Path
from typing import Annotated

import typer

from sparse_ops.cli.asked import Asked
from sparse_ops.cli.convert import KEY_HELP, MODEL_HELP, TRUST_HELP


def train(
    out: Annotated[Path, typer.Option(help="The folder for the run; made if it is not there.")],
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="magnitude, predefined, gsm, hypersparse, sabr, spred or fixed: a plan of dense "
            "training, the method, and training on after its cut, as the method wants it."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A published experiment, such as gsm-lenet300-60x; or a .toml file."),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An option of the method, such as theta=0.1, or anything of a phase, of data or "
            "model, such as gsm.epochs=3 or model.width=16; repeatable.",
        ),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(help="Take that out of a recipe, such as gsm.schedule; repeatable."),
    ] = None,
    shorten: Annotated[
        float,
        typer.Option(help="Factor on a recipe's epochs; what acts in them is made the stronger."),
    ] = 1.0,
    sparsity: Annotated[float | None, typer.Option(help="Fraction of weights to remove.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Such as PSD2_P8; for predefined.")] = None,
    masks: Annotated[Path | None, typer.Option(help="A file of masks; for fixed.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint of a trained network to start from, in place of the dense training; "
            "of a recipe for lottery tickets, the first weights."
        ),
    ] = None,
    key: Annotated[str, typer.Option(help="Of --start. " + KEY_HELP)] = "",
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Of --start. " + TRUST_HELP)
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="The data set; default: fashion-mnist-subset, or a recipe's.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Fraction of the training images to hold out and watch, as SABR does."),
    ] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(help="Look at them after each so many epochs, and the last; default: each."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the images, of all phases of --method; default: 30."),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of --method; default: its own.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd, adam, adamw or adagrad, in all phases.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="cosine, multi-step, plateau or none, in all phases.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a step; default: 128, or a recipe's.")
    ] = None,
    amp: Annotated[str | None, typer.Option(help="bfloat16 or float16, for the forward.")] = None,
    hdf5: Annotated[
        bool,
        typer.Option(
            "--hdf5", help="Also write the HDF5 files of GSM: init, finish and finish_pruned."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="Where to train, such as cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints that are in the folder.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Do away with a finished run that is in the folder.")
    ] = False,
) -> None:
    """Trains a network with masks; writes model.pt, masks.safetensors, result.json and CSV files.

    What each epoch brought goes to the error stream. Under torchrun, as `torchrun -m sparse_ops
    train ...`, every process takes its part.
    """
    from sparse_ops.cli.training_run import carry_out

    asked = Asked(
        recipe=recipe,
        method=method,
        model=model,
        more=tuple(more or ()),
        unset=tuple(unset or ()),
        shorten=shorten,
        sparsity=sparsity,
        pattern=pattern,
        masks=masks,
        start=start,
        key=key,
        trust_pickle=trust_pickle,
        data=data,
        folder=folder,
        validation=validation,
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        schedule=schedule,
        evaluate_every=evaluate_every,
        batch_size=batch_size,
        amp=amp,
        seed=seed,
    )
    asked.check()
    carry_out(asked, out, device=device, resume=resume, force=force, hdf5=hdf5)
