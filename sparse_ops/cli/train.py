"""`sparse-ops train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sparse_ops.cli.convert import MODEL_HELP
from sparse_ops.cli.errors import UserError


@dataclass(frozen=True)
class Run:
    """What `result.json` says of a training run."""

    model: str
    method: str
    options: dict[str, Any]
    data: str
    validation: float | None
    epochs: int
    seed: int
    accuracy: float
    loss: float
    sparsity: float
    masks: dict[str, float]


def train(
    out: Annotated[Path, typer.Option(help="The folder for the run; made if it is not there.")],
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    method: Annotated[
        str | None,
        typer.Option(help="magnitude, predefined, gsm, hypersparse, sabr, spred or fixed."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A published experiment, such as gsm-lenet300-60x; or a .toml file."),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Another option of the method, such as fine_tune=2; of a recipe, such as "
            "gsm.epochs=3; repeatable.",
        ),
    ] = None,
    shorten: Annotated[float, typer.Option(help="Factor on all epochs of a recipe.")] = 1.0,
    sparsity: Annotated[float | None, typer.Option(help="Fraction of weights to remove.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Such as PSD2_P8; for predefined.")] = None,
    masks: Annotated[Path | None, typer.Option(help="A file of masks; for fixed.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="A checkpoint of the model to start from.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The data set; default: fashion-mnist-subset.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Fraction of the training images to hold out and watch, as SABR does."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images; default: 5.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; default: the method's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step; default: 128.")] = None,
    amp: Annotated[str | None, typer.Option(help="bfloat16 or float16, for the forward.")] = None,
    device: Annotated[str, typer.Option(help="Where to train, such as cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints that are in the folder.")
    ] = False,
) -> None:
    """Trains a network with masks; writes model.pt, masks.safetensors and result.json.

    Under torchrun, as `torchrun -m sparse_ops train ...`, every process takes its part.
    """
    if recipe is not None:
        from sparse_ops.cli.recipe import overrides_of, run_recipe

        if method is not None or epochs is not None or lr is not None or amp is not None:
            raise UserError(
                "a recipe has its own method, epochs, lr and amp: change them with --set, "
                "such as --set gsm.epochs=3, or all epochs with --shorten"
            )
        if sparsity is not None or pattern is not None or masks is not None or start is not None:
            raise UserError("a recipe has its own: --set PHASE.options.sparsity=0.9")
        given = {
            "model.name": model,
            "data.name": data,
            "data.folder": None if folder is None else str(folder),
            "data.batch_size": batch_size,
            "data.validation": validation,
        }
        changes = {key: value for key, value in given.items() if value is not None}
        run_recipe(
            recipe,
            out,
            changes | overrides_of(more or ()),
            shorten=shorten,
            seed=seed,
            device=device,
            resume=resume,
        )
        return
    if shorten != 1:
        raise UserError("--shorten is for a --recipe")
    if model is None or method is None:
        raise UserError("--model and --method are needed, or a --recipe")
    from sparse_ops.cli.methods import make_method

    chosen, options = make_method(method, sparsity, pattern, masks, more or ())
    _train(
        Plain(
            model,
            method,
            options,
            data or "fashion-mnist-subset",
            5 if epochs is None else epochs,
            128 if batch_size is None else batch_size,
            validation,
            seed,
        ),
        chosen,
        out,
        folder,
        start,
        device,
        resume,
        lr,
        amp,
    )


@dataclass(frozen=True)
class Plain:
    """What was asked for, with defaults filled in."""

    model: str
    method: str
    options: dict[str, Any]
    data: str
    epochs: int
    batch_size: int
    validation: float | None
    seed: int


def _train(
    asked: Plain,
    method: Any,
    out: Path,
    folder: Path | None,
    start: Path | None,
    device: str,
    resume: bool,
    lr: float | None,
    amp: str | None,
) -> None:
    import torch

    from sparse_ops import masks as masks_
    from sparse_ops.cli import networks
    from sparse_ops.cli.processes import joined, made_folder
    from sparse_ops.data import hold_out, load
    from sparse_ops.report.results import write_json
    from sparse_ops.training import evaluate, fit

    dataset = load(asked.data, folder)
    learned, watched = dataset.train, None
    if asked.validation is not None:
        learned, watched = hold_out(learned, asked.validation)
    with joined(device) as (world, where):
        made_folder(out)
        checkpoint = out / "checkpoint.pt"
        if not resume and world.rank == 0:
            checkpoint.unlink(missing_ok=True)
        world.wait()
        torch.manual_seed(asked.seed)
        channels = dataset.train.images.shape[1]
        network = networks.build(asked.model, classes=len(dataset.classes), channels=channels)
        if start is not None:
            networks.load_dense(network, networks.read_state(start)[0], start)
            asked.options["start"] = str(start)
        network.to(where)
        found = fit(
            network,
            learned,
            method,
            epochs=asked.epochs,
            lr=lr,
            batch_size=asked.batch_size,
            amp=amp,
            validation=watched,
            seed=asked.seed,
            checkpoint=checkpoint,
            log=out / "log.csv",
        )
        test = evaluate(network, dataset.test)
        world.wait()
        if world.rank:
            return
    networks.write(network, found, out)
    run = Run(
        model=asked.model,
        method=asked.method,
        options=asked.options,
        data=asked.data,
        validation=asked.validation,
        epochs=asked.epochs,
        seed=asked.seed,
        accuracy=test.top1,
        loss=test.loss,
        sparsity=masks_.sparsity(found),
        masks={name: 1 - float(mask.float().mean()) for name, mask in found.items()},
    )
    write_json(run, out / "result.json")
    checkpoint.unlink(missing_ok=True)
    typer.echo(
        f"{asked.model}, {asked.method}: accuracy {test.top1:.2%} on {test.count} images it has "
        f"not seen, sparsity {run.sparsity:.2%}; wrote {out}"
    )
