"""Batches of samples that differ in length."""

from __future__ import annotations

import itertools
import re

import pytest
import torch

from polymask import UserError
from polymask.data import collate, evenly, padding, sample_of, valid_of


def test_equal_samples_are_stacked_and_nothing_is_added():
    batch = collate([{"x": torch.ones(3, 2)}, {"x": torch.zeros(3, 2)}])
    assert set(batch) == {"x"} and batch["x"].shape == (2, 3, 2)
    assert valid_of(batch, "x") is None


def test_samples_of_other_lengths_are_padded_with_zeros_at_the_end():
    rows = [torch.ones(3, 2), torch.ones(1, 2), torch.ones(2, 2)]
    batch = collate([{"x": row, "id": torch.tensor(k)} for k, row in enumerate(rows)])
    assert batch["x_length"].tolist() == [3, 1, 2] and batch["id"].tolist() == [0, 1, 2]
    assert valid_of(batch, "x").tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert torch.equal(batch["x"].bool().all(-1), valid_of(batch, "x"))
    for k, row in enumerate(rows):
        assert torch.equal(sample_of(batch, k)["x"], row) and "x_length" not in sample_of(batch, k)


def test_ids_keep_their_type():
    batch = collate([{"text": torch.tensor([5, 6])}, {"text": torch.tensor([7])}])
    assert batch["text"].dtype == torch.int64 and batch["text"].tolist() == [[5, 6], [7, 0]]


@pytest.mark.parametrize("shapes", [((3, 2), (3, 4)), ((3,), (3, 1)), ((), (2,))])
def test_other_differences_are_refused(shapes):
    with pytest.raises(UserError, match="only the first axis may differ"):
        collate([{"x": torch.zeros(shape)} for shape in shapes])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({}, "sample 7 is empty, and sample 4 is x float32 [3]; bring all samples to the same entries"),
        (
            {"x": torch.ones(3), "y": torch.ones(1)},
            "sample 7 is x float32 [3], y float32 [1], and sample 4 is x",
        ),
        ({"x": torch.ones(3).double()}, "sample 7 is x float64 [3], and sample 4 is x float32 [3]; bring"),
        ({"x": torch.ones(1, 3)}, "sample 7 is x float32 [1, 3], and sample 4 is x float32 [3]; bring"),
        ({"x": None}, "sample 7 has NoneType as 'x'; give a tensor"),
        ({"x": "words"}, "sample 7 has str as 'x'; give a tensor"),
    ],
)
def test_samples_that_are_not_alike_are_named(other, message):
    first, second = {"x": torch.ones(3), "id": torch.tensor(4)}, {**other, "id": torch.tensor(7)}
    with pytest.raises(UserError, match=re.escape(message)):
        collate([first, second])
    with pytest.raises(UserError, match="sample 7"):
        collate([second, first])


def test_a_sample_that_is_no_dict_is_named():
    with pytest.raises(UserError, match="sample 1 is NoneType, not a dict of tensors by name"):
        collate([{"x": torch.ones(3)}, None])


def test_the_share_of_padding():
    padded = collate([{"x": torch.ones(3), "y": torch.ones(4)}, {"x": torch.ones(1), "y": torch.ones(4)}])
    assert float(padding(padded)) == pytest.approx(2 / 6)
    assert float(padding(collate([{"x": torch.ones(3)}]))) == 0
    both = collate([{"x": torch.ones(3), "y": torch.ones(2)}, {"x": torch.ones(1), "y": torch.ones(4)}])
    assert float(padding(both)) == pytest.approx(4 / 14)


def test_samples_are_taken_evenly():
    """Distances differ by 1 at most, and the first is always there."""
    assert evenly(7) == evenly(7, 9) == evenly(7, None) == list(range(7)) and evenly(0, 3) == []
    for n, count in ((10, 3), (100, 7), (1000, 999)):
        found = evenly(n, count)
        gaps = {b - a for a, b in itertools.pairwise([*found, n])}
        assert len(found) == count and found[0] == 0 and max(gaps) - min(gaps) <= 1
