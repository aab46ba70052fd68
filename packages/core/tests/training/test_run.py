from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from polymask import Run, RunConfig, UserError, build
from polymask.data import open_data
from polymask.files import read_yaml, write_yaml
from polymask.run import open_data_of
from polymask.training import environment, fit, read_metrics

CONFIG = {
    "system": "t/toy",
    "masking": {"name": "core/random", "ratio": 0.5},
    "width": 16,
    "data": {"name": "t/sequences", "n": 40},
    "steps": 4,
    "batch_size": 8,
    "precision": "32",
    "accelerator": "cpu",
    "workers": 0,
}


def create(registry, folder="nowhere", **changed):
    return Run.create(RunConfig.resolve({**CONFIG, **changed}, registry=registry), folder)


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_a_configuration_builds(registry):
    run = create(registry)
    assert (run.system.embed.out_features, run.system.masking.ratio, len(run.data.x)) == (16, 0.5, 40)
    assert (run.training.steps, run.training.batch_size, run.training.precision) == (4, 8, "32")
    assert not Path("nowhere").exists()


def test_presets_lie_below_what_is_given(registry):
    """Sequences have no size: what the preset asks of its data and this data set lacks is left out."""
    with pytest.warns(UserWarning, match="t/sequences has no size, which the preset asks for: left out"):
        config = RunConfig.resolve(
            {"system": "toy", "preset": "small", "data": "t/sequences", "epochs": 2.0}, registry=registry
        )
    run = Run.create(config, "nowhere")
    assert (run.system.embed.out_features, len(run.data.x)) == (16, 20)
    assert (run.training.steps, run.training.epochs, run.training.warmup_steps) == (None, 2.0, 3)
    assert "size" not in config.plain()["data"]


def test_initial_weights_come_from_the_seed_alone(registry):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = create(registry).system
    assert torch.equal(torch.rand(3), expected)  # the caller's generator is where it was
    torch.manual_seed(2)
    two, other = create(registry).system, create(registry, seed=1).system
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"system": None}, "which system"),
        ({"data": None}, "no data: give --data"),
        ({"data": "t/nothing"}, "no dataset is called"),
        ({"data": {"name": "t/sequences", "size": 3}}, r"t/sequences, the data, has no option --data\.size"),
        ({"widht": 3}, "did you mean --width"),
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"batch_size": 0}, "--batch_size takes int 1 or more, got 0"),
    ],
)
def test_exception(registry, changed, said):
    with pytest.raises(UserError, match=said):
        create(registry, **changed)


@pytest.fixture(scope="module")
def trained(registry, tmp_path_factory):
    torch.set_num_threads(1)
    run = create(registry, tmp_path_factory.mktemp("run") / "run")
    fit(run, progress=False)
    return run


def test_a_run_is_opened_as_it_was_left(registry, trained):
    run = Run.open(trained.folder, registry=registry)
    assert (run.folder, run.step, run.name) == (trained.folder, 4, "t/toy")
    assert run.config.plain() == trained.config.plain()
    assert run.config.plain() == RunConfig.resolve(CONFIG, registry=registry).plain()
    assert not run.system.training
    assert same_weights(run.system, trained.system)
    assert len(run.data.x) == 40
    assert trained.step == 4


def test_a_run_opened_untrained_is_where_training_began(registry, trained):
    run = Run.open(trained.folder, trained=False, registry=registry)
    begun = create(registry).system
    assert run.step == 0
    assert same_weights(run.system, begun) and same_weights(trained.untrained(), begun)
    assert not torch.equal(run.system.head.weight, trained.system.head.weight)


def test_what_lies_beside_a_run_moves_with_it(registry, tmp_path):
    """An option that begins with {run} stays so in config.yaml, and the run goes on elsewhere."""
    file = "{run}/../units.txt"
    config = {**CONFIG, "system": "t/reader", "file": file, "data": {**CONFIG["data"], "file": file}}
    del config["masking"], config["width"]
    config = RunConfig.resolve(config, registry=registry)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "units.txt").write_text("first")
    run = Run.create(config, here / "run")
    assert run.system.text == run.data.text == "first"
    fit(run, progress=False)
    found = read_yaml(here / "run" / "config.yaml")
    assert found["file"] == found["data"]["file"] == file
    shutil.move(here, there)
    (there / "units.txt").write_text("second")
    moved = Run.open(there / "run", registry=registry)
    assert moved.system.text == moved.data.text == moved.untrained().text == "second"
    assert open_data_of(RunConfig.load(there / "run", registry), there / "run").text == "second"
    again = Run.create(RunConfig.load(there / "run", registry), there / "run")
    assert fit(again, resume=True, progress=False).step == 4
    with pytest.raises(UserError, match="there is no run yet"):
        config.system.build()


def test_no_run_there(tmp_path, registry):
    with pytest.raises(UserError, match="is no run folder"):
        Run.open(tmp_path, registry=registry)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="cannot read"):
        Run.open(tmp_path, registry=registry)
    (tmp_path / "config.yaml").write_text("- a")
    with pytest.raises(UserError, match="must map"):
        Run.open(tmp_path, registry=registry)
    write_yaml(tmp_path / "config.yaml", CONFIG)
    with pytest.raises(UserError, match="there is no checkpoint"):
        Run.open(tmp_path, registry=registry)


