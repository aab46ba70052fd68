"""A token sees its own windows alone, and spectra are torchaudio's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor

from polymask import UserError
from polymask_audio.tokenizers import MelFrames, MelPatches, Waveform
from polymask_audio.windows import FLOOR

MAKERS = {
    "waveform": lambda **more: Waveform(rate=1600, **more),
    "frames": lambda **more: MelFrames(rate=1600, mels=16, **more),
    "patches": lambda **more: MelPatches(rate=1600, mels=16, patch_size=4, window_ms=40.0, **more),
}
EVERY = pytest.mark.parametrize("kind", list(MAKERS))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@EVERY
def test_a_token_sees_its_window_and_nothing_else(kind: str) -> None:
    """Changing one sample changes exactly the tokens whose window holds it."""
    tokenizer: Any = MAKERS[kind]()
    audio = noise(1, tokenizer.window + 9 * tokenizer.hop)
    before = tokenizer({"audio": audio})
    bands = before.shape[1] // 10
    start = torch.arange(before.shape[1]) // bands * tokenizer.hop
    for at in (0, 3 * tokenizer.hop + 1, 5 * tokenizer.hop + tokenizer.window // 2):
        changed = audio.clone()
        changed[0, at] += 5.0
        moved = (tokenizer({"audio": changed}).values != before.values).any(-1)[0]
        inside = (start <= at) & (at < start + tokenizer.window)
        assert not (moved & ~inside).any()
        # a Hann window is 0 at its first sample
        assert (moved & inside).any() or at == 0


@EVERY
def test_neither_padding_nor_what_lies_in_it_reaches_a_token(kind: str) -> None:
    tokenizer: Any = MAKERS[kind]()
    batch = tokenizer.example(4)
    tokens = tokenizer(batch)
    for i, length in enumerate(batch["audio_length"].tolist()):
        alone = tokenizer({"audio": batch["audio"][i : i + 1, :length]})
        assert alone.valid is None and alone.shape[1] == tokens.valid[i].sum()
        assert tokens.valid[i, : alone.shape[1]].all()
        assert torch.equal(alone.values[0], tokens.values[i, : alone.shape[1]])
    dirty = batch["audio"] + 7.0 * (torch.arange(batch["audio"].shape[1]) >= batch["audio_length"][:, None])
    assert torch.equal(tokenizer(batch | {"audio": dirty}).values, tokens.values)


@EVERY
def test_sound_shorter_than_a_window_is_one_token_of_time(kind: str) -> None:
    tokenizer: Any = MAKERS[kind]()
    audio = noise(2, tokenizer.window + tokenizer.hop)
    length = torch.tensor([tokenizer.window + tokenizer.hop, 3])
    tokens = tokenizer({"audio": audio, "audio_length": length})
    bands = tokens.shape[1] // 2
    assert tokens.valid.sum(1).tolist() == [2 * bands, bands]
    assert tokens.values[1].isfinite().all()
    alone = tokenizer({"audio": audio[1:, :3]})
    assert torch.equal(alone.values[0], tokens.values[1, :bands])


@EVERY
def test_sound_of_one_length_has_a_grid(kind: str) -> None:
    tokenizer: Any = MAKERS[kind](seconds=1.0)
    tokens = tokenizer(tokenizer.example(2))
    assert tokens.valid is None and math.prod(tokens.grid) == tokens.shape[1]
    assert tokens.grid == tokenizer.provides["grid"]
    with pytest.raises(ValueError, match="1600"):
        tokenizer({"audio": torch.zeros(2, 1500)})


def test_frames_are_20_ms_at_every_rate() -> None:
    for rate in (8000, 16000, 22050, 44100):
        for tokenizer in (Waveform(rate=rate), MelFrames(rate=rate)):
            tokens = tokenizer({"audio": torch.zeros(1, 4 * rate)})
            assert tokens.shape[1] == 199  # a window is longer than a hop


def test_waveform_tokens_are_the_samples() -> None:
    audio = noise(2, 1000)
    tokens = Waveform(rate=1600)({"audio": audio})
    assert torch.equal(tokens.values[1, 7], audio[1, 7 * 32 : 7 * 32 + 40])
    assert tokens.position[0, :, 0].tolist() == list(range(31))


def test_spectra_are_those_of_torchaudio() -> None:
    """Of every window by itself, transformed without padding to a power of two."""
    tokenizer = MelFrames(rate=16000, mels=40, mean=-2.0, std=3.0)
    audio = noise(1, 16000)
    values = tokenizer({"audio": audio}).values
    mel = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=512, win_length=400, hop_length=320, f_min=20.0, n_mels=40, center=False
    )
    # torchaudio puts the window in the middle of 512 samples, so that frame i begins 56 samples earlier
    theirs = (mel(torch.nn.functional.pad(audio, (56, 56))) + FLOOR).log().transpose(1, 2)
    torch.testing.assert_close(values, (theirs + 2) / 3)


def test_a_tone_lies_where_it_should() -> None:
    """In time, in frequency, and in the patch that holds both."""
    time = torch.arange(16000) / 16000
    audio = torch.where(time > 0.5, torch.sin(2 * torch.pi * 2000 * time), 0.0)[None]
    tokenizer = MelPatches(mels=64, patch_size=8)
    tokens = tokenizer({"audio": audio})
    spectrum = tokenizer.inverse(tokens.values)[0]
    assert spectrum.shape == (96, 64)
    mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    band = (mel(2000) - mel(20)) / (mel(8000) - mel(20)) * 65 - 1
    assert abs(int(spectrum[80].argmax()) - band) < 1
    loud = tokens.position[0, tokens.values[0].mean(-1).argmax()]
    assert loud[0] >= 6 and loud[1] == round(band) // 8
    assert torch.equal(tokenizer.inverse(tokens.values), tokenizer.spectra({"audio": audio})[:, :96])


def test_spectra_may_be_given_in_place_of_sound() -> None:
    tokenizer: Any = MAKERS["patches"]()
    batch = tokenizer.example(3)
    tokens = tokenizer(batch)
    again = tokenizer(batch | {"audio": tokenizer.inverse(tokens.values)})
    assert torch.equal(again.values, tokens.values) and torch.equal(again.valid, tokens.valid)


def test_a_patch_with_a_padded_spectrum_is_padding() -> None:
    tokenizer: Any = MAKERS["patches"]()
    lengths = tokenizer.window + torch.tensor([4, 3, 2]) * tokenizer.hop - torch.tensor([0, 1, 0])
    batch = {"audio": noise(3, int(lengths[0])), "audio_length": lengths}
    assert (tokenizer(batch).valid.sum(1) // 4).tolist() == [5, 3, 3]


def test_every_mel_filter_has_a_bin() -> None:
    for rate, mels in ((8000, 128), (16000, 128)):
        assert (MelPatches(rate=rate, mels=mels).mel.mel_scale.fb.amax(0) > 0).all()


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="do not tile 80 mel filters"):
        MelPatches(mels=80, patch_size=12)
    with pytest.raises(UserError, match="no longer than"):
        Waveform(window_ms=10.0)
    with pytest.raises(UserError, match="fewer samples"):
        Waveform(seconds=0.01)
