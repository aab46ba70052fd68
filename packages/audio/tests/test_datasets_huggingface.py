"""Local folders in the hub's layout: columns, splits and classes are found, bytes decoded by soundfile."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from polymask import UserError
from polymask.data import open_data
from polymask_audio.datasets.recordings import write_tone

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # what the library would decode with


def sound(level: float, samples: int = 800, rate: int = 8000, kind: str = "FLAC") -> dict[str, Any]:
    """A file of one level throughout, as a row has it."""
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, level), rate, format=kind)
    return {"bytes": file.getvalue(), "path": None}


def write(folder: Path, split: str, columns: dict[str, list[Any]], **features: Any) -> None:
    """One parquet file of a split, as the hub stores them."""
    # by hand, since the library encodes sound with torchcodec alone
    schema = datasets.Features({name: features[name] for name in columns}).arrow_schema
    (folder / "data").mkdir(parents=True, exist_ok=True)
    file = folder / "data" / f"{split}-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pydict(columns, schema=schema), file)


AUDIO = datasets.Audio()
WORD = datasets.ClassLabel(names=["no", "yes"])


def levels(data: Any, split: str) -> list[float]:
    samples = data.split(split)
    return [round(float(samples[i]["audio"].median()), 2) for i in range(len(samples))]


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_columns_and_classes_are_found(tmp_path: Path, streaming: bool) -> None:
    rows = {"clip": [sound(0.1), sound(0.2, 1600), sound(0.3)], "word": [0, 1, 0], "text": ["a", "b", "c"]}
    kinds = {"clip": AUDIO, "word": WORD, "text": datasets.Value("string")}
    write(tmp_path, "train", rows, **kinds)
    write(tmp_path, "test", {"clip": [sound(0.4)], "word": [1], "text": ["d"]}, **kinds)
    more = {"streaming": True, "recordings": 9} if streaming else {}
    data: Any = open_data(f"audio/hf:{tmp_path}", rate=8000, **more)
    assert data.classes == ["no", "yes"]
    assert (levels(data, "train"), levels(data, "test")) == ([0.1, 0.2, 0.3], [0.4])
    assert data.labels("train").tolist() == [0, 1, 0] and data.labels("test").tolist() == [1]
    assert data.lengths("train").tolist() == [800, 1600, 800]
    copy = pickle.loads(pickle.dumps(data.split("train")))
    assert torch.equal(copy[1]["audio"], data.split("train")[1]["audio"])


def test_of_a_stream_the_first_recordings_are_taken(tmp_path: Path) -> None:
    write(tmp_path, "train", {"audio": [sound(0.01 * i) for i in range(1, 13)]}, audio=AUDIO)
    data = open_data(f"audio/hf:{tmp_path}", streaming=True, recordings=5, test=0.2)
    assert sorted(levels(data, "train") + levels(data, "test")) == [0.01, 0.02, 0.03, 0.04, 0.05]
    with pytest.raises(UserError, match="how much of the stream"):
        open_data(f"audio/hf:{tmp_path}", streaming=True)
    whole = open_data(f"audio/hf:{tmp_path}", recordings=5, test=0)
    assert levels(whole, "train") == [0.01, 0.02, 0.03, 0.04, 0.05]


def test_noise_lies_over_what_is_tested_alone(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path, split, {"audio": [sound(0.1)]}, audio=AUDIO)
    data = open_data(f"audio/hf:{tmp_path}", rate=8000, noise=20.0)
    assert data.split("train")[0]["audio"].std() == 0
    assert data.split("test")[0]["audio"].std().item() == pytest.approx(0.01, rel=0.1)


def test_a_folder_of_files_is_left_to_another_data_set(tmp_path: Path) -> None:
    for i in range(4):
        write_tone(tmp_path / "train" / ("low", "high")[i % 2] / f"{i}.wav", 300, seconds=0.2, rate=8000)
    with pytest.raises(UserError, match="are read by folder:PATH"):
        open_data(f"audio/hf:{tmp_path}")


def test_classes_may_be_called_speech(tmp_path: Path) -> None:
    write(tmp_path, "train", {"audio": [sound(0.1), sound(0.2)], "label": [1, 0]}, audio=AUDIO, label=WORD)
    samples = open_data(f"audio/hf:{tmp_path}", test=0, speech=("yes",)).split("train")
    assert [bool(samples[i]["speech"]) for i in range(2)] == [True, False]


def test_names_are_classes_and_columns_may_be_chosen(tmp_path: Path) -> None:
    rows = {
        "a": [sound(0.1), sound(0.2)],
        "b": [sound(0.5), sound(0.6)],
        "label": ["y", "x"],
        "other": [7, 7],
    }
    kinds = {"a": AUDIO, "b": AUDIO, "label": datasets.Value("string"), "other": datasets.Value("int64")}
    write(tmp_path, "train", rows, **kinds)
    with pytest.raises(UserError, match="2 columns of audio; choose one .*a, b"):
        open_data(f"audio/hf:{tmp_path}")
    data = open_data(f"audio/hf:{tmp_path}", audio="b", test=0)
    assert data.classes == ["x", "y"] and data.labels("train").tolist() == [1, 0]  # type: ignore[union-attr]
    assert levels(data, "train") == [0.5, 0.6]
    assert open_data(f"audio/hf:{tmp_path}", audio="b", label="other", test=0).classes == ["7"]
    assert open_data(f"audio/hf:{tmp_path}", audio="b", label="none", test=0).classes is None
    with pytest.raises(UserError, match="no column 'c'; it has a, b"):
        open_data(f"audio/hf:{tmp_path}", audio="c")


def test_rows_without_sound_are_left_out_and_named(tmp_path: Path) -> None:
    broken = {"bytes": b"RIFFnothing", "path": None}
    rows = {"audio": [sound(0.1), broken, sound(0.0), None, sound(0.3)], "label": [0, 1, 1, 1, 1]}
    write(tmp_path, "train", rows, audio=AUDIO, label=WORD)
    data = open_data(f"audio/hf:{tmp_path}", test=0)
    assert levels(data, "train") == [0.1, 0.3] and data.labels("train").tolist() == [0, 1]  # type: ignore[union-attr]
    assert [name.rsplit(" ", 1)[1] for name, _ in data.skipped] == ["1", "2", "3"]
    assert "silent" in data.skipped[1][1] and "no audio in this row" in data.skipped[2][1]


def test_what_cannot_be_had_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hf: cannot load 'nobody/nothing' \(no folder of that name here\)"):
        open_data("audio/hf:nobody/nothing")
    write(tmp_path, "train", {"text": ["a"]}, text=datasets.Value("string"))
    with pytest.raises(UserError, match=r"0 columns of audio.*text"):
        open_data(f"audio/hf:{tmp_path}")
