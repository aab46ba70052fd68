from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

RUN = ("pretrain", "toy/mean", "--preset", "small", "--data", "shapes", "--workers", "0")
BARE = (*RUN, "--no-report", "--data.labelled", "false")


def config_of(folder="runs/mean-shapes-1"):
    return yaml.safe_load(Path(folder, "config.yaml").read_text())


def weights(folder):
    state = torch.load(Path(folder, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and one
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_ends_in_a_probe_table_and_a_report(polymask):
    done = polymask(*RUN)
    assert done.status == 0, done.err
    folder = Path("runs/mean-shapes-1")
    assert str(folder) in done.out and str(folder / "report.html") in done.out
    for row in ("pre-trained", "untrained", "raw input"):
        assert row in done.out
    assert json.loads((folder / "probe.json").read_text())["settings"]["step"] == 4


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("gone", 0, ""),
        ("full", 2, "error: what is printed cannot be written to standard output: No space left"),
    ],
)
def test_a_report_is_there_though_nobody_reads_what_is_printed(polymask, unread, what, status, said):
    unread(what)
    done = polymask(*RUN)
    assert (done.status, "error" in done.err) == (status, status == 2) and said in done.err
    assert Path("runs/mean-shapes-1/probe.json").exists() and Path("runs/mean-shapes-1/report.html").exists()


def test_data_without_labels_is_not_probed(polymask):
    done = polymask(*BARE)
    assert done.status == 0, done.err
    assert "no labels" in done.out
    assert not Path("runs/mean-shapes-1/probe.json").exists()
    assert not Path("runs/mean-shapes-1/report.html").exists()


def test_default_folders_are_numbered(polymask):
    assert polymask(*BARE).status == polymask(*BARE).status == 0
    assert sorted(p.name for p in Path("runs").iterdir()) == ["mean-shapes-1", "mean-shapes-2"]


def test_a_default_folder_is_reserved_and_given_back_where_nothing_was_trained(polymask):
    refused = polymask(*BARE, "--data", "toy/shapes:nothing")
    assert refused.status == 2 and not list(Path("runs").iterdir())
    Path("runs/mean-shapes-1").mkdir()  # of a process that has just begun
    assert polymask(*BARE).status == 0 and Path("runs/mean-shapes-2/config.yaml").exists()


def test_later_layers_count_more(polymask):
    """Constructor < declared defaults < preset < --config < command line, one option each."""
    Path("more.yaml").write_text("encoder: {act: tanh}\nmasking.ratio: 0.25\nsteps: 3\n")
    done = polymask(*BARE, "--config", "more.yaml", "--steps", "2", "--warmup_steps", "0")
    assert done.status == 0, done.err
    config = config_of()
    assert config["gain"] == 1.0  # constructor
    assert config["target"]["scale"] == 2.0  # declared default over the constructor's 1.0
    assert config["encoder"]["dim"] == 8  # preset over the constructor's 4
    assert (config["encoder"]["act"], config["masking"]["ratio"]) == ("tanh", 0.25)  # file over preset
    assert config["steps"] == 2  # command line over file
    assert config["preset"] == "small" and config["system"] == "toy/mean"


def test_facts_stay_out_of_the_configuration_unless_set(polymask):
    assert polymask(*BARE).status == 0
    config = config_of()
    assert "size" not in config["tokenizer"] and "in_dim" not in config["encoder"]
    assert "in_dim" not in config["target"]
    assert config["tokenizer"] == {"name": "toy/cells", "patch": 1}
    assert polymask(*BARE, "--tokenizer.size", "[4, 4]").status == 0
    assert config_of("runs/mean-shapes-2")["tokenizer"]["size"] == [4, 4]


def test_a_configuration_alone_reproduces_its_run(polymask):
    assert polymask(*BARE, "--masking.ratio", "0.3", "--seed", "7").status == 0
    done = polymask("pretrain", "--config", "runs/mean-shapes-1/config.yaml", "--no-report", "--out", "again")
    assert done.status == 0, done.err
    assert config_of("again") == config_of()
    assert_same_weights("again", "runs/mean-shapes-1")


def test_steps_above_take_back_epochs_below(polymask):
    Path("more.yaml").write_text("epochs: 1\nwarmup_epochs: 0.1\n")
    done = polymask(*BARE, "--config", "more.yaml", "--warmup_steps", "0")
    assert done.status == 0, done.err
    config = config_of()
    assert (config["steps"], config["epochs"]) == (None, 1)
    assert (config["warmup_steps"], config["warmup_epochs"]) == (0, None)


def test_slots_by_either_spelling_and_nested(polymask):
    assert polymask(*BARE, "--masking", "scheduled", "--masking.masking", "core/span").status == 0
    named = ("--masking.name", "core/scheduled", "--masking.masking.name", "core/span")
    assert polymask(*BARE, *named, "--masking.masking.ratio=0.3").status == 0
    one, two = config_of(), config_of("runs/mean-shapes-2")
    assert one["masking"]["name"] == two["masking"]["name"] == "core/scheduled"
    assert one["masking"]["masking"]["name"] == "core/span"
    assert two["masking"]["masking"]["ratio"] == 0.3


def test_another_part_drops_the_options_of_the_first(polymask):
    done = polymask(*BARE, "--masking", "core/span")
    assert done.status == 0, done.err
    assert config_of()["masking"]["ratio"] == 0.5  # its own default: 0.4 was for core/random