def test_of_what_was_built_in_python(toy, registry, tmp_path):
    """The folder holds the weights, and says what to do where it cannot say what they are of."""
    data = open_data("t/sequences", registry, n=30)
    system = build("toy", preset="small", registry=registry, masking="core/random")
    run = Run(tmp_path / "run", system, data, toy.options(steps=2))
    begun = {name: value.clone() for name, value in system.state_dict().items()}
    fit(run, progress=False)
    assert run.name == "Slotted" and run.step == 2
    untrained = run.untrained()
    assert not untrained.training
    assert all(torch.equal(value, begun[name]) for name, value in untrained.state_dict().items())
    assert not torch.equal(run.system.head.weight, begun["head.weight"])
    found = read_yaml(tmp_path / "run" / "config.yaml")
    assert found["system"] is None and found["steps"] == 2
    message = r"names no system: it was built in Python.*Run\(folder, system, data\)\.load"
    with pytest.raises(UserError, match=message):
        Run.open(tmp_path / "run", registry=registry)
    again = build("toy", preset="small", registry=registry, masking="core/random")
    loaded = Run(tmp_path / "run", again, data)
    loaded.load()
    assert loaded.step == 2 and same_weights(again, system)


def test_yaml_is_plain(registry, tmp_path):
    (tmp_path / "text").write_text("")
    config = {**CONFIG, "betas": (0.9, 0.99), "data": {**CONFIG["data"], "file": tmp_path / "text"}}
    Run.create(RunConfig.resolve(config, registry=registry), tmp_path).save_config()
    text = (tmp_path / "config.yaml").read_text()
    found = yaml.safe_load(text)
    assert (found["betas"], found["data"]["file"]) == ([0.9, 0.99], str(tmp_path / "text"))
    assert (found["epochs"], found["masking"]["ratio"]) == (None, 0.5)
    assert "!!" not in text


def test_environment(trained):
    found = json.loads((trained.folder / "environment.json").read_text())
    assert found["torch"] == torch.__version__
    assert found["precision"] == "32"
    assert found["processes"] == 1
    assert "polymask" in found["plugins"]["core"]


def test_precision_auto(toy, monkeypatch):
    auto = toy.options(precision="auto")
    wide, narrow = torch.nn.Linear(192, 768), torch.nn.Linear(128, 768)
    for bf16, expected in ((True, "bf16-mixed"), (False, "32")):
        monkeypatch.setattr(environment, "_cpu_has_bf16", lambda bf16=bf16: bf16)
        assert environment.precision_for(auto, wide) == expected
        assert environment.precision_for(auto, narrow) == "32"
    assert environment.precision_for(toy.options(precision="bf16-true"), wide) == "bf16-true"


def test_precision_of_a_run(toy, tmp_path):
    """Weights and losses stay float32 under autocast, and the run differs from that without."""
    losses = []

    class Look(toy.pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            losses.append(module.loss)

    mixed = toy.train(tmp_path / "16", precision="bf16-mixed", steps=2, callbacks=[Look()])
    full = toy.train(tmp_path / "32", precision="32", steps=2)
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    assert not torch.equal(mixed.head.weight, full.head.weight)
    found = json.loads((tmp_path / "16" / "environment.json").read_text())
    assert found["precision"] == "bf16-mixed"


def test_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert environment._git() is None

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "x")
    commit = environment._git()
    assert len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert environment._git() == f"{commit}-dirty"


def test_a_run_by_tokens_is_stopped_and_resumed(toy, tmp_path):
    """The number of samples differs from step to step; the run goes on to the very same weights."""

    class Stop(pl.Callback):
        def __init__(self, after=None):
            self.after, self.sizes = after, []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.sizes.append(len(batch["id"]))
            if len(self.sizes) == self.after:
                raise RuntimeError("stopped")

    hard = {"batch_tokens": 60, "accumulate": 2, "steps": None, "epochs": 2, "log_every": 2}
    watch = Stop()
    whole = toy.train(tmp_path / "a", data=toy.Ragged(), callbacks=[watch], **hard, checkpoint_every=3)
    assert len(set(watch.sizes)) > 2
    rows = read_metrics(tmp_path / "a" / "metrics.csv")
    assert all(0 < row["padding"] < 0.3 for row in rows)
    assert rows[-1]["step"] == len(watch.sizes) / 2
    with pytest.raises(RuntimeError, match="stopped"):
        toy.train(tmp_path / "b", data=toy.Ragged(), callbacks=[Stop(9)], **hard, checkpoint_every=3)
    again = toy.train(tmp_path / "b", data=toy.Ragged(), resume=True, **hard, checkpoint_every=3)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(UserError, match="batch_tokens: 60 then, 70 now"):
        toy.train(tmp_path / "b", data=toy.Ragged(), resume=True, **{**hard, "batch_tokens": 70})
