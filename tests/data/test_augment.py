"""Crops, flips and normalization of batches, against the plain way of doing each."""

import pytest
import torch
from torch.nn.functional import pad

from sparse_ops.data import Augment, Normalize, Split, batches


def pictures(count: int = 40, side: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("frame", [0, 1, 4])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_image_is_cropped_and_flipped_as_it_was_drawn(frame, flip, dtype):
    augment, images = Augment(frame, flip), pictures().to(dtype)
    moves = augment.draw(len(images), torch.Generator().manual_seed(1))
    moved = augment.apply(images, moves)
    assert moved.dtype == dtype
    for image, result, (top, left, mirrored) in zip(images, moved, moves.tolist(), strict=True):
        expected = pad(image, (frame,) * 4)[:, top : top + 6, left : left + 6]
        assert torch.equal(result, expected.flip(2) if mirrored else expected)
    assert bool(moves[:, 2].any()) == flip


def test_every_crop_and_both_sides_come_about_equally_often():
    moves = Augment(1).draw(9000, torch.Generator().manual_seed(0))
    places = torch.bincount(moves[:, 0] * 3 + moves[:, 1])
    # The standard deviation of a count is 30; five of them.
    assert len(places) == 9 and bool(((places - 1000).abs() < 150).all())
    assert abs(int(moves[:, 2].sum()) - 4500) < 250


def test_batches_are_augmented_only_where_they_are_shuffled():
    normalize = Normalize((0.5, 0.4, 0.3), (0.5, 0.2, 0.1))
    split = Split(pictures(), torch.arange(40), normalize, Augment(2))

    def shuffled(seed):
        return list(batches(split, 16, torch.Generator().manual_seed(seed)))

    first, again, other = shuffled(1), shuffled(1), shuffled(2)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    ((plain, labels),) = batches(split, 40, shuffle=False)
    torch.testing.assert_close(plain, normalize.apply(split.images))
    assert labels.tolist() == list(range(40))
    # The frame is black, as it would be were it there before normalization.
    assert float(first[0][0][:, 0].min()) == pytest.approx(-1)


def test_a_second_pass_draws_anew():
    split = Split(pictures(), torch.arange(40), Normalize((0,) * 3, (1,) * 3), Augment(2))
    source = batches(split, 40, torch.Generator().manual_seed(1))
    (first, labels), (second, others) = next(iter(source)), next(iter(source))
    assert not torch.equal(first[labels.argsort()], second[others.argsort()])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Augment(-1), "pad must be 0 or more, got -1"),
        (lambda: Normalize((0,), (1, 1)), "equally many"),
        (lambda: Normalize((0,), (0,)), "deviation must be above 0"),
        (
            lambda: Split(pictures(), torch.arange(40), Normalize((0,), (1,))),
            "normalize must be for 3 channels",
        ),
        (
            lambda: Split(pictures().float(), torch.arange(40), Normalize((0,) * 3, (1,) * 3)),
            "uint8, to be normalized, got .*float32",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
