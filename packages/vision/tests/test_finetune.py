"""Fine-tuning trains what it says it trains, from where it says, and goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from polymask import Run, RunConfig, UserError
from polymask.cli import main
from polymask.data import as_dataset
from polymask.evaluation import evaluate_run
from polymask.evaluation.finetuning import Finetuned, classified, finetune
from polymask.evaluation.finetuning import runs as driver
from polymask.export import export
from polymask.files import LOCK, PARTIAL, locked
from polymask.report import write_report
from polymask.report.finetuned import write_page
from polymask.training import fit

QUICK = {"workers": 0, "accelerator": "cpu", "precision": "32"}
FEW = {"steps": 4, "warmup_steps": 1, "batch_size": 16, **QUICK}
SHARES = (0.1, 1.0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MAE of two blocks."""
    folder = tmp_path_factory.mktemp("runs") / "mae"
    config = RunConfig.resolve(
        {
            "system": "vision/mae",
            "preset": "tiny",
            "data": "vision/digits",
            "data.limit": 200,
            "tokenizer.patch_size": 2,
            "encoder.drop_path": 0.2,
            **QUICK,
            "steps": 3,
        }
    )
    fit(Run.create(config, folder), progress=False)
    return folder


@pytest.fixture(scope="module")
def found(pretrained: Path) -> Finetuned:
    return finetune(pretrained, labels=SHARES, seeds=2, options=FEW, progress=False)


def folder(pretrained: Path, start: str, share: float = 1.0, seed: int = 0) -> Path:
    return pretrained / "finetune-digits" / f"{start}-{share:g}-seed{seed}"


def encoder(system: Any) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = system.encoder.state_dict()
    return state


def test_one_begins_with_the_encoder_of_the_run_and_the_other_does_not(
    pretrained: Path, found: Finetuned
) -> None:
    theirs = encoder(Run.open(pretrained).system)
    for start, same in (("pre-trained", True), ("from-scratch", False)):
        began = encoder(Run.open(folder(pretrained, start)).untrained())
        assert all(torch.equal(began[name], theirs[name]) for name in theirs) is same


def test_both_have_the_same_recipe_budget_and_data_but_for_layer_decay(
    pretrained: Path, found: Finetuned
) -> None:
    one, other = (
        RunConfig.load(folder(pretrained, start, 0.1, 1)).plain() for start in ("pre-trained", "from-scratch")
    )
    assert {name for name in one if one[name] != other[name]} == {"init", "layer_decay"}
    assert (one["layer_decay"], other["layer_decay"]) == (0.75, 1.0)
    assert one["data"]["share"] == 0.1 and one["data"]["seed"] == one["seed"] == 1
    assert one["encoder"]["drop_path"] == 0.0  # is the recipe's to say


def test_attentive_probing_trains_the_head_alone(pretrained: Path, tmp_path: Path) -> None:
    few = {name: value for name, value in FEW.items() if name != "warmup_steps"}
    options = {**few, "preset": "attentive"}
    finetune(pretrained, tmp_path / "probe", seeds=1, options=options, progress=False)
    theirs = encoder(Run.open(pretrained).system)
    for start, same in (("pre-trained", True), ("from-scratch", False)):
        run = Run.open(tmp_path / "probe" / f"{start}-1-seed0")
        one, began = encoder(run.system), encoder(run.untrained())
        assert all(torch.equal(one[name], began[name]) for name in one)
        assert all(torch.equal(one[name], theirs[name]) for name in one) is same
        head: Any = run.system
        assert not torch.equal(head.pooler.query, run.untrained().pooler.query)  # type: ignore[union-attr]


def test_labels_are_counted_and_answers_are_those_of_the_runs(pretrained: Path, found: Finetuned) -> None:
    run = Run.open(folder(pretrained, "pre-trained", 0.1, 1))
    labels = run.data.labels("train")
    assert labels is not None and found.labels == [len(labels), 200] and len(labels.unique()) == 10
    assert found.right["pre-trained"][0][1] == classified(run)
    test, truth = run.data.split("test"), run.data.labels("test")
    assert truth is not None
    images = torch.stack([test[i]["image"] for i in range(len(test))])
    system: Any = run.system
    with torch.no_grad():
        right = system.classify({"image": images}).argmax(1) == truth
    assert classified(run) == "".join(map(str, right.int().tolist()))


def test_more_seeds_are_added_and_what_is_there_is_used(pretrained: Path, found: Finetuned) -> None:
    known = folder(pretrained, "pre-trained", 0.1, 1) / "checkpoints" / "last.ckpt"
    before = known.stat().st_mtime_ns
    more = finetune(pretrained, labels=SHARES[:1], seeds=3, options=FEW, progress=False)
    assert known.stat().st_mtime_ns == before and len(more.seeds) == 3
    assert list(more.right["pre-trained"][0][:2]) == list(found.right["pre-trained"][0])


