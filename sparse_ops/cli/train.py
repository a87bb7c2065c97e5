"""`sparse-ops train`."""

from dataclasses import asdict, dataclass
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
    epochs: int
    seed: int
    accuracy: float
    loss: float
    sparsity: float
    masks: dict[str, float]


def _method(
    name: str,
    sparsity: float | None,
    pattern: str | None,
    masks: Path | None,
    more: list[str],
) -> tuple[Any, dict[str, Any]]:
    """The training method, and its options as words."""
    import dataclasses

    from sparse_ops import masks as masks_
    from sparse_ops import patterns
    from sparse_ops.training import METHODS

    if name not in METHODS:
        raise UserError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    method: Any = METHODS[name]
    takes = {field.name: field for field in dataclasses.fields(method) if field.init}
    options: dict[str, Any] = {}
    words: dict[str, Any] = {}
    if sparsity is not None:
        options["sparsity"] = words["sparsity"] = sparsity
    if pattern is not None:
        if pattern not in patterns.NAMED:
            have = ", ".join(patterns.NAMED)
            raise UserError(f"there is no pattern {pattern!r}; there are {have}")
        options["pattern"], words["pattern"] = patterns.NAMED[pattern], pattern
    if masks is not None:
        options["masks"], words["masks"] = masks_.load(masks), str(masks)
    for option in options:
        if option not in takes:
            raise UserError(f"{name} takes no --{option}")
    for option in more:
        key, _, text = option.partition("=")
        # Numbers, words and switches; what else there is has an option of its own.
        default = takes[key].default if key in takes else None
        if not isinstance(default, bool | int | float | str):
            able = [n for n, f in takes.items() if isinstance(f.default, bool | int | float | str)]
            raise UserError(
                f"{name} has no {key!r} to --set; it has {', '.join(able) or 'nothing'}"
            )
        options[key] = words[key] = _like(default, key, text)
    return method(**options), words


def _like(default: bool | int | float | str, key: str, text: str) -> bool | int | float | str:
    """What `text` says, in the type of `default`."""
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UserError(f"--set {key} must be true or false, got {text!r}")
        return text == "true"
    try:
        return type(default)(text)
    except ValueError:
        raise UserError(f"--set {key} must be a {type(default).__name__}, got {text!r}") from None


def train(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    method: Annotated[
        str,
        typer.Option(help="magnitude, predefined, gsm, hypersparse, sabr, spred or fixed."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for the run; made if it is not there.")],
    sparsity: Annotated[float | None, typer.Option(help="Fraction of weights to remove.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Such as PSD2_P8; for predefined.")] = None,
    masks: Annotated[Path | None, typer.Option(help="A file of masks; for fixed.")] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Another option of the method, such as fine_tune=2; repeatable."
        ),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A checkpoint of the model to start from.")
    ] = None,
    data: Annotated[str, typer.Option(help="The data set.")] = "fashion-mnist-subset",
    folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 5,
    lr: Annotated[float | None, typer.Option(help="Learning rate; default: the method's.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
) -> None:
    """Trains a network with masks; writes model.pt, masks.safetensors and result.json."""
    import torch

    from sparse_ops import masks as masks_
    from sparse_ops._files import replacing
    from sparse_ops.cli import networks
    from sparse_ops.data import load
    from sparse_ops.report.results import write_json
    from sparse_ops.training import evaluate, fit

    chosen, options = _method(method, sparsity, pattern, masks, more or [])
    dataset = load(data, folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
    torch.manual_seed(seed)
    channels = dataset.train.images.shape[1]
    network = networks.build(model, classes=len(dataset.classes), channels=channels)
    if start is not None:
        networks.load_dense(network, networks.read_state(start)[0], start)
        options["start"] = str(start)
    found = fit(network, dataset, chosen, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    test = evaluate(network, dataset.test)
    with replacing(out / "model.pt") as temporary:
        torch.save(network.state_dict(), temporary)
    masks_.save(found, out / "masks.safetensors")
    run = Run(
        model=model,
        method=method,
        options=options,
        data=data,
        epochs=epochs,
        seed=seed,
        accuracy=test.top1,
        loss=test.loss,
        sparsity=masks_.sparsity(found),
        masks={name: 1 - float(mask.float().mean()) for name, mask in found.items()},
    )
    write_json(run, out / "result.json")
    typer.echo(
        f"{model}, {method}: accuracy {test.top1:.2%} on {test.count} images it has not seen, "
        f"sparsity {asdict(run)['sparsity']:.2%}; wrote {out}"
    )
