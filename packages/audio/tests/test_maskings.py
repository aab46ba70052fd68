"""Spans are HuBERT's; bands go through the whole spectrogram, exactly as much of it, everywhere alike."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torchaudio.models.wav2vec2 import components

from polymask import Request, Step, UserError
from polymask.nn.positions import coordinates
from polymask_audio.maskings import Bands, HubertSpan


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
@pytest.mark.slow
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


# --------------------------------------------------------------------------------------- bands


def spectrogram(n: int, time: int, bands: int, step: int = 0, lengths: Tensor | None = None) -> Request:
    """Tokens in the order (time, frequency), of one length on a grid, of several padded and without."""
    position = coordinates((time, bands)).expand(n, -1, -1)
    whole = Request(torch.arange(n), time * bands, Step(step, 100, 5), (time, bands), position=position)
    if lengths is None:
        return whole
    valid = (torch.arange(time) < lengths[:, None]).repeat_interleave(bands, 1)
    return dataclasses.replace(whole, grid=None, valid=valid)


def lines(hidden: Tensor, time: int, bands: int) -> tuple[Tensor, Tensor]:
    """Which times and which frequencies are hidden throughout, ``[B, time]`` and ``[B, bands]``."""
    x = hidden.view(-1, time, bands)
    return x.all(2), x.all(1)


@pytest.mark.parametrize("frequency", [0.0, 0.5, 1.0])
def test_what_is_hidden_are_whole_bands_but_for_the_last(frequency: float) -> None:
    hidden = Bands(ratio=0.4, frequency=frequency)(spectrogram(200, 20, 16)).hidden
    time, band = lines(hidden, 20, 16)
    whole = (time[:, :, None] | band[:, None]).flatten(1)
    left = (hidden & ~whole).sum(1)  # of the last band, which is trimmed
    # at most the line at which it was trimmed, or a band that never was a whole line
    assert (left < 5 * 16 if frequency == 0 else left < 4 * 20).all()
    assert ((hidden & whole).sum(1) >= 0.5 * 0.4 * 320).float().mean() > 0.9
    assert bool(time.any()) == (frequency < 1) and bool(band.any()) == (frequency > 0)


def test_bands_have_the_width_that_was_asked_for() -> None:
    """One band of a tenth of the times hides exactly that many neighbours, round the end."""
    hidden = Bands(ratio=0.1, width=(0.1, 0.1), frequency=0.0)(spectrogram(300, 40, 8)).hidden
    time, _ = lines(hidden, 40, 8)
    assert (time.sum(1) == 4).all() and (hidden.sum(1) == 32).all()
    assert ((time != time.roll(1, 1)).sum(1) == 2).all()
    hidden = Bands(ratio=0.25, width=(0.25, 0.25), frequency=1.0)(spectrogram(300, 40, 8)).hidden
    _, band = lines(hidden, 40, 8)
    assert (band.sum(1) == 2).all() and ((band != band.roll(1, 1)).sum(1) == 2).all()
    # two of them often lie apart
    hidden = Bands(ratio=0.5, width=(0.25, 0.25), frequency=1.0)(spectrogram(300, 40, 8)).hidden
    _, band = lines(hidden, 40, 8)
    assert ((band != band.roll(1, 1)).sum(1) == 4).float().mean() > 0.3


def test_bands_have_all_widths_between_the_two() -> None:
    """The narrowest leave no long stretch; the widest one short one, where the last is trimmed."""
    hidden = Bands(ratio=0.5, width=(0.05, 0.25), frequency=0.0)(spectrogram(300, 40, 1)).hidden
    stretches = [runs(row.roll(-int(row.int().argmin()))) for row in hidden]
    assert sum(sum(n < 10 for n in row) > 1 for row in stretches) > 100
    assert sum(max(row) >= 10 for row in stretches) > 100


def test_where_bands_run_out_the_last_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymask_audio.maskings.enough", lambda *_: 1)
    hidden = Bands(ratio=0.5, width=(0.1, 0.1), frequency=0.0)(spectrogram(100, 40, 8)).hidden
    time, _ = lines(hidden, 40, 8)
    assert (time.sum(1) == 20).all() and ((time != time.roll(1, 1)).sum(1) == 2).all()


@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.75])
@pytest.mark.slow
def test_every_token_is_hidden_equally_often_and_every_row_equally_much(ratio: float) -> None:
    mask = Bands(ratio=ratio)(spectrogram(6000, 13, 8))
    assert set(mask.hidden.sum(1).tolist()) == {mask.count} == {round(ratio * 104)}
    rate, p = mask.hidden.float().mean(0), round(ratio * 104) / 104
    assert ((rate - p).abs() < 4.5 * math.sqrt(p * (1 - p) / 6000)).all()


@pytest.mark.slow
def test_bands_of_frequency_are_as_often_as_asked_for() -> None:
    """Where one band is all there is."""
    asked = spectrogram(4000, 24, 24)
    for frequency in (0.2, 0.5):
        hidden = Bands(ratio=1 / 12, width=(1 / 12, 1 / 12), frequency=frequency)(asked).hidden
        _, band = lines(hidden, 24, 24)
        assert band.any(1).float().mean().item() == pytest.approx(frequency, abs=0.03)


def test_sounds_of_several_lengths_have_bands_of_their_own() -> None:
    lengths = torch.tensor([20, 10, 5, 1])
    asked = spectrogram(4, 20, 8, lengths=lengths)
    assert asked.valid is not None
    for i in range(30):
        asked = spectrogram(4, 20, 8, step=i, lengths=lengths)
        mask = Bands(ratio=0.5)(asked)
        assert mask.hidden.sum(1).tolist() == [80, 40, 20, 4]
        assert not (mask.hidden & ~asked.valid).any()
        alone = spectrogram(4, 10, 8, step=i)
        assert torch.equal(Bands(ratio=0.5)(alone).hidden[1], mask.hidden[1, :80])


def test_frames_have_bands_of_time_alone() -> None:
    asked = Request(torch.arange(500), 60, Step(0, 1, 5), grid=(60,))
    hidden = Bands(ratio=0.3, width=(0.1, 0.1), frequency=1.0)(asked).hidden
    assert (hidden.sum(1) == 18).all() and ((hidden != hidden.roll(1, 1)).sum(1) <= 6).all()


def test_bands_without_an_axis_are_refused() -> None:
    for asked in (ask(2, 30), Request(torch.arange(2), 30, Step(0, 1, 0), position=torch.rand(2, 30, 3))):
        with pytest.raises(UserError, match="needs tokens in time"):
            Bands()(asked)
    for options in ({"width": (0.0, 0.5)}, {"width": (0.5, 0.1)}, {"frequency": 1.5}, {"ratio": 0.0}):
        with pytest.raises(UserError):
            Bands(**options)  # type: ignore[arg-type]
