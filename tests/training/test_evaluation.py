"""Accuracy and loss, against numbers worked by hand."""

import math

import pytest
import torch
from torch import nn

from sparse_ops.data import Split
from sparse_ops.training import Evaluation, evaluate


class Fixed(nn.Module):
    """Gives its input back as logits; has a parameter, so that it is somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        return x.flatten(1) + self.nothing


LOGITS = torch.arange(6.0).repeat(4, 1)  # label 5 is first, label 1 fifth, label 0 last
LABELS = torch.tensor([5, 5, 1, 0])
LOSS = sum(math.log(sum(math.exp(k) for k in range(6))) - label for label in (5, 5, 1, 0)) / 4


@pytest.mark.parametrize(
    "data",
    [
        [(LOGITS, LABELS)],
        [(LOGITS[:3], LABELS[:3]), (LOGITS[3:], LABELS[3:])],
        Split(LOGITS[:, None, None], LABELS),
    ],
    ids=["one batch", "two batches", "split"],
)
def test_top1_top5_and_loss_are_means_over_examples(data):
    found = evaluate(Fixed(), data)
    assert (found.top1, found.top5, found.count) == (0.5, 0.75, 4)
    assert found.loss == pytest.approx(LOSS, rel=1e-6)


def test_the_batch_size_of_a_split_does_not_matter():
    split = Split(LOGITS[:, None, None], LABELS)
    assert evaluate(Fixed(), split, batch_size=3).top5 == evaluate(Fixed(), split).top5


def test_top5_of_few_classes_is_one():
    assert evaluate(Fixed(), [(LOGITS[:, :3], LABELS.clamp(max=2))]).top5 == 1


def test_each_module_is_afterwards_in_the_mode_it_was_in():
    model = nn.Sequential(Fixed(), nn.Dropout(), nn.BatchNorm1d(6))
    model.train()
    model[2].eval()
    evaluate(model, [(LOGITS, LABELS)])
    assert [m.training for m in model.modules()] == [True, True, True, False]


def test_an_evaluation_changes_no_running_statistics():
    model = nn.Sequential(Fixed(), nn.BatchNorm1d(6))
    evaluate(model, [(LOGITS, LABELS)])
    assert model[1].num_batches_tracked == 0


def test_evaluations_are_plain_values():
    assert Evaluation(0.5, 1.0, 0.1, 2) == Evaluation(0.5, 1.0, 0.1, 2)


@pytest.mark.parametrize("data", [[], Split(torch.zeros(0, 1, 2, 2), torch.zeros(0).long())])
def test_nothing_to_evaluate_on_is_an_error(data):
    with pytest.raises(ValueError, match=r"no (examples|images)"):
        evaluate(Fixed(), data)


def test_logits_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"logits \(N, classes\)"):
        evaluate(Fixed(), [(LOGITS[:2], LABELS)])
