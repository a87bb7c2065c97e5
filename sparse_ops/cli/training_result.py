"""What a training run writes to `result.json`, and what it prints of it."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sparse_ops.cli.asked import Asked, Prepared
    from sparse_ops.training.recipes import PhaseOutcome, Recipe

# As in the tables of papers that report the mean of the last evaluations.
LAST = 10


@dataclass(frozen=True)
class PhaseRun:
    """A phase; accuracies are on the test split, of its last weights.

    Attributes:
        epochs, planned: that there were, and at most could be.
        uncut_top1: before the cut at the end of the phase; None where nothing was removed then.
        best_epoch, best_validation: the epoch that was best on the images held out, and its top-1
            there; None where none are.
        last_ten_validation: mean top-1 there of the last ten evaluations, or as many as there were.
        last_ten_count: how many that is.
        findings: what the method has to report.
        history: what there is to say of each epoch.
    """

    name: str
    method: str
    epochs: int
    planned: int
    top1: float
    top5: float
    loss: float
    uncut_top1: float | None
    sparsity: float
    seconds: float
    best_epoch: int | None
    best_validation: float | None
    last_ten_validation: float | None
    last_ten_count: int
    findings: dict[str, Any]
    history: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class TrainingRun:
    """A whole run.

    Attributes:
        recipe, title, source, remark, published: of the published experiment; of a plan, no recipe.
        unlike: in what the run is another than the published one, in words.
        model, model_options: what the network is built with.
        input: (C, H, W) of an image.
        learned, held_out, tested: how many images.
        options: of the last method that is no training on.
        changed: what shortening has made of settings: (before, after).
        epochs: of all phases, as many as there were.
        parameters: all that learn, those removed included.
        weights, nnz: of Conv2d and Linear, and how many of them are kept.
        dense_macs, kept_macs: multiply-accumulates of one image, with all weights and those kept.
        masks: how much is removed of each.
    """

    recipe: str | None
    title: str
    source: str
    remark: str
    published: dict[str, float]
    unlike: tuple[str, ...]
    model: str
    model_options: dict[str, Any]
    input: tuple[int, ...]
    data: str
    learned: int
    held_out: int
    tested: int
    validation: float | None
    method: str
    options: dict[str, Any]
    overrides: dict[str, Any]
    shorten: float
    changed: dict[str, tuple[Any, Any]]
    seed: int
    epochs: int
    phases: tuple[PhaseRun, ...]
    accuracy: float
    loss: float
    sparsity: float
    parameters: int
    weights: int
    nnz: int
    dense_macs: int
    kept_macs: int
    masks: dict[str, float]


def result_of(
    asked: "Asked",
    made: "Prepared",
    model: "nn.Module",
    outcomes: "list[PhaseOutcome]",
    device: "torch.device",
) -> TrainingRun:
    """All that there is to say of a run that is over."""
    from sparse_ops.data import batches
    from sparse_ops.report import count_macs
    from sparse_ops.training.recipes.inputs import model_options

    recipe, data = made.recipe, made.data
    image, _ = next(iter(batches(data.test, 1, shuffle=False)))
    layers = count_macs(model, image.to(device))
    last = outcomes[-1]
    validation = recipe.data.get("validation")
    # As `hold_out` counts, without taking the images apart again.
    held_out = sum(round(int(n) * (validation or 0.0)) for n in data.train.labels.bincount())
    methods = [p for p in recipe.phases if p.method not in ("dense", "fixed")] or recipe.phases
    options = dict(methods[-1].options)
    if asked.start is not None:
        options["start"] = str(asked.start)
    foreign = ":" in recipe.model["name"]
    return TrainingRun(
        recipe=None if made.published is None else recipe.name,
        title=recipe.title,
        source=recipe.source,
        remark=recipe.remark,
        published=recipe.published,
        unlike=unlike(asked, made),
        model=recipe.model["name"],
        model_options={} if foreign else model_options(recipe, data),
        input=tuple(image.shape[1:]),
        data=data.name,
        learned=len(data.train) - held_out,
        held_out=held_out,
        tested=last.accuracy.count,
        validation=validation,
        method=methods[-1].method,
        options=options,
        overrides=asked.overrides | dict.fromkeys(asked.unset, "(unset)"),
        shorten=asked.shorten,
        changed=made.changed,
        seed=asked.seed,
        epochs=sum(outcome.epochs for outcome in outcomes),
        phases=tuple(_phase_run(outcome) for outcome in outcomes),
        accuracy=last.accuracy.top1,
        loss=last.accuracy.loss,
        sparsity=last.sparsity,
        parameters=sum(p.numel() for p in model.parameters()),
        weights=sum(layer.weights for layer in layers),
        nnz=sum(layer.nnz for layer in layers),
        dense_macs=sum(layer.dense for layer in layers),
        kept_macs=sum(layer.kept for layer in layers),
        masks={key: 1 - float(mask.float().mean()) for key, mask in last.masks.items()},
    )


def unlike(asked: "Asked", made: "Prepared") -> tuple[str, ...]:
    """In what a run is another than the published experiment."""
    published, recipe = made.published, made.recipe
    if published is None:
        return ()
    found = []
    if recipe.model != published.model:
        found.append(f"{_named(recipe, 'model')} for {_named(published, 'model')}")
    if recipe.data["name"] != published.data["name"]:
        found.append(f"{recipe.data['name']} for {published.data['name']}")
    own, now = (sum(phase.epochs for phase in r.phases) for r in (published, recipe))
    if own != now:
        found.append(f"{now} epochs for {own}")
    if asked.start is not None:
        found.append(f"begun with {asked.start.name}")
    return tuple(found)


def told(run: TrainingRun) -> list[str]:
    """The lines that are printed of it."""
    lines = []
    if run.recipe is not None:
        lines.append(f"{run.recipe}: {run.title}; {run.source}")
    here = f"here: {run.model}, {run.data}, {run.learned:,} images learned from"
    here += f", {run.held_out:,} held out" if run.held_out else ""
    lines.append(f"{here}, {run.tested:,} tested on, {run.epochs} epochs")
    if run.unlike:
        lines.append(f"not as published: {'; '.join(run.unlike)}")
    for phase in run.phases:
        before = "" if phase.uncut_top1 is None else f" ({phase.uncut_top1:.2%} before the cut)"
        plan = "" if phase.planned == phase.epochs else f" of at most {phase.planned}"
        lines.append(
            f"{phase.name}: {phase.epochs} epochs{plan}, top-1 {phase.top1:.2%}{before}, "
            f"top-5 {phase.top5:.2%}, sparsity {phase.sparsity:.2%}"
        )
    lines.append(
        f"{run.model}, {run.method}: accuracy {run.accuracy:.2%} on {run.tested:,} images it has "
        f"not seen; {run.nnz:,} of {run.weights:,} weights, "
        f"{run.kept_macs:,} of {run.dense_macs:,} multiply-accumulates an image"
    )
    if run.recipe is not None:
        figures = ", ".join(f"{key} {value:g}" for key, value in run.published.items())
        lines.append(f"published: {figures or 'no figure'}. {run.remark}".strip())
    return lines


def _named(recipe: "Recipe", table: str) -> str:
    options = dict(getattr(recipe, table))
    name = options.pop("name")
    return f"{name} ({', '.join(f'{k} {v}' for k, v in options.items())})" if options else name


def _phase_run(outcome: "PhaseOutcome") -> PhaseRun:
    best = outcome.history.best()
    return PhaseRun(
        name=outcome.name,
        method=outcome.method,
        epochs=outcome.epochs,
        planned=outcome.planned,
        top1=outcome.accuracy.top1,
        top5=outcome.accuracy.top5,
        loss=outcome.accuracy.loss,
        uncut_top1=None if outcome.uncut is None else outcome.uncut.top1,
        sparsity=outcome.sparsity,
        seconds=outcome.seconds,
        best_epoch=None if best is None else best.epoch,
        best_validation=None if best is None else best.top1,
        last_ten_validation=None if best is None else outcome.history.mean_top1(LAST),
        last_ten_count=min(LAST, outcome.history.evaluations),
        findings=outcome.findings,
        history=tuple(asdict(row) for row in outcome.history.rows),
    )
