from __future__ import annotations

import json
import shutil
import subprocess
import types
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from polymask import Part, Registry, UserError, build, hookimpl
from polymask.data import open_data
from polymask.run import build_from_config, config_of, load_config, open_data_of, open_run, save_config
from polymask.training import environment, fit, read_metrics

SMALL = {"width": 16, "steps": 30, "warmup_steps": 3, "data.n": 20, "data.size": 64}


@pytest.fixture(scope="module")
def registry(toy):
    """The installed plugins and one with the toy system, which has a preset, and its data."""

    class Slotted(toy.Toy):
        def __init__(self, *, masking=None, width=8):
            super().__init__(width=width, seed=int(torch.randint(1000, ())))
            self.masking = masking

    class Data(toy.Data):
        def __init__(self, *, n=50, file=None):
            super().__init__(n)
            self.text = file and Path(file).read_text()

    class Reader(toy.Toy):
        def __init__(self, *, file):
            super().__init__()
            self.text = Path(file).read_text()

    toy.Slotted, toy.Sized, toy.Reader = Slotted, Data, Reader
    plugin = types.ModuleType("plugin")
    plugin.polymask_register_systems = hookimpl(
        lambda: [
            Part(name="toy", target="polymask_toy:Slotted", summary="a toy", presets={"small": SMALL}),
            Part(name="reader", target="polymask_toy:Reader", summary="a toy with a file"),
        ],
        specname="polymask_register_systems",
    )
    plugin.polymask_register_datasets = hookimpl(
        lambda: [Part(name="sequences", target="polymask_toy:Sized", summary="numbers")],
        specname="polymask_register_datasets",
    )
    registry = Registry()
    assert registry.add("t", plugin).status == "ok"
    return registry


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


def test_what_a_configuration_builds(registry):
    system, data, options = build_from_config(CONFIG, registry)
    assert (system.embed.out_features, system.masking.ratio, len(data.x)) == (16, 0.5, 40)
    assert (options.steps, options.batch_size, options.precision) == (4, 8, "32")


def test_presets_lie_below_what_is_given(registry):
    with pytest.warns(UserWarning, match="t/sequences has no size, which the preset asks for"):
        system, data, options = build_from_config(
            {"system": "toy", "preset": "small", "data": "t/sequences", "epochs": 2.0}, registry
        )
    assert (system.embed.out_features, len(data.x)) == (16, 20)
    assert (options.steps, options.epochs, options.warmup_steps) == (None, 2.0, 3)


def test_initial_weights_come_from_the_seed_alone(registry):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, *_ = build_from_config(CONFIG, registry)
    assert torch.equal(torch.rand(3), expected)  # the caller's generator is where it was
    torch.manual_seed(2)
    two, *_ = build_from_config(CONFIG, registry)
    other, *_ = build_from_config({**CONFIG, "seed": 1}, registry)
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"system": None}, "names no system"),
        ({"data": None}, "no data: give --data"),
        ({"data": "t/nothing"}, "no dataset is called"),
        ({"data": {"name": "t/sequences", "size": 3}}, "has no option 'size'"),
        ({"widht": 3}, "did you mean 'width'"),
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_exception(registry, changed, said):
    with pytest.raises(UserError, match=said):
        build_from_config({**CONFIG, **changed}, registry)


@pytest.fixture(scope="module")
def trained(registry, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / "run"
    system, data, options = build_from_config(CONFIG, registry)
    fit(system, data, options, folder, config=CONFIG, progress=False)
    return system, folder


def test_open_run(registry, trained):
    system, folder = trained
    run = open_run(folder, registry=registry)
    assert (run.folder, run.step, run.config) == (folder, 4, CONFIG)
    assert not run.system.training
    assert all(torch.equal(a, b) for a, b in zip(run.system.parameters(), system.parameters(), strict=True))
    assert len(run.data.x) == 40


def test_open_run_untrained_is_where_training_began(registry, trained):
    run = open_run(trained[1], trained=False, registry=registry)
    begun, *_ = build_from_config(CONFIG, registry)
    assert run.step == 0
    assert all(torch.equal(a, b) for a, b in zip(run.system.parameters(), begun.parameters(), strict=True))
    assert not torch.equal(run.system.head.weight, trained[0].head.weight)


def test_what_lies_beside_a_run_moves_with_it(registry, tmp_path):
    """An option that begins with {run} stays so in config.yaml, and the run goes on elsewhere."""
    file = "{run}/../units.txt"
    config = {**CONFIG, "system": "t/reader", "file": file, "data": {**CONFIG["data"], "file": file}}
    del config["masking"], config["width"]
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "units.txt").write_text("first")
    system, data, options = build_from_config(config, registry, here / "run")
    assert system.text == data.text == "first"
    fit(system, data, options, here / "run", progress=False)
    found = load_config(here / "run")
    assert found["file"] == found["data"]["file"] == file
    shutil.move(here, there)
    (there / "units.txt").write_text("second")
    moved = open_run(there / "run", registry=registry)
    assert moved.system.text == moved.data.text == "second"
    assert open_data_of(found["data"], registry, there / "run").text == "second"
    system, data, options = build_from_config(load_config(there / "run"), registry, there / "run")
    assert fit(system, data, options, there / "run", resume=True, progress=False).step == 4
    with pytest.raises(UserError, match="there is no run yet"):
        build_from_config(config, registry)


def test_no_run_there(tmp_path, registry):
    with pytest.raises(UserError, match="is no run folder"):
        open_run(tmp_path, registry=registry)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="cannot be read"):
        open_run(tmp_path, registry=registry)
    (tmp_path / "config.yaml").write_text("- a")
    with pytest.raises(UserError, match="must map"):
        open_run(tmp_path, registry=registry)
    save_config(CONFIG, tmp_path)
    with pytest.raises(UserError, match="there is no checkpoint"):
        open_run(tmp_path, registry=registry)


def test_configuration_of_what_was_built_in_python(toy, registry, tmp_path):
    """Built by name, trained without a configuration, and opened again all the same."""
    data = open_data("t/sequences", registry, n=30)
    system = build("toy", preset="small", registry=registry, masking="core/random")
    fit(system, data, toy.options(steps=2), tmp_path / "run", progress=False)
    config = load_config(tmp_path / "run")
    assert (config["system"], config["width"]) == ("t/toy", 16)
    assert config["masking"] == {"name": "core/random"}
    assert config["data"]["n"] == 30
    run = open_run(tmp_path / "run", registry=registry)
    assert all(torch.equal(a, b) for a, b in zip(run.system.parameters(), system.parameters(), strict=True))
    # built by hand, nobody knows from what
    assert "system" not in config_of(toy.Toy(), toy.Data(), toy.options())


def test_yaml_is_plain(tmp_path):
    path = save_config({"betas": (0.9, 0.95), "path": tmp_path, "x": {"y": (1, 2)}, "none": None}, tmp_path)
    expected = {"betas": [0.9, 0.95], "path": str(tmp_path), "x": {"y": [1, 2]}, "none": None}
    assert yaml.safe_load(path.read_text()) == expected
    assert "!!" not in path.read_text()


def test_environment(trained):
    found = json.loads((trained[1] / "environment.json").read_text())
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
