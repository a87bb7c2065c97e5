"""What phases of a recipe may be: a restart under masks, other optimizers, held-out images."""

from pathlib import Path

import pytest
import torch

from sparse_ops.masks import check
from sparse_ops.training import Spred
from sparse_ops.training.recipes import names, read, run, shortened
from sparse_ops.training.recipes.inputs import build_model
from tests.training.test_recipe_files import SMALL, images


@pytest.fixture
def small(tmp_path) -> Path:
    return tmp_path / "small.toml"


TICKET = """
[[phases]]
name = "ticket"
method = "fixed"
restart = true
epochs = 2
lr = 0.05
"""


def test_a_lottery_ticket_is_the_first_weights_under_the_masks_of_the_phase_before(tmp_path):
    (tmp_path / "ticket.toml").write_text(SMALL + TICKET)
    recipe, data = read(str(tmp_path / "ticket.toml"), {"ticket.epochs": 0}), images()
    drawn, (_, gsm, ticket) = run(recipe, data, seed=3, progress=False)
    first = build_model(recipe, data, 3)
    for name, value in first.state_dict().items():
        mask = gsm.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(drawn.state_dict()[name], value * mask), name
    assert ticket.sparsity == gsm.sparsity == pytest.approx(0.9, abs=1e-3)

    recipe = read(str(tmp_path / "ticket.toml"))
    trained, (_, gsm, ticket) = run(recipe, data, folder=tmp_path, progress=False)
    for name, mask in gsm.masks.items():
        assert torch.equal(ticket.masks[name], mask)
        assert not bool(trained.get_parameter(name)[~mask].any())
    # Killed within the last phase, it finds first weights and masks again.
    (tmp_path / "ticket.checkpoint.pt").unlink()
    again, _ = run(recipe, data, folder=tmp_path, progress=False)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize(
    ("name", "mode", "optimizer"),
    [
        ("spred-resnet18-cifar100-sgd-20", "filter", torch.optim.SGD),
        ("spred-resnet18-cifar100-adam-40", "filter", torch.optim.Adam),
        ("spred-resnet18-cifar10-channel-80", "channel", torch.optim.SGD),
    ],
)
def test_recipes_of_spred_end_at_their_level(name, mode, optimizer, monkeypatch):
    seen = []
    end = Spred.end_epoch

    def look(self, model, used, epoch):
        seen.append((self.mode, type(used)))
        return end(self, model, used, epoch)

    monkeypatch.setattr(Spred, "end_epoch", look)
    recipe = shortened(read(name), 0.01)
    _, (outcome,) = run(recipe, images(16, 3, 10), progress=False)
    assert seen == [(mode, optimizer)]
    # Whole groups go, so that the share of weights is not exactly the level.
    assert outcome.sparsity == pytest.approx(recipe.published["sparsity"], abs=0.01)


def test_the_recipe_of_sabr_trains_watches_cuts_and_trains_on_probabilities():
    recipe = shortened(read("sabr-mobilenet-v2-hg14"), 0.02)
    model, (base, sabr) = run(recipe, images(32, 3, 60), progress=False)
    assert (base.sparsity, base.epochs, sabr.epochs) == (0, 1, 1)
    assert 0 < sabr.sparsity < 1
    check(model, sabr.masks)
    with torch.no_grad():
        assert torch.allclose(model(torch.randn(3, 3, 32, 32)).sum(1), torch.ones(3))


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("lottery-")])
def test_the_published_tickets_are_drawn_and_trained(name):
    recipe = shortened(read(name), 0.005)
    model, outcomes = run(recipe, images(), progress=False)
    ticket = outcomes[-1]
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    assert kept == {"300-60x": 4437, "5-125x": 3444, "5-300x": 1435}[name.split("lenet")[1]]
    check(model, ticket.masks)


def test_the_phase_that_only_cuts_has_no_epochs_however_short_the_recipe():
    phases = shortened(read("lottery-magnitude-lenet5-300x"), 0.1).phases
    assert [phase.epochs for phase in phases] == [20, 0, 20]


def test_a_gradual_cut_is_shortened_too(small):
    small.write_text(
        SMALL.replace('method = "gsm"', 'method = "magnitude"').replace(
            "{ sparsity = 0.9 }\nepochs = 2", "{ sparsity = 0.9, begin = 0, end = 20 }\nepochs = 30"
        )
    )
    phase = shortened(read(str(small)), 0.5).phases[1]
    assert (phase.epochs, phase.options) == (15, {"sparsity": 0.9, "begin": 0, "end": 10})


def test_a_phase_may_have_another_optimizer_and_smooth_labels(small):
    text = SMALL.replace("lr = 0.05", 'lr = 0.05\noptimizer = "adagrad"\nlabel_smoothing = 0.1')
    small.write_text(text)
    arguments = read(str(small)).phases[0].arguments()
    optimizer = arguments["optimizer"]([{"params": [torch.nn.Parameter(torch.ones(2))]}])
    assert isinstance(optimizer, torch.optim.Adagrad) and optimizer.defaults["lr"] == 0.05
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    log = logits.log_softmax(1)[0]
    assert arguments["criterion"](logits, labels).item() == pytest.approx(
        float(-0.9 * log[0] - 0.1 * log.mean())
    )
    _, (base, _) = run(read(str(small)), images(), progress=False)
    assert base.accuracy.top1 > 0.3
    small.write_text(text.replace("bias_lr = 2", "momentum = 0.9"))
    with pytest.raises(ValueError, match="base: adagrad takes lr, weight_decay, not momentum"):
        read(str(small))


def test_a_plateau_watches_what_is_held_out_and_needs_it(small):
    text = SMALL.replace('"multi-step", boundaries = [1]', '"plateau", gamma = 0.5')
    small.write_text(text)
    with pytest.raises(ValueError, match=r"the plateau of base needs data\.validation"):
        read(str(small))
    small.write_text(text.replace("batch_size = 16", "batch_size = 16\nvalidation = 0.25"))
    data = images()
    run(read(str(small)), data, folder=small.parent, progress=False)
    lines = (small.parent / "base.csv").read_text().splitlines()
    with_it = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert 0 <= float(with_it["top1"]) <= 1 and float(with_it["validation_loss"]) > 0
