"""A run that names another one: found from any working directory, and where both are moved together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from polymask import Run, RunConfig, UserError
from polymask.files import read_yaml
from polymask.training import fit

DATA: dict[str, Any] = {"data": {"name": "vision/digits", "limit": 32}, "preset": "tiny", "steps": 2}


def trained(folder: Path, **options: Any) -> Run:
    run = Run.create(RunConfig.resolve({**DATA, **options}), folder)
    fit(run, progress=False)
    return run


def test_a_relative_path_of_a_run_is_kept_as_seen_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(Path("runs/teacher"), system="vision/mae")
    options = {"system": "vision/mae", "target": {"name": "vision/teacher", "run": "runs/teacher"}}
    options["init"] = "runs/teacher"
    run = trained(Path("runs/student"), **options)
    saved = read_yaml(tmp_path / "runs" / "student" / "config.yaml")
    assert saved["target"]["run"] == saved["init"] == "{run}/../teacher"
    weights = run.system.state_dict()
    # the same command goes on with it, and another working directory finds it
    config = RunConfig.resolve({**DATA, **options, "steps": 2})
    fit(Run.create(config, "runs/student"), resume=True, progress=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder in (Path("../runs/student"), tmp_path / "runs" / "student"):
        again = Run.open(folder)
        assert all(torch.equal(again.system.state_dict()[name], value) for name, value in weights.items())
        assert again.untrained() is not None
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    Run.open(tmp_path / "moved" / "student")
    shutil.move(tmp_path / "moved" / "teacher", tmp_path / "gone")
    with pytest.raises(UserError, match=r"student cannot be built again: .*moved/teacher"):
        Run.open(tmp_path / "moved" / "student")


def test_absolute_paths_and_names_that_are_no_paths_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random:8").mkdir()
    for given in (str(trained(tmp_path / "teacher", system="vision/mae").folder), "nowhere/at/all"):
        config = RunConfig.resolve({**DATA, "system": "vision/mae", "init": given}).beside("runs/a")
        assert config.training.init == given
    codes = RunConfig.resolve(
        {**DATA, "system": "vision/mae", "target": {"name": "vision/codes", "file": "random:8"}}
    )
    assert codes.beside("runs/a").system.options["target"].options["file"] == "random:8"
