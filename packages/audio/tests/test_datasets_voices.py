"""Prompts and words: what each label holds out, where they come from, and that they are speech."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from polymask import UserError
from polymask.data import Dataset, debian, open_data
from polymask_audio.datasets import prompts
from polymask_audio.datasets.recordings import write_tone

VOICES = {
    "en_US_f_Allison": 200.0,
    "es_MX_f_Allison": 300.0,
    "fr_CA_f_June": 400.0,
    "it_IT_m_Carlo": 500.0,
    "ru_RU_f_IvrvoiceRU": 600.0,
}
NAMES = [f"letters/{c}" for c in "abcdef"] + [f"digits/{i}" for i in range(4)] + ["hello", "silence/1"]


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """All five voices with a few prompts each, and two pieces of music of 4 and 2 seconds."""
    root = tmp_path / "asterisk"
    for voice, pitch in VOICES.items():
        for name in NAMES:
            write_tone(root / "sounds" / voice / f"{name}.wav", pitch, seconds=0.1, rate=8000)
    write_tone(root / "moh" / "one.wav", 2000, seconds=4.2, rate=8000)
    write_tone(root / "moh" / "two.wav", 2500, seconds=2.2, rate=8000)
    return root


def names(data: Dataset, split: str) -> list[str]:
    names: list[str] = data.splits[split].names()  # type: ignore[attr-defined]
    return names


def test_words_are_tested_on_a_voice_that_training_lacks(stand_in: Path) -> None:
    data = open_data(f"prompts:{stand_in}", label="word", test_voice="it", groups=("letters",))
    assert data.classes == [f"letters/{c}" for c in "abcdef"]
    assert all("it_IT" in name for name in names(data, "test"))
    assert not any("it_IT" in name for name in names(data, "train"))
    assert data.labels("train").bincount().tolist() == [4] * 6  # type: ignore[union-attr]
    assert data.labels("test").tolist() == list(range(6))  # type: ignore[union-attr]


def test_holding_out_a_language_holds_out_its_speaker(stand_in: Path) -> None:
    data = open_data(f"prompts:{stand_in}", label="word", test_voice="en")
    assert not any("Allison" in name for name in names(data, "train"))
    assert all("en_US" in name for name in names(data, "test"))


@pytest.mark.parametrize("label", ["language", "speaker", "kind"])
def test_prompts_stay_on_one_side_in_all_languages(stand_in: Path, label: str) -> None:
    data = open_data(f"prompts:{stand_in}", label=label, test=0.3, clip=1.0)
    sides = {
        split: {name.split("/", 2)[-1] for name in names(data, split) if name.startswith("sounds")}
        for split in ("train", "test")
    }
    assert sides["train"] and sides["test"]
    assert not sides["train"] & sides["test"]
    assert not any("silence" in name for side in sides.values() for name in side)


def test_languages_are_five_and_speakers_four(stand_in: Path) -> None:
    languages = open_data(f"prompts:{stand_in}", label="language")
    assert languages.classes == ["en", "es", "fr", "it", "ru"]
    speakers = open_data(f"prompts:{stand_in}", label="speaker")
    assert speakers.classes == ["Allison", "Carlo", "Ivrvoice", "June"]
    for name, label in zip(names(speakers, "train"), speakers.labels("train"), strict=True):  # type: ignore[arg-type]
        assert speakers.classes[int(label)] in name.replace("IvrvoiceRU", "Ivrvoice")


def test_music_is_cut_into_clips_and_held_out_by_the_piece(stand_in: Path) -> None:
    data = open_data(f"prompts:{stand_in}", label="kind", clip=1.0, test=0.3)
    assert data.classes == ["music", "speech"]
    music = {split: [n for n in names(data, split) if n.startswith("moh")] for split in ("train", "test")}
    assert sorted(map(len, music.values())) == [2, 4]
    assert not set(music["train"]) & set(music["test"])
    speech = [
        bool(sample["speech"]) for sample in (data.split("test")[i] for i in range(len(data.split("test"))))
    ]
    assert speech == [not name.startswith("moh") for name in names(data, "test")]
    assert "speech" not in open_data(f"prompts:{stand_in}", label="language").split("test")[0]
    samples, labels = data.split("train"), data.labels("train")
    clips = [samples[i]["audio"] for i in range(len(samples)) if labels[i] == 0]  # type: ignore[index]
    assert {len(clip) for clip in clips} == {16000}
    # neighbouring clips of a tone of whole periods per second are the same but for the resampler's ends
    torch.testing.assert_close(clips[0][100:-100], clips[1][100:-100], rtol=0, atol=2e-3)


def test_what_cannot_be_asked_for_is_refused(stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--label takes word"):
        open_data(f"prompts:{stand_in}", label="pitch")
    with pytest.raises(UserError, match="no voice 'de'"):
        open_data(f"prompts:{stand_in}", label="word", test_voice="de")
    with pytest.raises(UserError, match="no word of nothing"):
        open_data(f"prompts:{stand_in}", label="word", groups=("nothing",))
    with pytest.raises(UserError, match="holds no recordings"):
        open_data(f"prompts:{tmp_path}")


def test_the_cache_is_filled_from_the_packages_once(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counts = {"sounds": len(VOICES) * len(NAMES), "moh": 2}
    monkeypatch.setattr(prompts, "_COUNTS", counts)
    fetched: list[tuple[str, ...]] = []

    def fetch(folder: str, *packages: str) -> None:
        fetched.append(packages)
        shutil.copytree(stand_in, Path(folder, prompts._INSTALLED))

    monkeypatch.setattr(debian, "fetch", fetch)
    monkeypatch.setattr(prompts, "_INSTALLED", "usr/share/polymask-stand-in")
    data = open_data("prompts")
    assert len(data.split("train")) + len(data.split("test")) == 5 * (len(NAMES) - 1)
    again = open_data("prompts")
    assert fetched == [prompts.PACKAGES]
    assert names(again, "test") == names(data, "test")
    assert os.listdir(tmp_path / "cache" / "polymask") == ["prompts"]


def test_without_packages_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prompts, "_INSTALLED", str(tmp_path / "nothing")[1:])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"(?s)no apt-get.*prompts:FOLDER.*'words' is a built-in"):
        open_data("prompts")


def test_built_in_words_are_177_by_five_voices() -> None:
    data = open_data("words", label="language")
    assert data.provides["rate"] == 16000
    both = [*names(data, "train"), *names(data, "test")]
    assert len(both) == 885
    by_voice = {v: {n[3:] for n in both if n.startswith(v)} for v in ("en", "es", "fr", "it", "ru")}
    assert all(words == by_voice["en"] and len(words) == 177 for words in by_voice.values())


def test_built_in_words_are_sound_where_the_index_says(tmp_path: Path) -> None:
    data = open_data("words")
    samples = data.split("test")
    for i in range(0, len(samples), 7):
        x = samples[i]["audio"]
        assert x.abs().max() > 0.02
        loud = x.abs() > 0.25 * x.abs().max()
        ends = torch.cat([loud[:160], loud[-160:]]).float().mean()
        assert ends < 0.35  # a word begins and ends softly: the cuts are not through the middle of one
    assert int(data.lengths("test").min()) > 1600  # type: ignore[attr-defined]


def test_built_in_words_hold_out_a_voice() -> None:
    data = open_data("words", label="word")
    assert len(data.classes or ()) == 85
    assert {name[:2] for name in names(data, "test")} == {"fr"}
    assert {name[:2] for name in names(data, "train")} == {"en", "es", "it", "ru"}
