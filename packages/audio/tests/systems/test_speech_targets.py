"""The recipe: what each iteration predicts, and that it goes on where it was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from polymask import UserError
from polymask.codebooks import load
from polymask.data import open_data
from polymask.recipes import Stage, run_recipe
from polymask.run import Run
from polymask_audio import fitting
from polymask_audio.systems.speech_targets import speech_targets


class Recorder:
    """A stage that trains nothing: its runs are encoders of four blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shared = folder, {"seed": 3}
        self.data = open_data("words", limit=12)
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, name: str, system: str, **options: Any) -> Any:
        self.asked.append((name, system, options))
        return SimpleNamespace(system=SimpleNamespace(encoder=SimpleNamespace(depth=4)))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Layers of runs are cepstra here, so that nothing has to be trained."""
    real = fitting.open_features

    def features(name: str, rate: int, layers: tuple[int | None, ...]) -> Any:
        if not name.startswith("run:"):
            return real(name, rate, layers)
        found = real("mfcc", rate)
        extract = found.extract

        def several(audio: torch.Tensor, length: torch.Tensor | None) -> Any:
            (x,), counts = extract(audio, length)
            return [x] * len(layers), counts

        found.extract = several  # type: ignore[method-assign]
        return found

    monkeypatch.setattr(fitting, "open_features", features)
    return Recorder(tmp_path)


def units(stage: Recorder, turn: int) -> Any:
    name = stage.asked[turn - 1][2]["target"]["file"]
    return load(stage.folder / name.removeprefix("{run}/../"))


def test_first_cepstra_then_the_middle_layer(stage: Recorder) -> None:
    speech_targets(stage, rounds=2, initial_codes=5, codes=7)  # type: ignore[arg-type]
    assert [name for name, *_ in stage.asked] == ["iteration-1", "iteration-2"]
    first, second = units(stage, 1), units(stage, 2)
    assert (first.features, first.layers, first.books[0].centers.shape) == ("mfcc", (None,), (1, 5, 39))
    assert second.features == f"run:{stage.folder / 'iteration-1'}"
    assert (second.layers, second.books[0].codes) == ((2,), 7)


def test_layers_and_stages_are_as_asked(stage: Recorder) -> None:
    speech_targets(stage, initial="mel", initial_codes=4, layers=(1, 3), codes=5, stages=2, steps=9)  # type: ignore[arg-type]
    second = units(stage, 2)
    assert units(stage, 1).features == "mel"
    assert second.layers == (1, 3)
    assert [tuple(book.centers.shape) for book in second.books] == [(2, 5, 39)] * 2
    assert all(options["steps"] == 9 for *_, options in stage.asked)


def test_codebooks_that_are_there_are_kept(stage: Recorder) -> None:
    speech_targets(stage, rounds=1, initial_codes=4)  # type: ignore[arg-type]
    before = (stage.folder / "units-1.safetensors").stat().st_mtime_ns
    speech_targets(stage, rounds=1, initial_codes=4)  # type: ignore[arg-type]
    assert (stage.folder / "units-1.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="1 round"):
        speech_targets(stage, rounds=0)  # type: ignore[arg-type]


def test_two_tiny_rounds_train(tmp_path: Path) -> None:
    data = {"name": "words", "limit": 12, "seconds": 0.3}
    stage = Stage(tmp_path, data, {"accelerator": "cpu", "workers": 0}, progress=False)
    options = {"initial_codes": 4, "layers": (1, 2), "codes": 4, "stages": 2, "steps": 2, "preset": "tiny"}
    speech_targets(stage, **options)  # type: ignore[arg-type]
    second: Any = stage.done[1].system
    assert second.streams == 4
    assert second.target.features.layers == [1, 2]
    assert stage.done[1].step == 2


def test_a_folder_that_is_moved_is_whole(tmp_path: Path) -> None:
    """Codebooks, and the encoders they are of, are found from the run; the recipe goes on."""
    data = {"name": "words", "limit": 12, "seconds": 0.3}
    shared = {"accelerator": "cpu", "workers": 0}
    options = {"initial_codes": 4, "codes": 4, "steps": 2, "preset": "tiny"}
    run_recipe(
        "audio/speech-targets", data, tmp_path / "here", options=options, shared=shared, progress=False
    )
    shutil.move(tmp_path / "here", tmp_path / "there")
    second: Any = Run.open(tmp_path / "there" / "iteration-2").system
    first: Any = Run.open(tmp_path / "there" / "iteration-1").system
    taught = second.target.features.encoder.module.state_dict()
    assert all(torch.equal(taught[name], value) for name, value in first.encoder.state_dict().items())
    assert str(tmp_path) not in (tmp_path / "there" / "iteration-2" / "config.yaml").read_text()
    again = run_recipe(
        "audio/speech-targets", data, tmp_path / "there", options=options, shared=shared, progress=False
    )
    assert [run.step for run in again.done] == [2, 2]
