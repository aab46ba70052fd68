"""Data is opened once, however many systems are trained, probed and reported on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from polymask import Run

TRAIN = ("--data", "toy/shapes", "--workers", "0")


@pytest.fixture
def opened(polymask, toy, monkeypatch):
    """How often a command opens the data; it must succeed."""

    def count(*argv):
        monkeypatch.setattr(toy.Shapes, "opened", 0)
        done = polymask(*argv)
        assert done.status == 0, done.err
        return toy.Shapes.opened

    return count


def test_by_pretrain_with_probe_and_report(opened):
    assert opened("pretrain", "toy/mean", "--preset", "small", *TRAIN, "--out", "run") == 1
    assert Path("run/probe.json").exists() and Path("run/report.html").exists()
    assert opened("pretrain", "--resume", "run") == 1


def test_by_what_opens_a_run(opened):
    opened("pretrain", "toy/mean", "--preset", "small", *TRAIN, "--out", "run", "--no-report")
    for argv in (["probe", "run"], ["report", "run"], ["evaluate", "run", "brightness"]):
        assert opened(*argv) == 1, argv
    assert opened("export", "run") == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*have collapsed:UserWarning")
def test_by_a_comparison(opened):
    """Of two variants with two seeds each, begun, gone on with and repeated."""
    argv = ["compare", "toy/mean", *TRAIN, "--steps", "2", "--batch_size", "8", "--out", "c"]
    argv += ["--masking.ratio", "0.25,0.75"]
    assert opened(*argv, "--seeds", "2") == 1
    assert len(list(Path("c").glob("*/probe.json"))) == 4
    Path("c/0.25-seed1/probe.json").unlink()
    assert opened(*argv, "--seeds", "3") == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*have collapsed:UserWarning")
def test_once_by_all_stages_of_a_recipe_that_ask_for_the_same(opened):
    assert opened("recipe", "twice", "--data", "toy/shapes", "--out", "r") == 1
    assert Path("r/second/report.html").exists()


def test_by_a_run_and_its_untrained_system(opened, toy):
    opened("pretrain", "toy/mean", "--preset", "small", *TRAIN, "--out", "run", "--no-report")
    toy.Shapes.opened = 0
    run = Run.open("run")
    run.untrained()
    assert toy.Shapes.opened == 0
    assert run.data is run.data and toy.Shapes.opened == 1
