"""The demonstration: real images, two networks, masks, packed kernels, honest figures."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparse_ops
from sparse_ops.cli.errors import check_can_write
from sparse_ops.convert import Plan
from sparse_ops.data import Dataset, Split
from sparse_ops.planning.verify_model import check_model
from sparse_ops.report import count_macs, machine
from sparse_ops.report.plot import plot
from sparse_ops.report.results import Network, Results, Row, write_json
from sparse_ops.report.versus import dense_against_packed
from sparse_ops.training import evaluate
from sparse_ops.training.recipes import Outcome, lenet300_gsm, small_vgg_predefined

BATCHES = (1, 64)
# The file holds the plan for the first of these batches at which anything is packed.
FILE_BATCHES = (64, 1)
# All compilations together may be begun within this.
COMPILE_S = 90.0

# Images, then of each network: training, two steps a batch size, saving; then writing.
STEPS = 2 + 2 * (2 + 2 * len(BATCHES))

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Chapter:
    """One network of the demonstration.

    Attributes:
        train: makes it, dense and sparse, from the images.
        build: a fresh network of the same form.
        threads: to train with; None: as many as torch has.
    """

    name: str
    method: str
    file: str
    train: Callable[[Dataset], Outcome]
    build: Callable[[], nn.Module]
    threads: int | None = None


@dataclass(frozen=True)
class Pace:
    """How long things may take.

    Attributes:
        images: of the training split; None: all.
        epochs: options for the recipes; none: as they are.
        plan_s, bench_s: seconds for a plan, and for a comparison.
        compile: whether torch.compile is tried as a form of each model.
    """

    images: int | None = None
    epochs: int | None = None
    plan_s: float = 6.0
    bench_s: float = 3.0
    compile: bool = True


QUICK = Pace(images=512, epochs=1, plan_s=0.5, bench_s=0.2, compile=False)


def chapters(pace: Pace) -> tuple[Chapter, ...]:
    """The two networks, trained at that pace."""
    short: dict[str, Any] = {} if pace.epochs is None else {"epochs": pace.epochs}
    first = short | ({} if pace.epochs is None else {"dense_epochs": pace.epochs})
    return (
        Chapter(
            "LeNet-300-100",
            "GSM, 60×",
            "lenet300.safetensors",
            lambda data: lenet300_gsm(data, **first),
            sparse_ops.models.lenet300,
            # A step takes 1 ms: two threads wait for each other longer than they gain, and on a
            # machine that does something else beside, many times longer.
            threads=1,
        ),
        Chapter(
            "small VGG",
            "periodic PSD2_P8",
            "vgg.safetensors",
            lambda data: small_vgg_predefined(data, **short),
            sparse_ops.models.small_vgg,
        ),
    )


def demonstrate(out: Path, pace: Pace, say: Say) -> tuple[Results, list[str]]:
    """Does everything and writes the files; returns the results and remarks for the reader.

    Args:
        out: a folder; made if it is not there.
        pace: how long things may take.
        say: is told what begins.

    Raises:
        OSError: a file cannot be written.
        Mismatch: a packed network does not compute what the dense one does.
    """
    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    stories = chapters(pace)
    for file in (*(story.file for story in stories), "results.json", "demo.png"):
        check_can_write(out / file)
    data = sparse_ops.data.load("fashion-mnist-subset")
    say(f"images: {len(data.train):,} to learn from, {len(data.test):,} to be tested on")
    if pace.images is not None:
        few = Split(data.train.images[: pace.images], data.train.labels[: pace.images])
        data = replace(data, train=few)
    networks, remarks = [], []
    clock = Compiling(COMPILE_S if pace.compile else None)
    for story in stories:
        say(f"{story.name}: training it dense, then with {story.method}")
        with _threads(story.threads):
            outcome = story.train(data)
        network, said = _convert(story, outcome, data, out, pace, clock, say)
        networks.append(network)
        remarks += said
    results = Results(
        command=" ".join(["sparse-ops", *sys.argv[1:]]),
        version=sparse_ops.__version__,
        machine=machine(),
        data=data.name,
        seconds=time.perf_counter() - begin,
        networks=tuple(networks),
    )
    say("writing results and picture")
    write_json(results, out / "results.json")
    try:
        plot(results, out / "demo.png")
    except ImportError as error:
        remarks.append(f"no picture: {error}")
    return results, remarks


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Compiling:
    """What is left of the time for compilations; None: there are none."""

    left_s: float | None


def _convert(
    story: Chapter,
    outcome: Outcome,
    data: Dataset,
    out: Path,
    pace: Pace,
    clock: Compiling,
    say: Say,
) -> tuple[Network, list[str]]:
    """Plans, applies, verifies, saves, loads and measures one network."""
    sparse = outcome.sparse.eval()
    plans: dict[int, Plan] = {}
    rows: list[Row] = []
    remarks: dict[str, list[str]] = {}
    for batch in BATCHES:
        say(f"{story.name}, batch {batch}: timing every candidate of every layer against dense")
        example = (data.test.images[:batch],)
        plan = plans[batch] = sparse_ops.plan(sparse, example, outcome.masks, budget_s=pace.plan_s)
        fast = plan.apply(sparse)
        say(f"{story.name}, batch {batch}: dense against packed, by turns")
        before = time.perf_counter()
        row = dense_against_packed(
            sparse, fast, example, compile_s=clock.left_s, seconds=pace.bench_s
        )
        if clock.left_s is not None:
            clock.left_s -= time.perf_counter() - before
        rows.append(replace(row, note="; ".join(_remarks(plan, row))))
        for remark in _remarks(plan, row):
            remarks.setdefault(remark, []).append(str(batch))
    chosen = next((b for b in FILE_BATCHES if plans[b].packed), FILE_BATCHES[0])
    say(f"{story.name}: saving, loading, and testing what was loaded")
    sparse_ops.save(plans[chosen].apply(sparse), out / story.file)
    loaded = sparse_ops.load(out / story.file, story.build().eval())
    check_model(sparse, loaded, (data.test.images[:256],))
    macs = count_macs(sparse, data.test.images[:1])
    parameters = sum(p.numel() for p in sparse.parameters())
    removed = sum(layer.weights - layer.nnz for layer in macs)
    network = Network(
        name=story.name,
        method=story.method,
        accuracy_dense=outcome.dense_accuracy.top1,
        accuracy_sparse=outcome.sparse_accuracy.top1,
        accuracy_packed=evaluate(loaded, data.test).top1,
        sparsity=sparse_ops.masks.sparsity(outcome.masks),
        parameters=parameters,
        kept_parameters=parameters - removed,
        macs=sum(layer.dense for layer in macs),
        kept_macs=sum(layer.kept for layer in macs),
        rows=tuple(rows),
        file=story.file,
        file_batch=chosen,
        plans={str(batch): plan.as_data() for batch, plan in plans.items()},
    )
    said = [f"{story.name}, batch {' and '.join(b)}: {text}" for text, b in remarks.items()]
    return network, said


def _remarks(plan: Plan, row: Row) -> list[str]:
    """What the reader of one row should know: what stays dense and why, and where packed loses."""
    remarks = [
        f"{layer.name} stays dense: {layer.reason}"
        for layer in plan.layers
        if layer.becomes is None and layer.nnz < layer.weights
    ]
    remarks += plan.notes
    if row.measured is not None and row.measured.speedup < 1:
        remarks.append(
            f"packed ({row.packed_form}) is slower than dense in the form {row.dense_form}"
        )
    remarks += [f"the form {form} was left out: {why}" for form, why in row.skipped.items()]
    return remarks
