"""``kill -9`` at any moment, then resume: bit for bit the run that was never stopped.

On images, with augmentation, dropped paths, two workers and two parts to a step.
"""

from __future__ import annotations

import random
import runpy
import time
from pathlib import Path

import pytest
import torch

from polymask import Run, RunConfig, System
from polymask.training import fit, read_metrics

train = runpy.run_path(str(Path(__file__).with_name("train.py")))

CONFIG = {
    **train["SMALL"],
    "system": "vision/mae",
    "decoder_dim": 16,
    "decoder_depth": 2,
    "decoder_heads": 2,
    "steps": 30,
    "accumulate": 2,
    "checkpoint_every": 4,
    "log_every": 3,
    "workers": 2,
}
CONFIG["encoder"] = {**CONFIG["encoder"], "drop_path": 0.3}
CONFIG["data"] = {**CONFIG["data"], "augment": "crop-flip"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder: Path, resume: bool = False) -> System:
    config = RunConfig.load(folder) if resume else RunConfig.resolve(CONFIG)
    made = Run.create(config, folder)
    fit(made, resume=resume, progress=False)
    return made.system


def rows(folder: Path) -> list[dict[str, float]]:
    found = read_metrics(folder / "metrics.csv")
    timed = ("seconds", "samples_per_second", "data_wait")
    return [{k: v for k, v in row.items() if k not in timed} for row in found]


def test_killed_from_outside_and_resumed(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    killed, metrics = tmp_path / "killed", tmp_path / "killed" / "metrics.csv"
    chance = random.Random(0)
    stopped = []
    for rows_seen in (2, 6):  # a row is three steps; then any moment within the next ones
        with train["started"](killed, CONFIG, resume=bool(stopped)) as (process,):
            while len(read_metrics(metrics)) < rows_seen and process.is_alive():
                time.sleep(0.002)
            time.sleep(chance.random() / 50)
            process.kill()
            process.join()
        stopped.append(Run.open(killed).step)
    assert 0 < stopped[0] < stopped[1] < 30
    resumed = run(killed, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert rows(killed) == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(killed)] == list(range(3, 31, 3))


def test_what_a_run_folder_builds(tmp_path: Path) -> None:
    """The weights that training ended with, and those that it began with."""
    config = RunConfig.resolve({**CONFIG, "steps": 2, "workers": 0})
    made = Run.create(config, tmp_path / "run")
    start = {name: value.clone() for name, value in made.system.state_dict().items()}
    fit(made, progress=False)
    trained, untrained = Run.open(made.folder), Run.open(made.folder, trained=False)
    assert (trained.step, untrained.step) == (2, 0)
    for name, value in start.items():
        assert torch.equal(untrained.system.state_dict()[name], value), name
        assert torch.equal(made.untrained().state_dict()[name], value), name
        assert torch.equal(trained.system.state_dict()[name], made.system.state_dict()[name]), name
    assert not torch.equal(trained.system.decoder.head.weight, start["decoder.head.weight"])