@pytest.mark.parametrize("start", ["pre-trained", "from-scratch"])
@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    pretrained: Path, found: Finetuned, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def stopping(run: Run, **options: Any) -> Any:
        if start not in run.folder.name or (run.folder / "checkpoints").exists():
            return fit(run, **options)
        system, calls = run.system, []

        def forward(*args: Any) -> Any:
            calls.append(1)
            if len(calls) > 2:
                raise Stopped
            return type(system).forward(system, *args)

        monkeypatch.setattr(system, "forward", forward)
        return fit(run, **options)

    options = {**FEW, "mixup": 0.8, "cutmix": 1.0, "ema": 0.9, "pool": "attention", "encoder.drop_path": 0.1}
    again = {"seeds": 1, "options": options, "progress": False}
    finetune(pretrained, tmp_path / "whole", **again)
    monkeypatch.setattr(driver, "fit", stopping)
    with pytest.raises(Stopped):
        finetune(pretrained, tmp_path / "halves", **again)
    finetune(pretrained, tmp_path / "halves", **again)
    one, other = (
        Run.open(tmp_path / name / f"{start}-1-seed0").system.state_dict() for name in ("whole", "halves")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_export_is_fine_tuned_with_data_prepared_as_it_knows_it(pretrained: Path, tmp_path: Path) -> None:
    out = export(pretrained, "safetensors", tmp_path / "encoder")
    with pytest.raises(UserError, match="which data"):
        finetune(out, options=FEW, progress=False)
    options = {**FEW, "data": "vision/digits", "data.limit": 100}
    one = finetune(out, tmp_path / "tuned", seeds=1, scratch=False, options=options, progress=False)
    assert list(one.right) == ["pre-trained"] and one.labels == [100]
    facts = Run.open(tmp_path / "tuned" / "pre-trained-1-seed0").facts
    assert facts["mean"] == Run.open(pretrained).facts["mean"]


def test_data_of_ones_own_is_taken(pretrained: Path, tmp_path: Path) -> None:
    digits = Run.open(pretrained).data
    labels = digits.labels("train")
    assert labels is not None
    samples = [(digits.split("train")[i]["image"], int(labels[i])) for i in range(60)]
    own = as_dataset(samples)
    one = finetune(
        pretrained, tmp_path / "own", labels=(0.5,), seeds=1, data=own, options=FEW, progress=False
    )
    own_labels = own.labels("train")
    assert own_labels is not None and one.labels[0] < len(own_labels)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "other options": ({"options": {**FEW, "steps": 5}}, "holds a fine-tuning whose steps is 4, not 5"),
    "no share": ({"labels": (0.0,), "options": FEW}, r"give different shares of the labels above 0"),
    "the same seeds": ({"seeds": (1, 1), "options": FEW}, "one seed or more, all different"),
    "no such option": ({"options": {**FEW, "mixupp": 1}}, "has no option --mixupp"),
    "another encoder": (
        {"options": {**FEW, "encoder.class_token": False}},
        "holds a fine-tuning whose encoder.class_token is true, not false",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused_before_training(pretrained: Path, found: Finetuned, case: str) -> None:
    given, message = REFUSALS[case]
    before = sorted(path.name for path in folder(pretrained, "x").parent.iterdir())
    with pytest.raises(UserError, match=message):
        finetune(pretrained, **given, progress=False)
    assert sorted(path.name for path in folder(pretrained, "x").parent.iterdir()) == before


def test_an_encoder_of_other_sizes_is_refused_before_training(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the encoder has depth 3, and these weights need --encoder.depth 2"):
        finetune(pretrained, tmp_path / "out", options={**FEW, "encoder.depth": 3}, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [None, "", "- 1\n"])
def test_a_configuration_that_was_lost_is_that_of_the_checkpoint(
    pretrained: Path, tmp_path: Path, text: str | None
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    (run / "config.yaml").unlink()
    if text is not None:
        (run / "config.yaml").write_text(text)
    with (
        pytest.warns(UserWarning, match="it is that of the checkpoint again"),
        pytest.raises(UserError, match="the encoder has depth 3, and these weights need --encoder.depth 2"),
    ):
        finetune(run, tmp_path / "out", options={**FEW, "encoder.depth": 3}, progress=False)


def test_runs_of_two_sources_are_never_one_fine_tuning(pretrained: Path, tmp_path: Path) -> None:
    source = tmp_path / "mae"
    shutil.copytree(pretrained, source, ignore=shutil.ignore_patterns("finetune-*"))
    again = {"scratch": False, "options": FEW, "progress": False}
    finetune(source, seeds=1, **again)
    checkpoint = source / "checkpoints" / "last.ckpt"
    kept = torch.load(checkpoint, weights_only=True)
    moved = {name: 1.01 * x if x.is_floating_point() else x for name, x in kept["state_dict"].items()}
    torch.save({**kept, "state_dict": moved}, checkpoint)
    for seeds in (1, 2):  # nothing is trained, and what is there is not shown as if it were of these weights
        with (
            mock.patch("polymask.evaluation.finetuning.runs.fit", side_effect=AssertionError),
            pytest.raises(UserError, match="began with other weights than"),
        ):
            finetune(source, seeds=seeds, **again)


def test_a_folder_of_something_else_is_refused(pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than a fine-tuning"):
        finetune(pretrained, tmp_path, options=FEW, progress=False)
    with pytest.raises(UserError, match="holds no run and no export"):
        finetune(tmp_path, options=FEW, progress=False)


def test_a_folder_has_one_writer_and_what_a_kill_left_there_is_nothing(
    pretrained: Path, tmp_path: Path
) -> None:
    with locked(tmp_path / "o"), pytest.raises(UserError, match="process"):
        finetune(pretrained, tmp_path / "o", options=FEW, progress=False)
    # of a process that was killed before its first file
    (tmp_path / "o").mkdir()
    for name in (LOCK, f".finetune.json.1{PARTIAL}"):
        (tmp_path / "o" / name).touch()
    found = finetune(pretrained, tmp_path / "o", seeds=1, scratch=False, options=FEW, progress=False)
    assert found.starts == ["pre-trained"]


def test_the_page_and_the_report_of_the_run_show_it(pretrained: Path, found: Finetuned) -> None:
    finetune(pretrained, labels=SHARES, seeds=2, options=FEW, progress=False)
    page = write_page(pretrained / "finetune-digits").read_text()
    for cell in found.rows()[1]:
        assert cell in page
    assert "pre-trained-0.1-seed1" in page and "<svg" in page
    assert found.rows()[1][3] in write_report(pretrained).read_text()


def test_the_model_card_shows_it_on_both_sides(pretrained: Path, found: Finetuned, tmp_path: Path) -> None:
    cell = found.rows()[1][3]
    assert main(["export", str(pretrained), "--out", str(tmp_path / "encoder")]) == 0
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "# Encoder of vision/mae" in card and cell in card and "load(FOLDER)  # a batch to Tokens" in card
    tuned = str(folder(pretrained, "pre-trained", 0.1, 1))
    assert main(["export", tuned, "--out", str(tmp_path / "tuned")]) == 0
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "# Classifier of vision/supervised" in card and cell in card and "classify(batch)" in card
    assert "Trained with polymask for 4 steps" in card and "pre-trained |" in card
    assert main(["export", tuned, "--no-head", "--out", str(tmp_path / "bare")]) == 0
    assert "# Encoder of vision/supervised" in (tmp_path / "bare" / "README.md").read_text()


def test_it_is_an_evaluation(pretrained: Path) -> None:
    asked = {"name": "core/finetune", "labels": [0.5], "steps": 3}
    one = evaluate_run(pretrained, asked)
    assert one.metrics == ["accuracy with 50 % of the labels"] and one.rows == ["pre-trained", "untrained"]
    score = one.score("pre-trained", one.metrics[0])
    kept = json.loads((pretrained / "finetune-finetune-3" / "finetune.json").read_text())
    assert score is not None and kept["results"][0]["pre-trained"]["mean"] == score.value
    other = Run.open(pretrained)
    other.training = dataclasses.replace(other.training, seed=5)
    with (
        mock.patch(
            "polymask.evaluation.finetuning.measure.finetune", side_effect=UserError("stop")
        ) as called,
        pytest.raises(UserError, match="stop"),
    ):
        evaluate_run(other, {**asked, "seeds": 2})
    assert list(called.call_args.kwargs["seeds"]) == [5, 6]


def test_the_command_line_prints_a_table_or_json(
    pretrained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # so that no cell is folded
    few = [f"--{name}={value}" for name, value in FEW.items()]
    command = [
        "finetune",
        str(pretrained),
        "--labels",
        "0.2,1",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "o"),
        *few,
    ]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "one seed cannot tell" in printed.out and "finetune.html" in printed.out
    assert "run 1 of 4: from scratch, 20 % of the labels, seed 0\n" in printed.err
    assert "left in all" in printed.err
    assert main([*command, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["share"] for row in again["results"]] == [0.2, 1.0]
    assert main(["finetune", str(pretrained), "--labels", "2"]) == 2
    assert "--labels takes" in capsys.readouterr().err
    assert main(["finetune", str(pretrained), "--help"]) == 0
    assert "--layer_decay" in capsys.readouterr().out
