"""Recordings of any rate, length and number of channels come out alike."""

from __future__ import annotations

import base64
import io
import math
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from polymask import Run, RunConfig, Tokens, UserError
from polymask.data import collate, describe, held_out, open_data
from polymask.report import write_report
from polymask.training import fit
from polymask_audio.datasets.cut import Cut, ratio


def tone(pitch: float, seconds: float, rate: int, loud: float = 0.3) -> np.ndarray:  # type: ignore[type-arg]
    return loud * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def pitch_of(x: torch.Tensor, rate: int) -> float:
    spectrum = torch.fft.rfft(x * torch.hann_window(len(x)), n=1 << 17).abs()
    return float(spectrum.argmax()) * rate / (1 << 17)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 22051])
def test_any_rate_keeps_pitch_length_and_level(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 0.5, rate), rate, subtype="FLOAT")
    data = open_data(f"audio/folder:{tmp_path}", test=0)
    x = data.split("train")[0]["audio"]
    assert x.dtype == torch.float32
    assert abs(len(x) - 8000) <= 1
    assert len(x) == int(data.lengths("train")[0])  # type: ignore[attr-defined]
    assert abs(pitch_of(x, 16000) - 440) < 1
    assert abs(float(x[1000:-1000].abs().max()) - 0.3) < 0.01


def test_resampling_is_torchaudios(tmp_path: Path) -> None:
    x = torch.randn(4410) * 0.1
    soundfile.write(tmp_path / "a.wav", x.numpy(), 44100, subtype="FLOAT")
    found = open_data(f"audio/folder:{tmp_path}", test=0).split("train")[0]["audio"]
    torch.testing.assert_close(found, torchaudio.functional.resample(x, 44100, 16000))


def test_rates_without_a_common_divisor_stay_cheap() -> None:
    assert ratio(44100, 16000) == ratio(441, 160)
    odd = ratio(44101, 16000)
    assert odd.denominator <= 1000
    assert abs(float(odd) / (16000 / 44101) - 1) < 1e-5


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(300, 0.2, 16000), tone(1000, 0.2, 16000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right, right], axis=1), 16000, subtype="FLOAT")
    found = open_data(f"audio/folder:{tmp_path}", test=0).split("train")[0]["audio"]
    torch.testing.assert_close(found, torch.from_numpy((left + 2 * right) / 3).float())


def test_samples_stay_within_one(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 4 * tone(300, 0.2, 22050), 22050, subtype="FLOAT")
    assert open_data(f"audio/folder:{tmp_path}", test=0).split("train")[0]["audio"].abs().max() == 1


def ramp(path: Path, seconds: float, rate: int = 16000) -> None:
    n = round(seconds * rate)
    soundfile.write(path, np.arange(1, n + 1) / n, rate, subtype="FLOAT")


def test_long_recordings_are_cut_in_the_middle_or_anywhere(tmp_path: Path) -> None:
    ramp(tmp_path / "long.wav", 2.0)
    data = open_data(f"audio/folder:{tmp_path}", test=0, seconds=0.5)
    plain = data.split("train")[0]["audio"]
    assert abs(float(plain.mean()) - 0.5) < 1e-3
    assert len(plain) == 8000
    found = []
    for seed in (1, 2, 3, 1):
        torch.manual_seed(seed)
        sample = data.split("train", augment=True)[0]["audio"]
        assert len(sample) == 8000
        torch.testing.assert_close(sample.diff(), torch.full((7999,), 1 / 32000), rtol=0, atol=1e-6)
        found.append(float(sample[0]))
    assert found[0] == found[3]
    assert len(set(found[:3])) == 3


def test_a_cut_at_another_rate_is_as_long(tmp_path: Path) -> None:
    for rate in (8000, 11025, 44100, 22051):
        ramp(tmp_path / f"{rate}.wav", 1.0, rate)
    data = open_data(f"audio/folder:{tmp_path}", test=0, seconds=0.3331)
    lengths = {len(data.split("train")[i]["audio"]) for i in range(4)}
    assert lengths == {round(0.3331 * 16000)}
    assert data.provides["seconds"] == 0.3331


