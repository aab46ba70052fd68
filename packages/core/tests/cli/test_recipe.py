"""``polymask recipe``: stages, each a run, and going on where it was stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import torch

from polymask import UserError
from polymask.files import locked
from polymask.recipes import Stage, divided
from polymask.run import Run

# what the toy preset asks of the data and the data lacks is said in yellow, not raised
pytestmark = pytest.mark.filterwarnings("ignore:toy/shapes has no unheard_of")
WORDS = ("recipe", "twice", "--data", "toy/shapes", "--out", "r")


def test_every_stage_is_a_run_of_its_own(polymask, tmp_path):
    result = polymask(*WORDS, "--steps", "3", "--second_masking", "core/block", "--seed", "5")
    assert result.status == 0, result.err
    first, second = (Run.open(tmp_path / "r" / name) for name in ("first", "second"))
    assert (first.step, second.step) == (3, 3)
    assert (first.training.seed, second.training.seed) == (5, 5)
    assert type(second.system.masking).__name__ == "Block" and second.system.gain == 2.0
    assert "stage first" in result.out and (tmp_path / "r" / "second" / "report.html").exists()


def test_runs_and_probes_in_json(polymask, tmp_path):
    result = polymask(*WORDS, "--steps", "1", "--json")
    assert result.status == 0, result.err
    stages = json.loads(result.out)
    assert [stage["run"] for stage in stages] == ["r/first", "r/second"]
    for stage in stages:
        assert (tmp_path / stage["report"]).exists()
        probe = tmp_path / stage["run"] / "probe.json"
        assert stage["probe"] == (json.loads(probe.read_text()) if probe.exists() else None)


def test_reports_are_there_though_nobody_reads_what_is_printed(polymask, tmp_path, unread):
    unread("gone")
    result = polymask(*WORDS, "--steps", "3")
    assert result.status == 0, result.err
    assert all((tmp_path / "r" / name / "report.html").exists() for name in ("first", "second"))


@pytest.mark.slow
def test_the_same_command_goes_on(polymask, tmp_path):
    assert polymask(*WORDS).status == 0
    checkpoint = tmp_path / "r" / "first" / "checkpoints" / "last.ckpt"
    before, weights = checkpoint.stat().st_mtime_ns, (tmp_path / "r" / "found.txt").read_text()
    for path in sorted((tmp_path / "r" / "second").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "r" / "second").rmdir()
    assert polymask(*WORDS).status == 0
    assert checkpoint.stat().st_mtime_ns == before
    assert (tmp_path / "r" / "found.txt").read_text() == weights
    assert Run.open(tmp_path / "r" / "second").step == 2


KILLED = """
import importlib.util, os, sys
from pathlib import Path
from polymask import default_registry
from polymask.cli import main

spec = importlib.util.spec_from_file_location("polymask_cli_toy", sys.argv[1])
toy = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)
default_registry().add("toy", toy)
forward = toy.Mean.forward

def killed(self, batch, step):
    if Path("r/second/config.yaml").exists() and step.index == 3:
        os.kill(os.getpid(), int(sys.argv[2]))
    return forward(self, batch, step)

toy.Mean.forward = killed
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_killed_in_its_second_stage_it_ends_as_if_it_had_not_been(polymask, toy, tmp_path, number, status):
    assert polymask(*WORDS[:-1], "whole", "--steps", "5").status == 0
    command = [sys.executable, "-c", KILLED, toy.__file__, str(int(number)), *WORDS, "--steps", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    if number == signal.SIGTERM:
        assert Run.open(tmp_path / "r" / "second").step == 4
    first = tmp_path / "r" / "first" / "checkpoints" / "last.ckpt"
    before = first.stat().st_mtime_ns
    done = polymask(*WORDS, "--steps", "5")
    assert done.status == 0 and first.stat().st_mtime_ns == before, done.err
    for stage in ("first", "second"):
        one, other = (Run.open(tmp_path / folder / stage).system.state_dict() for folder in ("r", "whole"))
        assert all(torch.equal(x, other[name]) for name, x in one.items())
    assert (tmp_path / "r" / "found.txt").read_text() == (tmp_path / "whole" / "found.txt").read_text()


@pytest.mark.slow
def test_another_recipe_does_not_go_into_the_same_folder(polymask, tmp_path):
    assert polymask(*WORDS).status == 0
    result = polymask(*WORDS, "--steps", "4")
    assert result.status == 2 and "holds a recipe whose options" in result.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("mine")
    result = polymask(*WORDS[:-1], "full")
    assert result.status == 2 and "holds something else than a recipe" in result.err


@pytest.mark.slow
def test_a_recipe_killed_before_its_first_file_begins_anew_and_has_one_process(polymask, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".recipe.json.123.partial").write_text("{")
    with locked(tmp_path / "r"):
        result = polymask(*WORDS)
    assert result.status == 2 and "in use by process" in result.err
    assert polymask(*WORDS).status == 0


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".."])
def test_a_stage_stays_in_the_folder_of_its_recipe(tmp_path, name):
    with pytest.raises(UserError, match="a stage is called"):
        Stage(tmp_path / "r", "toy/shapes", progress=False)(name, "toy/mean")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_damaged_plan_is_named(polymask, tmp_path, text):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "recipe.json").write_text(text)
    result = polymask(*WORDS)
    assert result.status == 2 and "recipe.json is damaged" in result.err and "another --out" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe"], "which recipe?"),
        (["recipe", "thrice"], "no recipe is called 'thrice'"),
        (["recipe", "twice"], "which data?"),
        (["recipe", "twice", "--data", "toy/shapes", "--step", "3"], "did you mean --steps"),
        (["recipe", "twice", "--data", "toy/shapes", "--batch_size", "3"], "has no option --batch_size"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(polymask, tmp_path, words, message):
    result = polymask(*words)
    assert result.status == 2 and message in result.err
    assert not (tmp_path / "runs").exists()


def test_help_names_the_options_of_the_recipe(polymask):
    assert "toy/twice" in polymask("recipe", "--help").out
    text = polymask("recipe", "twice", "--help").out
    assert "--steps" in text and "--second_masking" in text and "--seed" in text and "--stage" not in text


def test_a_recipe_passes_its_conformance_checks(polymask):
    result = polymask("check", "toy/twice")
    assert result.status == 0, result.out
    listed = json.loads(polymask("list", "recipes", "--json").out)
    assert "toy/twice" in [part["name"] for part in listed]


@pytest.mark.parametrize(
    ("steps", "share", "both"),
    [(12, 1 / 6, (2, 10)), (10, 1.0, (9, 1)), (10, 0.0, (1, 9)), (2, 0.5, (1, 1)), (1, 0.4, (1, 1))],
)
def test_each_of_two_stages_has_a_step_or_more(steps, share, both):
    assert divided(steps, share) == both
