"""SPEAR: codes of several codebooks at every frame, who is taught by whom, what is hidden, what is mixed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Step, Tokens, UserError, build
from polymask.codebooks import Units
from polymask.data import collate
from polymask.recipes import run_recipe
from polymask_audio.fitting import fit_multi
from polymask_audio.mixing import Mixing, Mixture
from polymask_audio.multi_codebook import MultiCodebook, load
from polymask_audio.systems.spear import SPEAR

STEP = Step(3, 10, seed=1)


class Lookup:
    """Classes that are in the batch, of several codebooks."""

    def __init__(self, key: str, classes: int, streams: int) -> None:
        self.key, self.dim, self.streams = key, classes, streams

    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return batch[self.key]


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    targets = {"target": Lookup("codes", 7, 3), "audio_target": Lookup("audio_codes", 5, 2)}
    return build("audio/spear", preset="tiny", facts={"rate": 1600}, **{**targets, "mixing": 0.0, **options})


def sounds(system: Any, n: int = 6) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = system.tokenizer.example(n)
    sites = system.tokenizer(batch).shape[1]
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(7, (n, sites, 3), generator=generator)
    audio_codes = torch.randint(5, (n, sites, 2), generator=generator)
    return {**batch, "codes": codes, "audio_codes": audio_codes, "id": torch.arange(n)}


def scored(system: Any, batch: dict[str, Tensor], head: Any, labels: Tensor, classes: int) -> Tensor:
    """Cross-entropy of each token, a mean over codebooks, by another way: ``[B, N]``."""
    tokens = system.tokenizer(batch)
    mask, channels = system.draw(tokens, batch, STEP), system.draw_channels(tokens, batch, STEP)
    encoded = system.encode_corrupted(tokens, mask, channels)
    logits = head(encoded).view(*labels.shape, classes)
    return -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0].mean(-1)


# ------------------------------------------------------------------------------------ the loss


def test_untrained_it_costs_the_logarithm_of_the_codes() -> None:
    system = build("audio/spear", preset="tiny", facts={"rate": 1600}, mixing=0.0, **{"target.codes": 256})
    batch = {**system.tokenizer.example(8), "id": torch.arange(8)}  # type: ignore[attr-defined]
    assert system(batch, STEP)["speech"].item() == pytest.approx(math.log(256), abs=0.3)


@pytest.mark.parametrize("visible_weight", [1.0, 0.25, 0.0])
def test_hidden_frames_are_predicted_and_visible_ones_told_again(visible_weight: float) -> None:
    system = make(visible_weight=visible_weight)
    torch.nn.init.normal_(system.head.weight)
    batch = sounds(system)
    mask = system.masks(batch, STEP)["time"].mask
    loss_BN = scored(system, batch, system.head, batch["codes"], 7)
    weight = torch.where(mask.hidden, 1.0, visible_weight) * mask.valid
    expected = (weight * loss_BN).sum() / weight.sum()
    torch.testing.assert_close(system(batch, STEP)["speech"], expected)


def test_sounds_that_are_not_speech_have_two_teachers() -> None:
    """Weighed by all frames of the batch: a batch of few such sounds is taught little of them."""
    system = make(audio_weight=0.3)
    torch.nn.init.normal_(system.audio_head.weight)
    batch = sounds(system)
    batch["speech"] = torch.tensor([True, False, True, True, False, True])
    valid = system.tokenizer(batch).valid
    loss_BN = scored(system, batch, system.audio_head, batch["audio_codes"], 5)
    other = valid & ~batch["speech"][:, None]
    expected = 0.3 * loss_BN[other].sum() / valid.sum()
    torch.testing.assert_close(system(batch, STEP)["audio"], expected)
    alone = scored(system, batch, system.head, batch["codes"], 7)
    torch.testing.assert_close(system(batch, STEP)["speech"], alone[valid].mean())


def test_speech_never_teaches_the_head_of_other_sounds() -> None:
    system = make()
    for speech, taught in ((True, False), (False, True), (None, False)):
        batch = sounds(system)
        if speech is not None:
            batch["speech"] = torch.full((6,), speech)
        system.zero_grad()
        torch.autograd.backward(sum(system(batch, STEP).values()))
        assert system.head.weight.grad.any()
        assert bool(system.audio_head.weight.grad.any()) == taught


def test_one_teacher_will_do() -> None:
    system = make(audio_target=None)
    assert system.audio_head is None and set(system(sounds(system), STEP)) == {"speech"}


# ----------------------------------------------------------------------------- what is hidden


def test_hidden_frames_are_one_vector_and_hidden_channels_nothing() -> None:
    system = make()
    batch, seen = sounds(system), []
    embed = system.encoder.embed
    system.encoder.embed = lambda values: seen.append(values) or embed(values)
    system(batch, STEP)
    masks, values = system.masks(batch, STEP), system.tokenizer(batch).values
    time, channels = masks["time"].mask.hidden, masks["channels ↓"].mask.hidden[:, :, 0]
    assert time.any() and channels.any() and not channels.all()
    assert (seen[0][time] == system.mask_token).all()  # time is written last
    left = seen[0][~time]
    bins = channels[:, None].expand_as(values)[~time]
    assert (left[bins] == 0).all() and torch.equal(left[~bins], values[~time][~bins])
    system.encode(batch)
    assert torch.equal(seen[1], values)


def test_coverage_is_that_of_the_published_settings() -> None:
    """About 49 % of the time, 23 % of 128 filters."""
    system = build(
        "audio/spear",
        preset="small",
        facts={"rate": 16000},
        target=Lookup("codes", 7, 1),
        **{"tokenizer.mels": 128, "channel_masking.length": 20},
    )
    tokens = Tokens(torch.zeros(400, 1000, 128), torch.zeros(400, 1000, 1))
    batch = {"id": torch.arange(400)}
    mask, channels = system.draw(tokens, batch, STEP), system.draw_channels(tokens, batch, STEP)
    assert mask.hidden.float().mean().item() == pytest.approx(0.49, abs=0.02)
    assert channels.hidden.float().mean().item() == pytest.approx(0.23, abs=0.02)


def test_channels_may_stay() -> None:
    system = make(channel_masking=None)
    assert set(system.masks(sounds(system), STEP)) == {"time"}


# ------------------------------------------------------------------------------------- mixing


TOKENIZER: Any = SimpleNamespace(key="audio", provides={"hop": 10})


def noise(n: int, length: int = 1000) -> dict[str, Tensor]:
    loud = torch.linspace(0.5, 2, n)[:, None]
    audio = loud * torch.randn(n, length, generator=torch.Generator().manual_seed(0))
    return {"audio": audio, "id": torch.arange(n)}


def test_another_sound_is_mixed_into_a_stretch_at_the_ratio_asked_for() -> None:
    batch = noise(2000)
    mixture = Mixing(TOKENIZER, 0.3, (0.2, 0.5), (3.0, 3.0))(batch, STEP)
    change = mixture.batch["audio"] - batch["audio"]
    some = mixture.gain > 0
    assert some.float().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 2000))
    assert not change[~some].any()
    at = torch.arange(1000)
    inside = (at >= mixture.begin[:, None]) & (at < mixture.end[:, None])
    assert not change[~inside].any() and (change[inside & some[:, None]] != 0).all()
    share = (mixture.end - mixture.begin) / 1000
    assert (
        share.min() >= 0.199
        and share.max() <= 0.5
        and share.std().item() == pytest.approx(0.3 / 12**0.5, rel=0.1)
    )
    assert mixture.begin.min() >= 0 and mixture.end.max() <= 1000 and mixture.begin.max() > 600
    expected = mixture.gain[:, None] * batch["audio"].roll(1, 0)
    torch.testing.assert_close(change[some], torch.where(inside, expected, 0.0)[some], atol=1e-5, rtol=1e-4)
    power = batch["audio"].square().mean(1)
    ratio = power / (mixture.gain.square() * power.roll(1))
    torch.testing.assert_close(
        10 * ratio[some].log10(), torch.full((int(some.sum()),), 3.0), atol=1e-3, rtol=0
    )


def test_padding_is_not_mixed_in_and_gives_no_codes() -> None:
    batch = {**noise(2), "audio_length": torch.tensor([1000, 300])}
    mixture = Mixing(TOKENIZER, 1.0, (1.0, 1.0), (0.0, 0.0))(batch, STEP)
    assert torch.equal(mixture.batch["audio"][0, 300:], batch["audio"][0, 300:])
    assert not torch.equal(mixture.batch["audio"][0, :300], batch["audio"][0, :300])
    assert mixture.end.tolist() == [1000, 300]
    valid = torch.arange(100) < torch.tensor([[100], [30]])
    tokens = Tokens(torch.zeros(2, 100, 1), torch.arange(100.0).expand(2, -1)[..., None], valid=valid)
    labels = torch.tensor([0, 1])[:, None, None].expand(-1, 100, 4)
    found = dataclasses.replace(mixture, gain=torch.full((2,), 1e4)).exchange(labels, tokens, STEP)
    assert found[0, :30].all() and not found[0, 30:].any()


@pytest.mark.parametrize(("gain", "chance"), [(0.0, 0.0), (0.5, 0.2), (1.0, 0.5), (1e4, 1.0)])
def test_codes_are_exchanged_as_often_as_the_other_sound_is_the_louder(gain: float, chance: float) -> None:
    n, begin, end = 40, 200, 700
    mixture = Mixture(
        {"audio": torch.zeros(n, 1000), "id": torch.arange(n)},
        torch.full((n,), begin),
        torch.full((n,), end),
        torch.full((n,), gain),
        10,
    )
    labels = torch.arange(n)[:, None, None].expand(n, 100, 8)
    tokens = Tokens(torch.zeros(n, 100, 1), torch.arange(100.0).expand(n, -1)[..., None])
    found = mixture.exchange(labels, tokens, STEP)
    swapped = found != labels
    assert not swapped[:, :20].any() and not swapped[:, 70:].any()
    count = n * 50 * 8
    bound = 4 * math.sqrt(chance * (1 - chance) / count)
    assert swapped[:, 20:70].float().mean().item() == pytest.approx(chance, abs=bound + 1e-6)
    assert (found == torch.where(swapped, labels.roll(1, 0), labels)).all()
    if 0 < chance < 1:  # each codebook for itself
        mean = swapped[:, 20:70].float().mean(-1)
        assert ((mean > 0) & (mean < 1)).float().mean() > 0.5


def test_the_encoder_hears_the_mixture_and_is_taught_the_clean_sound() -> None:
    """With exchange the codes are those of both; without, of one."""
    for token_mixing in (False, True):
        system = make(mixing=1.0, token_mixing=token_mixing, stretch=(1.0, 1.0), audio_target=None)
        batch, heard = sounds(system), []
        forward = system.tokenizer.forward
        system.tokenizer.forward = lambda x, f=forward, to=heard: to.append(x["audio"]) or f(x)
        mixture = system.mixing(batch, STEP)
        told: list[Tensor] = []
        plain = system.objective

        def spied(logits: Tensor, labels: Tensor, mask: Mask, plain: Any = plain, told: Any = told) -> Tensor:
            told.append(labels)
            return plain(logits, labels, mask)

        system.objective = spied
        system(batch, STEP)
        assert torch.equal(heard[-1], mixture.batch["audio"]) and torch.equal(heard[0], batch["audio"])
        codes = told[0]
        assert torch.equal(codes, batch["codes"]) != token_mixing
        other = batch["codes"].roll(1, 0)
        assert ((codes == batch["codes"]) | (codes == other)).all()


# ------------------------------------------------------------------------- codebooks, recipe


def test_codes_of_a_file_are_what_it_predicts(tmp_path: Path) -> None:
    books = fit_multi(torch.randn(200, 39), codebooks=4, codes=16, steps=2, batch_size=16)
    file = Units("mfcc", (None,), (books,)).save(tmp_path / "units.safetensors")
    system = make(target="audio/clusters", audio_target=None, **{"target.file": str(file)})
    assert system.head.out_features == 4 * 16
    assert system(system.example(3), STEP)["speech"].isfinite()
    titles = system.preview(system.example(3), STEP).media
    units = titles["units: true, predicted, which are hidden"][0]
    assert "of each of 4 codebooks" in units.note
    assert units._repr_html_().count("<rect") == 3 * units.true.numel() > 0


@pytest.mark.filterwarnings("ignore:audio was exactly 0")  # two steps of eight samples may hold no audio
def test_the_recipe_fits_codebooks_to_two_teachers_and_predicts_both(tmp_path: Path) -> None:
    data = {"name": "audio/words", "limit": 24, "seconds": 0.4}
    shared = {"workers": 0, "accelerator": "cpu"}
    options = {
        "codebooks": 2,
        "audio_codebooks": 1,
        "codes": 4,
        "quantiser_steps": 4,
        "steps": 2,
        "audio_teacher": "mel",
        "layer": 1,
        "preset": "tiny",
    }
    stage = run_recipe("audio/spear", data, tmp_path, options=options, shared=shared, progress=False)
    teacher, student = stage.done
    assert [run.folder.name for run in stage.done] == ["teacher", "spear"]
    system: Any = student.system
    assert (system.target.streams, system.audio_target.streams, system.target.dim) == (2, 1, 4)
    taught, books = load(tmp_path / "teacher.safetensors"), system.target.books
    assert isinstance(books[0], MultiCodebook) and taught.layers == (1,)
    batch = collate([stage.data.split("train")[i] for i in range(3)])
    tokens = system.tokenizer(batch)
    whole: Any = teacher.system
    features = whole.encode(batch, layer=1)
    valid = tokens.valid if tokens.valid is not None else torch.ones(tokens.shape, dtype=torch.bool)
    assert torch.equal(system.target(batch, tokens)[valid], books[0](features.values)[valid])
    # what it names moves with the folder
    assert str(tmp_path) not in (tmp_path / "spear" / "config.yaml").read_text()
    # the same again trains nothing, with a file of the folder's own as teacher
    before = (tmp_path / "spear" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    run_recipe("audio/spear", data, tmp_path, options=options, shared=shared, progress=False)
    assert (tmp_path / "spear" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_what_cannot_be_is_refused() -> None:
    for options in ({"mixing": 2.0}, {"mixing": 0.5, "stretch": (0.5, 0.2)}, {"visible_weight": -1.0}):
        with pytest.raises(UserError):
            make(**options)
    system = make(mixing=0.5)
    with pytest.raises(UserError, match="give --mixing 0"):
        system({"audio": torch.randn(2, 20, 16)}, STEP)
    with pytest.raises(UserError, match="spear predicts classes"):
        make(target="audio/mel")(system.example(2), STEP)
    assert isinstance(system, SPEAR)


def test_a_silent_recording_is_mixed_into_none() -> None:
    """No gain makes it audible, and its codes replace none."""
    batch = noise(4)
    batch["audio"][1] = 0
    mixture = Mixing(TOKENIZER, 1.0, (1.0, 1.0), (0.0, 0.0))(batch, STEP)
    assert (mixture.gain > 0).tolist() == [True, False, False, True]
    tokens = Tokens(torch.zeros(4, 100, 1), torch.arange(100.0).expand(4, -1)[..., None])
    labels = torch.arange(4)[:, None, None].expand(-1, 100, 2)
    changed = (mixture.exchange(labels, tokens, STEP) != labels).flatten(1).any(1)
    assert changed.tolist() == [True, False, False, True]


def test_published_ratios_are_the_default() -> None:
    mixing = make(mixing=0.3).mixing
    assert (mixing.chance, mixing.stretch, mixing.snr) == (0.3, (0.2, 0.5), (-5.0, 5.0))


def test_channels_and_frames_are_hidden_by_streams_of_their_own() -> None:
    asked = []

    def masking(request: Any) -> Mask:
        asked.append((request.sites, request.stream))
        return Mask(torch.zeros(len(request.ids), request.sites, dtype=torch.bool), None, request.valid)

    system = make(masking=masking, channel_masking=masking)
    batch = sounds(system)
    system(batch, STEP)
    sites, channels = system.tokenizer(batch).values.shape[1:]
    assert asked == [(sites, 0), (channels, 1)]
