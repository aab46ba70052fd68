"""A run killed at any moment goes on to the very weights and rows of the run that was not."""

from __future__ import annotations

import random
import signal

import pytest
import torch

from polymask.checkpoints import read_checkpoint
from polymask.training import read_metrics

# 50 samples in batches of 16: the twelve steps go almost four times round the data
HARD = {"steps": 12, "accumulate": 2, "checkpoint_every": 5, "log_every": 3, "workers": 2}
TIMED = ("seconds", "samples_per_second", "data_wait")


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    return toy.train(folder, **HARD), rows(folder)


def rows(folder):
    return [
        {key: value for key, value in row.items() if key not in TIMED}
        for row in read_metrics(folder / "metrics.csv")
    ]


def same(toy, system, folder, whole):
    expected, expected_rows = whole
    for name, value in expected.state_dict().items():
        assert torch.equal(system.state_dict()[name], value), name
    assert rows(folder) == expected_rows
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(saved[f"system.{n}"], v) for n, v in expected.state_dict().items())


# 24 parts in all: before, at and after checkpoints, within and between steps
@pytest.mark.slow
@pytest.mark.parametrize("parts", sorted({1, 10, 23, *random.Random(0).sample(range(2, 23), 2)}))
def test_killed_after_any_part(toy, launch, tmp_path, whole, parts):
    assert launch(tmp_path, kill={"parts": parts}, **HARD) == [-signal.SIGKILL]
    same(toy, toy.train(tmp_path, resume=True, **HARD), tmp_path, whole)


def test_killed_twice_and_resumed_elsewhere(toy, launch, tmp_path, whole):
    assert launch(tmp_path, kill={"parts": 13}, **HARD) == [-signal.SIGKILL]
    assert launch(tmp_path, kill={"parts": 12}, resume=True, **HARD) == [-signal.SIGKILL]
    assert launch(tmp_path, resume=True, **{**HARD, "workers": 0}) == [0]
    same(toy, toy.train(tmp_path, resume=True, **HARD), tmp_path, whole)


def test_killed_while_a_checkpoint_is_written(toy, launch, tmp_path, whole):
    """The new one lies there whole but not in place; the one of step 5 counts."""
    assert launch(tmp_path, kill={"parts": 19, "writing": True}, **HARD) == [-signal.SIGKILL]
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 5
    assert len([*(tmp_path / "checkpoints").glob(".last.ckpt.*.partial")]) == 1
    same(toy, toy.train(tmp_path, resume=True, **HARD), tmp_path, whole)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_another_seed_is_another_run(toy, tmp_path, whole):
    """What the other tests compare does depend on what they say is restored."""
    other = toy.train(tmp_path, **{**HARD, "seed": 1})
    assert not torch.equal(other.head.weight, whole[0].head.weight)