def test_only_a_length_that_all_have_is_told_as_a_fact(tmp_path: Path) -> None:
    ramp(tmp_path / "long.wav", 1.0)
    ramp(tmp_path / "short.wav", 0.2)
    ragged = open_data(f"audio/folder:{tmp_path}", test=0, seconds=0.5)
    prepared = {"rate": 16000, "seconds": 0.5, "pad": False}
    assert ragged.provides == {"rate": 16000, "samples": 2, "seconds": None, "preparation": prepared}
    assert ragged.lengths("train").tolist() == [8000, 3200]  # type: ignore[attr-defined]
    padded = open_data(f"audio/folder:{tmp_path}", test=0, seconds=0.5, pad=True)
    assert padded.provides["seconds"] == 0.5
    short = padded.split("train")[1]["audio"]
    assert len(short) == 8000
    assert short[3200:].abs().max() == 0
    assert short[3199] == 1
    batch = collate([ragged.split("train")[i] for i in range(2)])
    assert batch["audio_length"].tolist() == [8000, 3200]


def test_short_recordings_are_left_out_by_name(tmp_path: Path) -> None:
    ramp(tmp_path / "long.wav", 0.5)
    ramp(tmp_path / "short.wav", 0.01)
    data = open_data(f"audio/folder:{tmp_path}", test=0, min_seconds=0.1)
    assert len(data.split("train")) == 1
    assert data.skipped == [("short.wav", "0.01 s long, shorter than min_seconds=0.1")]
    with pytest.raises(UserError, match="min_seconds"):
        open_data(f"audio/folder:{tmp_path}", test=0, min_seconds=3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate"),
        ({"seconds": 0.0}, "no sample"),
        ({"pad": True}, "give seconds"),
        ({"seconds": 0.1, "min_seconds": 0.2}, "longer than"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cut(**options)  # type: ignore[arg-type]


def test_a_picture_has_high_tones_on_top_and_time_to_the_right(tmp_path: Path) -> None:
    sound = np.concatenate([tone(200, 0.5, 16000), tone(6000, 0.5, 16000)])
    soundfile.write(tmp_path / "a.wav", sound, 16000)
    data = open_data(f"audio/folder:{tmp_path}", test=0)
    picture = data.to_image(data.split("train")[0]["audio"])
    assert picture.min() >= 0
    assert picture.max() == 1
    first, second = picture[:, 10].argmax(), picture[:, -10].argmax()
    assert first > 0.8 * len(picture)
    assert second < 0.3 * len(picture)
    spectrum = torch.rand(20, 16)
    assert data.to_image(spectrum).shape == (16, 20)


def test_a_report_of_any_system_plays_its_samples(tmp_path: Path) -> None:
    for i, seconds in enumerate((0.4, 0.3, 0.5)):
        soundfile.write(tmp_path / f"{i}.wav", tone(200 * (i + 1), seconds, 8000), 8000)
    data = {"name": "audio/folder", "source": str(tmp_path), "rate": 8000, "test": 0}
    out = tmp_path / "run"
    config = {"system": "audio/mae", "preset": "tiny", "data": data, "steps": 1, "batch_size": 2}
    fit(Run.create(RunConfig.resolve(config), out), progress=False)
    sounds = re.findall(
        r'<audio controls[^>]* src="data:audio/wav;base64,([^"]+)"', write_report(out).read_text()
    )
    samples = open_data(f"audio/folder:{tmp_path}", rate=8000, test=0).split("train")
    assert len(sounds) == len(samples) == 3
    for i, text in enumerate(sounds):
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(text)), dtype="float32")
        assert rate == 8000
        torch.testing.assert_close(torch.from_numpy(heard), samples[i]["audio"], rtol=0, atol=1 / 32767)


