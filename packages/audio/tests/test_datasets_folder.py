"""Folders as people have them: classes or none, several formats, broken and silent files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from polymask import UserError
from polymask.data import open_data
from polymask_audio.datasets.recordings import write_tone

PITCH = {"low": 200.0, "middle": 500.0, "top": 1000.0}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name, pitch in PITCH.items():
        for i in range(10):
            write_tone(tmp_path / name / f"{i}.wav", pitch, seconds=0.1, rate=8000)
    return tmp_path


def pitch_of(x: torch.Tensor) -> float:
    return float(torch.fft.rfft(x).abs().argmax()) * 16000 / len(x)


def test_class_folders_are_classes(classes: Path) -> None:
    data = open_data(f"audio/folder:{classes}", test=0.2)
    assert data.classes == ["low", "middle", "top"]
    for split, n in (("train", 8), ("test", 2)):
        samples, labels = data.split(split), data.labels(split)  # type: ignore[arg-type]
        assert labels.tolist() == [c for c in range(3) for _ in range(n)]  # type: ignore[union-attr]
        for i in range(3 * n):
            expected = list(PITCH.values())[int(labels[i])]  # type: ignore[index]
            assert abs(pitch_of(samples[i]["audio"]) - expected) < 11


def test_without_class_folders_there_are_no_labels(tmp_path: Path) -> None:
    for name in ("1.wav", "2.wav", "deep/er/3.wav"):
        write_tone(tmp_path / name, 200, seconds=0.1, rate=8000)
    data = open_data(f"audio/folder:{tmp_path}")
    assert data.classes is None
    assert data.labels("train") is None
    assert len(data.split("train")) + len(data.split("test")) == 3


def test_split_folders_are_splits(classes: Path) -> None:
    for name in PITCH:
        (classes / "train").mkdir(exist_ok=True)
        (classes / name).rename(classes / "train" / name)
    write_tone(classes / "Val" / "top" / "a.wav", 1000, seconds=0.1, rate=8000)
    write_tone(classes / "Val" / "violet" / "b.wav", 300, seconds=0.1, rate=8000)
    data = open_data(f"audio/folder:{classes}")
    assert data.classes == ["low", "middle", "top", "violet"]
    assert len(data.split("train")) == 30
    assert data.labels("test").tolist() == [2, 3]  # type: ignore[union-attr]


def test_formats_are_read_alike(tmp_path: Path) -> None:
    sound = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    for ending in ("wav", "flac", "ogg", "mp3", "WAV"):
        soundfile.write(tmp_path / f"{ending}1.{ending}", sound, 16000)
    soundfile.write(tmp_path / "opus.opus", sound, 16000, format="OGG", subtype="OPUS")
    soundfile.write(tmp_path / "deep.wav", sound, 16000, subtype="PCM_24")
    data = open_data(f"audio/folder:{tmp_path}", test=0)
    assert len(data.split("train")) == 7
    assert data.skipped == []
    for i in range(7):
        x = data.split("train")[i]["audio"]
        assert abs(pitch_of(x) - 440) < 2
        assert abs(float(x[2000:14000].square().mean()) - 0.045) < 0.002


def test_an_absurd_rate_is_left_out_and_named(classes: Path) -> None:
    path = classes / "low" / "fast.wav"
    soundfile.write(path, np.sin(np.arange(4000) / 9), 16000)
    raw = path.read_bytes()
    for rate in (768_001, 2**31 - 1):
        path.write_bytes(raw[:24] + rate.to_bytes(4, "little") + raw[28:])
        assert dict(open_data(f"audio/folder:{classes}", test=0).skipped) == {
            "low/fast.wav": f"says {rate:,} Hz, and no recording is above 768,000 Hz"
        }
    path.write_bytes(raw[:24] + (768_000).to_bytes(4, "little") + raw[28:])
    assert not open_data(f"audio/folder:{classes}", test=0).skipped


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "W64", "RF64"])
def test_a_truncated_recording_is_left_out_and_named(classes: Path, kind: str) -> None:
    path = classes / "low" / "cut.wav"
    soundfile.write(path, np.sin(np.arange(4000) / 9), 16000, format=kind)
    raw = path.read_bytes()
    assert not open_data(f"audio/folder:{classes}", test=0).skipped
    path.write_bytes(raw[:3000])
    (reason,) = dict(open_data(f"audio/folder:{classes}", test=0).skipped).values()
    assert reason.startswith("truncated: says ") and " bytes, and holds " in reason


@pytest.mark.parametrize("kind", ["FLAC", "MP3"])
def test_compressed_sound_that_is_truncated_is_left_out_and_named(classes: Path, kind: str) -> None:
    path = classes / "low" / "cut.wav"
    soundfile.write(path, np.sin(np.arange(64_000) / 9), 16000, format=kind)
    raw = path.read_bytes()
    assert not open_data(f"audio/folder:{classes}", test=0).skipped
    path.write_bytes(raw[: len(raw) // 2])
    (reason,) = dict(open_data(f"audio/folder:{classes}", test=0).skipped).values()
    assert reason == "truncated: says 64,000 samples, and ends before the last"


def test_ogg_that_ends_within_a_page_is_left_out_and_named(classes: Path) -> None:
    path = classes / "low" / "cut.ogg"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 64_000), 16000, format="OGG")
    raw = path.read_bytes()
    assert not open_data(f"audio/folder:{classes}", test=0).skipped
    path.write_bytes(raw[: len(raw) * 97 // 100])
    (reason,) = dict(open_data(f"audio/folder:{classes}", test=0).skipped).values()
    assert reason == "truncated: ends within a page of Ogg"


@pytest.mark.parametrize("size", [0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF])
def test_the_size_that_a_stream_claims_is_none(classes: Path, size: int) -> None:
    path = classes / "low" / "stream.wav"
    soundfile.write(path, np.sin(np.arange(4000) / 9), 16000)
    raw = path.read_bytes()
    assert raw[36:40] == b"data"
    path.write_bytes(raw[:40] + size.to_bytes(4, "little") + raw[44:])
    assert not open_data(f"audio/folder:{classes}", test=0).skipped


def test_broken_files_are_skipped_counted_and_named(classes: Path) -> None:
    (classes / "low" / "zero.wav").touch()
    (classes / "low" / "words.flac").write_text("no sound at all, but long enough to be looked at")
    (classes / "notes.txt").write_text("which is which")
    (classes / ".hidden.wav").write_text("x")
    soundfile.write(classes / "top" / "silent.wav", np.zeros(50_000), 8000)
    soundfile.write(classes / "top" / "header.wav", np.zeros(0), 8000)
    soundfile.write(classes / "top" / "nan.wav", np.full(100, np.nan), 8000, subtype="FLOAT")
    one_nan = np.sin(np.arange(4000) / 9)
    one_nan[1000] = np.nan
    soundfile.write(classes / "top" / "one_nan.wav", one_nan, 8000, subtype="FLOAT")
    soundfile.write(classes / "top" / "loud.wav", 20_000 * np.ones(4000), 8000, subtype="FLOAT")
    opposite = np.sin(np.arange(4000) / 9)[:, None] * [0.5, -0.5]
    soundfile.write(classes / "top" / "opposite.wav", opposite, 8000, subtype="FLOAT")
    late = np.zeros(30_000)
    late[-10:] = 0.5
    soundfile.write(classes / "middle" / "late.wav", late, 8000)
    data = open_data(f"audio/folder:{classes}", test=0)
    skipped = dict(data.skipped)
    assert len(data.split("train")) == 31  # the one with sound at its end too
    assert set(skipped) == {
        "notes.txt",
        "low/zero.wav",
        "low/words.flac",
        "top/silent.wav",
        "top/header.wav",
        "top/nan.wav",
        "top/one_nan.wav",
        "top/loud.wav",
        "top/opposite.wav",
    }
    assert skipped["top/one_nan.wav"] == "holds numbers that are not finite"
    assert skipped["top/loud.wav"].startswith("reaches 2e+04, and full scale is 1")
    assert skipped["top/opposite.wav"] == "its channels cancel each other"
    assert skipped["low/zero.wav"] == "empty file"
    assert skipped["top/silent.wav"] == "silent from end to end"
    assert skipped["top/header.wav"] == "no samples in it"
    assert skipped["notes.txt"] == "its suffix is not among those of audio files"
    assert "/" not in skipped["low/words.flac"]


def test_a_file_that_goes_bad_is_replaced_by_one_of_its_class(classes: Path) -> None:
    data = open_data(f"audio/folder:{classes}", test=0)
    (classes / "middle" / "3.wav").write_bytes(b"RIFF")
    with pytest.warns(UserWarning, match=r"middle/3\.wav.*middle/4\.wav stands in"):
        samples = [data.split("train")[i]["audio"] for i in range(30)]
    assert torch.equal(samples[13], samples[14])
    assert [name for name, _ in data.skipped] == ["middle/3.wav"]


def test_workers_report_it_too(classes: Path) -> None:
    data = open_data(f"audio/folder:{classes}", test=0)
    (classes / "low" / "9.wav").unlink()
    loader: DataLoader[Any] = DataLoader(
        data.split("train"),  # type: ignore[arg-type]
        batch_size=10,
        num_workers=1,
        multiprocessing_context="fork",
    )
    assert len(list(loader)) == 3
    assert data.skipped == [("low/9.wav", dict(data.skipped)["low/9.wav"])]


def test_names_in_any_script(tmp_path: Path) -> None:
    for name in ("ünï cödé.wav", "音 (1).wav", "emoji 🦊.wav"):
        write_tone(tmp_path / "çlass" / name, 300, seconds=0.1, rate=8000)
    data = open_data(f"audio/folder:{tmp_path}", test=0)
    assert data.classes == ["çlass"]
    assert [len(data.split("train")[i]["audio"]) for i in range(3)] == [1600] * 3


def test_nothing_usable_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        open_data(f"audio/folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"no audio files \(\.wav"):
        open_data(f"audio/folder:{tmp_path}")
    (tmp_path / "a.wav").touch()
    with pytest.raises(UserError, match=r"skipped 1 files, first a\.wav: empty file"):
        open_data(f"audio/folder:{tmp_path}")


def test_long_recordings_are_cut_unless_a_length_is_given(tmp_path: Path) -> None:
    for i in range(3):
        write_tone(tmp_path / f"{i}.wav", 200, seconds=(1, 31, 33)[i], rate=800)
    with pytest.warns(UserWarning, match="2 of 3 recordings are longer than 30 s"):
        data = open_data(f"audio/folder:{tmp_path}", test=0, rate=800)
    assert sorted(len(x["audio"]) for x in map(data.split("train").__getitem__, range(3))) == [
        *(800, 24_000, 24_000)
    ]
    whole = open_data(f"audio/folder:{tmp_path}", test=0, rate=800, seconds=60.0)
    assert data.lengths("train").max() == 24_000  # type: ignore[attr-defined]
    assert whole.lengths("train").max() == 33 * 800  # type: ignore[attr-defined]
