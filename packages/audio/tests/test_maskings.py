"""Spans are HuBERT's: how much they cover, where, and how rows are trimmed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchaudio.models.wav2vec2 import components

from polymask import Request, Step, UserError
from polymask_audio.maskings import HubertSpan


def ask(n: int, sites: int, valid: Tensor | None = None, step: int = 0) -> Request:
    return Request(torch.arange(n), sites, Step(step, 100, 5), valid=valid)


def runs(row: Tensor) -> list[int]:
    """Lengths of the stretches of hidden sites."""
    edges = torch.nn.functional.pad(row.int(), (1, 1)).diff()
    return (torch.nonzero(edges == -1) - torch.nonzero(edges == 1))[:, 0].tolist()


@pytest.mark.parametrize(
    ("probability", "trim", "expected"),
    [(0.8, False, 0.57), (0.8, True, 0.52), (0.65, False, 0.49), (0.65, True, 0.45)],
)
def test_coverage_is_that_of_the_published_code(probability: float, trim: bool, expected: float) -> None:
    """At 500 tokens in batches of 8; figures from an independent simulation."""
    masking = HubertSpan(probability=probability, trim=trim)
    shares = [masking(ask(8, 500, step=i)).hidden.float().mean() for i in range(200)]
    assert torch.stack(shares).mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("sites", [60, 200])
def test_statistics_are_those_of_torchaudio(sites: int) -> None:
    """Count of hidden sites and coverage by position, of 3,000 rows each."""
    torch.manual_seed(0)
    # row by row, for torchaudio trims the rows of a batch to one count
    theirs = torch.cat(
        [components._compute_mask_indices((1, sites), None, 0.8, 10, min_masks=2) for _ in range(3000)]
    ).float()
    ours = HubertSpan()(ask(3000, sites)).hidden.float()
    for statistic in (lambda x: x.mean(1), lambda x: x.mean(1).square()):
        one, other = statistic(ours), statistic(theirs)
        error = math.sqrt((one.var() + other.var()) / 3000)
        assert abs(one.mean() - other.mean()) < 4.5 * error
    p = (ours.mean(0) + theirs.mean(0)) / 2
    error = (2 * p * (1 - p) / 3000).sqrt().clamp(min=1e-9)
    assert ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 4.5
    assert ours[:, -1].sum() == theirs[:, -1].sum() == 0


def test_spans_have_their_length_and_at_least_two_begin() -> None:
    hidden = HubertSpan(probability=0.1)(ask(400, 100)).hidden
    lengths = [runs(row) for row in hidden]
    assert all(min(row) >= 10 for row in lengths)
    assert all(sum(row) <= 20 and len(row) in (1, 2) for row in lengths)
    assert sum(len(row) == 2 for row in lengths) > 200


def test_trimming_gives_rows_one_count_and_hides_nothing_else() -> None:
    whole, trimmed = HubertSpan()(ask(8, 300)).hidden, HubertSpan(trim=True)(ask(8, 300)).hidden
    assert trimmed.sum(1).tolist() == [int(whole.sum(1).min())] * 8
    assert (whole | ~trimmed).all()
    longest = whole.sum(1).argmax()
    assert min(runs(trimmed[longest])) < 10  # holes


def test_padding_is_never_hidden_and_each_row_has_its_own_number() -> None:
    length = torch.tensor([400, 100, 40, 12, 3, 2, 1])
    valid = torch.arange(400) < length[:, None]
    shares = []
    for i in range(100):
        mask = HubertSpan()(ask(7, 400, valid, i))
        assert not (mask.hidden & ~valid).any()
        count = mask.hidden.sum(1)
        assert (count[:6] > 0).all() and (count < length).all()
        shares.append(count / length)
    mean = torch.stack(shares).mean(0)
    assert mean[0].item() == pytest.approx(0.57, abs=0.02)
    assert mean[1].item() == pytest.approx(0.57, abs=0.04)


def test_a_mask_does_not_wait_for_the_device() -> None:
    """It is a function of tensors alone: it can be traced without values."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        valid = torch.ones(4, 50, dtype=torch.bool)
        for masking in (HubertSpan(), HubertSpan(trim=True)):
            assert masking(ask(4, 50, valid)).hidden.shape == (4, 50)


def test_mistakes_are_told() -> None:
    for options in ({"probability": 1.0}, {"length": 0}, {"least": 0}):
        with pytest.raises(UserError):
            HubertSpan(**options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="longer sounds"):
        HubertSpan()(ask(2, 1))