def test_a_drawing_colours_hidden_tokens_where_they_are(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(200, 0.4, 16000), 16000)
    data = open_data(f"audio/folder:{tmp_path}", test=0)
    sample = data.split("train")[0]
    plain = data.render(sample)  # type: ignore[attr-defined]
    place = torch.cartesian_prod(torch.arange(4.0), torch.arange(2.0))[None]  # 4 times, 2 bands
    hidden = torch.zeros(8, dtype=torch.bool)
    hidden[2 * 3 + 1] = True  # the last time, the upper band
    drawn = data.render(sample, Tokens(torch.zeros(1, 8, 1), place), hidden)  # type: ignore[attr-defined]
    changed = (drawn != plain).any(0)
    h, w = changed.shape
    assert changed[: h // 2, 3 * w // 4 :].all()
    assert not changed[h // 2 :].any()
    assert not changed[:, : 3 * w // 4].any()
    in_a_row = Tokens(torch.zeros(1, 4, 1), torch.arange(4.0)[None, :, None])
    drawn = data.render(sample, in_a_row, torch.tensor([True, False, False, False]))  # type: ignore[attr-defined]
    changed = (drawn != plain).any(0)
    assert changed[:, : w // 4].all()
    assert not changed[:, w // 4 :].any()


def test_the_descriptor_does_not_see_padding(tmp_path: Path) -> None:
    for i, seconds in enumerate((0.3, 0.9)):
        soundfile.write(tmp_path / f"{i}.wav", tone(300 + 900 * i, seconds, 16000), 16000)
    data = open_data(f"audio/folder:{tmp_path}", test=0)
    samples = [data.split("train")[i] for i in range(2)]
    both = data.descriptor(collate(samples))  # type: ignore[attr-defined]
    alone = data.descriptor(collate(samples[:1]))  # type: ignore[attr-defined]
    assert both.shape == (2, 128)
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-4)
    assert (both[0] - both[1]).abs().max() > 2


def test_samples_survive_pickling_and_draw_nothing_where_nothing_is_random(tmp_path: Path) -> None:
    ramp(tmp_path / "a.wav", 0.3)
    data = open_data(f"audio/folder:{tmp_path}", test=0)
    samples = data.split("train", augment=True)
    before = torch.get_rng_state()
    copy = pickle.loads(pickle.dumps(samples))
    assert torch.equal(copy[0]["audio"], samples[0]["audio"])
    assert torch.equal(torch.get_rng_state(), before)


def test_held_out_keeps_what_belongs_together_and_every_class() -> None:
    keys = [f"{i // 3}" for i in range(60)]
    labels = torch.arange(60) // 30
    held = held_out(keys, labels, 0.2)
    by_key = held.view(20, 3)
    assert (by_key.all(1) | ~by_key.any(1)).all()
    assert by_key[:, 0].view(2, 10).sum(1).tolist() == [2, 2]
    more = held_out([*keys, *(f"x{i}" for i in range(30))], torch.cat([labels, torch.ones(30).long()]), 0.2)
    assert torch.equal(more[:30], held[:30])
    assert not held_out(keys, labels, 0).any()
    with pytest.raises(UserError, match="share"):
        held_out(keys, labels, 1.0)


def test_limit_keeps_classes_in_proportion(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(10):
            ramp(tmp_path / name / f"{i}.wav", 0.05)
    data = open_data(f"audio/folder:{tmp_path}", test=0, limit=6)
    assert data.labels("train").tolist() == [0, 0, 0, 1, 1, 1]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="limit"):
        open_data(f"audio/folder:{tmp_path}", limit=0)
    with pytest.raises(UserError, match="no test recordings"):
        data.split("test")


def test_reading_is_quiet(tmp_path: Path) -> None:
    ramp(tmp_path / "a.wav", 0.1, 8000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_data(f"audio/folder:{tmp_path}", test=0)
        sample = data.split("train")[0]["audio"]
        data.to_image(sample)
    assert math.isclose(len(sample) / 16000, 0.1)


@pytest.mark.parametrize("decibels", [0.0, 20.0])
def test_noise_is_as_weak_as_asked_and_only_where_it_is_tested(tmp_path: Path, decibels: float) -> None:
    for split in ("train", "test"):
        for i in range(2):
            (tmp_path / split).mkdir(exist_ok=True)
            soundfile.write(tmp_path / split / f"{i}.wav", tone(440, 1.0, 16000, 0.1), 16000, subtype="FLOAT")
    clean = open_data(f"audio/folder:{tmp_path}")
    noisy = open_data(f"audio/folder:{tmp_path}", noise=decibels)
    assert torch.equal(clean.split("train")[0]["audio"], noisy.split("train")[0]["audio"])
    sound = clean.split("test")[0]["audio"]
    noise = noisy.split("test")[0]["audio"] - sound
    found = 10 * math.log10(float(sound.square().mean() / noise.square().mean()))
    assert abs(found - decibels) < 0.3
    assert float((noise[1:] * noise[:-1]).mean() / noise.square().mean()) == pytest.approx(0, abs=0.05)
    assert torch.equal(noisy.split("test")[0]["audio"], noisy.split("test")[0]["audio"])
    other = noisy.split("test")[1]["audio"] - clean.split("test")[1]["audio"]
    assert abs(float((noise * other).mean())) < 0.05 * float(noise.square().mean())


def test_noise_over_loud_sound_stays_in_its_range(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        soundfile.write(tmp_path / split / "a.wav", tone(440, 0.5, 16000, 0.9), 16000, subtype="FLOAT")
    sound = open_data(f"audio/folder:{tmp_path}", noise=0.0).split("test")[0]["audio"]
    assert sound.abs().max() == 1


def test_classes_may_be_called_speech(tmp_path: Path) -> None:
    for name in ("talk", "song", "rain"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", tone(440, 0.1, 16000), 16000)
    data = open_data(f"audio/folder:{tmp_path}", test=0, speech=("talk", "song"))
    labels = data.labels("train")
    assert data.classes == ["rain", "song", "talk"] and labels is not None
    batch = collate([data.split("train")[i] for i in range(3)])
    assert batch["speech"].dtype == torch.bool
    assert batch["speech"].tolist() == (labels > 0).tolist()
    assert "speech" not in open_data(f"audio/folder:{tmp_path}", test=0).split("train")[0]
    with pytest.raises(UserError, match="no class is called 'words'; there are rain, song, talk"):
        open_data(f"audio/folder:{tmp_path}", speech=("words",))


def test_what_reaches_a_system_is_told(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 0.5, 8000, 0.5), 8000, subtype="FLOAT")
    loud = np.clip(tone(440, 1.0, 44100, 2.0), -1, 1)
    soundfile.write(tmp_path / "b.wav", loud, 44100, subtype="FLOAT")
    late = np.concatenate([np.zeros(32000), tone(440, 1.0, 16000)])
    soundfile.write(tmp_path / "c.wav", late, 16000, subtype="FLOAT")
    data = open_data(f"audio/folder:{tmp_path}", test=0)
    lines = describe(data)
    assert lines["rate"] == "16,000 Hz, of files of 8,000 to 44,100 Hz"
    assert lines["length"] == "0.5 to 3 s, 0.075 min in all"
    low, high = map(float, re.findall(r"-?[\d.]+", lines["level"])[:2])
    assert low == pytest.approx(20 * math.log10(0.3 / math.sqrt(2) / math.sqrt(3)), abs=0.1)
    assert high == pytest.approx(20 * math.log10(math.sqrt(np.square(loud).mean())), abs=0.1)
    assert 5 < float(lines["clipped"].partition("%")[0]) < 15  # two thirds of a second of 4.5, less ripples
    assert lines["silent"] == "0.0% of the recordings, in a sample of 3"
    begins = describe(open_data(f"audio/folder:{tmp_path}", test=0, seconds=0.1))
    assert begins["silent"] == "33.3% of the recordings, in a sample of 3"
    assert begins["length"].startswith("0.1 s")
    late = late[::-1].copy()
    late[40000] = np.nan
    soundfile.write(tmp_path / "d.wav", late, 16000, subtype="FLOAT")
    lines = describe(open_data(f"audio/folder:{tmp_path}", test=0))
    assert lines["unreadable"] == "1 of 4 looked at, first d.wav: holds numbers that are not finite"