def test_the_same_part_by_its_short_name_keeps_the_options(polymask):
    assert polymask(*BARE, "--masking", "random").status == 0
    assert config_of()["masking"]["ratio"] == 0.4


def test_an_option_without_a_value_is_true(polymask):
    assert polymask(*BARE, "--bias").status == 0
    assert config_of()["bias"] is True


@pytest.mark.parametrize("form", ["dir", "flag"])
def test_resume_ends_where_the_uninterrupted_run_does(polymask, toy, monkeypatch, form):
    assert polymask(*BARE, "--checkpoint_every", "1").status == 0
    forward = toy.Mean.forward

    def interrupted(self, batch, step):
        if step.index == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, batch, step)

    monkeypatch.setattr(toy.Mean, "forward", interrupted)
    stopped = polymask(*BARE, "--checkpoint_every", "1", "--out", "stopped")
    assert stopped.status == 130 and "--resume" in stopped.err
    monkeypatch.setattr(toy.Mean, "forward", forward)
    with pytest.raises(AssertionError):
        assert_same_weights("stopped", "runs/mean-shapes-1")
    if form == "dir":
        done = polymask("pretrain", "--resume", "stopped", "--no-report")
    else:
        done = polymask(*BARE, "--out", "stopped", "--resume")
    assert done.status == 0, done.err
    assert_same_weights("stopped", "runs/mean-shapes-1")


def test_a_process_of_a_group_needs_to_be_told_the_folder(polymask, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = polymask(*BARE)
    assert done.status == 2 and "--out" in done.err
    monkeypatch.setenv("POLYMASK_RUN_FOLDER", "chosen")
    from polymask.cli.verbs.pretrain import default_folder

    assert default_folder({}) == Path("chosen")


def test_the_folder_is_told_to_processes_that_training_starts_and_no_longer(polymask, monkeypatch):
    import polymask.training as training

    seen, fit = [], training.fit

    def watched(*args, **kwargs):
        seen.append(os.environ["POLYMASK_RUN_FOLDER"])
        return fit(*args, **kwargs)

    monkeypatch.setattr(training, "fit", watched)
    assert polymask(*BARE).status == 0
    assert seen == ["runs/mean-shapes-1"] and "POLYMASK_RUN_FOLDER" not in os.environ


def test_a_system_may_differentiate_in_forward(polymask, toy, monkeypatch):
    plain, slopes = toy.Mean.forward, []

    def forward(self, batch, step):
        losses = plain(self, batch, step)
        slopes.append(torch.autograd.grad(losses["mse"], self.head.weight, retain_graph=True))
        return losses

    monkeypatch.setattr(toy.Mean, "forward", forward)
    assert polymask(*BARE).status == 0 and len(slopes) > 1


def test_the_sanity_check_leaves_chance_and_weights_alone(toy):
    from polymask import Run, RunConfig
    from polymask.training.sanity_check import sanity_check

    class Drawing(toy.Mean):
        def forward(self, batch, step):
            torch.rand(3)
            self.train_seen = self.training
            return super().forward(batch, step)

    run = Run.create(RunConfig.resolve({"system": "toy/mean", "data": "shapes"}), "nowhere")
    system = run.system
    system.__class__ = Drawing
    before, state = {k: v.clone() for k, v in system.state_dict().items()}, torch.get_rng_state()
    sanity_check("toy", system, run.data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    assert system.train_seen is False and system.training


class TestHelp:
    def test_of_the_verb(self, polymask):
        shown = polymask("pretrain", "--help")
        assert shown.status == 0
        for text in ("--resume", "--batch_size int", "(default: 256)", "example:", "toy/shapes"):
            assert text in shown.out

    def test_of_a_system_shows_all_its_options_with_types_and_what_they_are_set_to(self, polymask):
        shown = polymask("pretrain", "toy/mean", "--preset", "small", "--data", "shapes", "--help")
        out = " ".join(shown.out.split())
        assert shown.status == 0 and not Path("runs").exists()
        for text in (
            "Nobody 2026",
            "--masking.ratio float share of sites (of cells) to hide, in (0, 1) (default: 0.4)",
            "--target.scale float factor (default: 2.0)",
            "--gain float factor of the loss; in 100 % of cases 1 (default: 1.0)",
            "--encoder.act relu | tanh what follows the layer (default: relu)",
            "--encoder.depths tuple[int, ...] nothing, but a tuple (default: [1, 1])",
            "--data.n int samples per split (default: 24)",
            "--steps int | null optimiser steps; or give epochs (default: 4)",
            "named group of options: small (default: small)",
            "polymask pretrain toy/mean --preset small",
        ):
            assert text in out, text

    def test_follows_the_parts_that_are_chosen(self, polymask):
        shown = polymask("pretrain", "mean", "--masking", "scheduled", "--help").out
        assert "--masking.curve" in shown and "--masking.masking.ratio" in shown
        assert "--masking.ratio" not in shown


def test_a_run_goes_on_where_it_is(polymask):
    polymask(*BARE, "--steps", "2", "--out", "run")
    done = polymask("pretrain", "--resume", "run", "--out", "elsewhere")
    assert done.status == 2 and "--resume run goes on in that folder: leave --out out" in done.err
