"""A run on data of one's own: trained, probed, reported and exported from Python, and opened again."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.data import TensorDataset

from polymask import Run, RunConfig, UserError, build
from polymask.config import TrainOptions
from polymask.data import as_dataset
from polymask.evaluation import probe
from polymask.export import export, load
from polymask.files import read_yaml
from polymask.report import write_report
from polymask.training import fit

TRAIN = {"steps": 3, "batch_size": 8, "lr": 0.01, "workers": 0, "precision": "32", "accelerator": "cpu"}

PARTS = {"encoder.dim": 8, "encoder.act": "tanh", "tokenizer.patch": 2}


def samples(n=40):
    """Bright bars, lying or standing, with their labels."""
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    x[::2, :, 0], x[1::2, :, :, 0] = 1.0, 1.0
    return x, torch.arange(n) % 2


def wrapped():
    """By hand, from pairs in a list."""
    x, y = samples()
    return as_dataset([(x[i], int(y[i])) for i in range(len(x))], test=0.25)


def plain():
    """A data set of torch's, as it is."""
    return TensorDataset(*samples())


@pytest.fixture(scope="module", params=[wrapped, plain], ids=["as_dataset", "torch"])
def run(request, toys, tmp_path_factory):
    """Trained."""
    torch.set_num_threads(1)
    config = RunConfig.resolve({"system": "toy/mean", **PARTS, **TRAIN}, registry=toys)
    run = Run.create(config, tmp_path_factory.mktemp("own") / "run", data=request.param())
    fit(run, progress=False)
    return run


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_is_trained_probed_reported_and_exported(run, tmp_path):
    assert run.step == 3 and run.facts["size"] == (4, 4)
    assert {row.features for row in probe(run).rows} == {"pre-trained", "untrained", "raw input"}
    assert json.loads((run.folder / "probe.json").read_text())["settings"]["step"] == 3
    assert "toy/mean" in write_report(run).read_text()
    assert (export(run, "safetensors", tmp_path) / "model.safetensors").is_file()
    assert not same(run.system, run.untrained())


def test_its_folder_says_what_to_give(run, toys):
    found = read_yaml(run.folder / "config.yaml")
    assert found["data"] is None and found["system"] == "toy/mean"
    opened = Run.open(run.folder, registry=toys)
    assert same(opened.system, run.system) and opened.step == 3
    with pytest.raises(
        UserError, match=r"no name opens again: give it to .*Run\.open\(folder, data=\.\.\.\)"
    ):
        _ = opened.data
    with pytest.raises(UserError, match="no name opens again"):
        probe(opened)


@pytest.mark.parametrize("trained", [True, False])
def test_it_is_opened_again_with_its_data(run, toys, trained):
    opened = Run.open(run.folder, data=run.data, trained=trained, registry=toys)
    assert opened.data is run.data
    assert same(opened.system, run.system if trained else run.untrained())
    if trained:
        assert probe(opened) == probe(run)


def test_it_is_exported_without_its_data(run, toys, tmp_path):
    opened = Run.open(run.folder, registry=toys)
    features = load(export(opened, "safetensors", tmp_path), toys)
    x = samples(3)[0]
    with torch.no_grad():
        expected = run.system.eval().encode({"image": x}).values
        assert torch.equal(features(x).values, expected)
    assert features.facts["size"] in ((4, 4), [4, 4])
    assert same(opened.untrained(), run.untrained())


def test_it_goes_on(run, toys, tmp_path):
    config = RunConfig.load(run.folder, toys)
    again = Run.create(config, run.folder, data=run.data)
    assert fit(again, resume=True, progress=False).step == 3
    assert same(again.system, run.system)
    with pytest.raises(UserError, match="no data: give --data NAME"):
        Run.create(config, run.folder)


def test_a_data_set_that_counts_as_false_is_a_data_set(toys, tmp_path):
    class Empty(type(wrapped())):
        def __len__(self):
            return 0

    data = wrapped()
    data.__class__ = Empty
    config = RunConfig.resolve({"system": "toy/mean", "data": "toy/shapes", **TRAIN}, registry=toys)
    run = Run.create(config, tmp_path / "run", data=data)
    assert run.data is data


def test_a_system_of_ones_own_too(toys, tmp_path):
    """Built in Python: all the same in this process, and its folder says what to do in another."""
    data = wrapped()
    torch.manual_seed(0)
    system = build("toy/mean", registry=toys, facts=data.provides, **PARTS)
    run = Run(tmp_path / "run", system, data, TrainOptions(**TRAIN))
    fit(run, progress=False)
    assert not same(run.system, run.untrained())
    assert probe(run).rows and write_report(run).is_file()
    assert export(run, "safetensors", tmp_path / "out").is_dir()
    with pytest.raises(UserError, match="it was built in Python"):
        Run.open(run.folder, data=data, registry=toys)
