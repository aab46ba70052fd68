"""Loggers and callbacks that options name."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning.pytorch as pl
import pytest

from polymask import Run, UserError
from polymask.config import TrainOptions
from polymask.training import fit, read_metrics
from polymask.training.extensions import callbacks_of, loggers_of


class Counter(pl.Callback):
    steps = 0

    def __init__(self, *, by: int = 1) -> None:
        self.by = by

    def on_train_batch_end(self, *args, **kwargs) -> None:
        Counter.steps += self.by


@pytest.fixture
def trained(toy, tmp_path):
    """A toy trained for six steps with some options."""

    def train(**options):
        training = TrainOptions(steps=6, batch_size=8, warmup_steps=1, log_every=2, workers=0, **options)
        run = Run(tmp_path / "run", toy.Toy(), toy.Data(20), training)
        fit(run, progress=False)
        return run

    return train


def test_a_logger_by_class_gets_every_row_and_the_options(trained, tmp_path):
    options = {"save_dir": str(tmp_path), "name": "other", "version": "", "flush_logs_every_n_steps": 1}
    run = trained(logger={"CSVLogger": options})
    with (tmp_path / "other/metrics.csv").open() as file:
        other = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    rows = read_metrics(run.folder / "metrics.csv")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["loss"] for row in other] == [row["loss"] for row in rows]
    assert "steps: 6" in (tmp_path / "other/hparams.yaml").read_text()


def test_several_loggers_by_name(trained):
    pytest.importorskip("tensorboard")
    run = trained(logger=["csv", "tensorboard"])
    assert list(run.folder.glob("tensorboard/events*"))
    with (run.folder / "csv/metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert losses == [row["loss"] for row in read_metrics(run.folder / "metrics.csv")]


@pytest.mark.slow
def test_mlflow_writes_into_the_run(trained):
    pytest.importorskip("alembic")
    mlflow = pytest.importorskip("mlflow")
    run = trained(logger="mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run.folder}/mlflow.db")
    (kept,) = client.search_runs([client.get_experiment_by_name("polymask").experiment_id])
    losses = [metric.value for metric in client.get_metric_history(kept.info.run_id, "loss")]
    assert losses == pytest.approx([row["loss"] for row in read_metrics(run.folder / "metrics.csv")])
    assert kept.data.params["steps"] == "6"


@pytest.mark.slow
def test_wandb_writes_into_the_run(trained, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = trained(logger="wandb")
    kept, last = wandb.run, read_metrics(run.folder / "metrics.csv")[-1]
    assert Path(kept.dir).is_relative_to(run.folder) and kept.config["steps"] == 6
    assert kept.summary["loss"] == pytest.approx(last["loss"])
    wandb.finish()


def test_tensorboard_writes_into_the_run(trained):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = trained(logger="tensorboard")
    events = accumulator.EventAccumulator(str(run.folder / "tensorboard")).Reload()
    rows = read_metrics(run.folder / "metrics.csv")
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row["loss"] for row in rows])


def test_callbacks_run_along(trained, monkeypatch):
    monkeypatch.setattr(Counter, "steps", 0)
    trained(callbacks={f"{__name__}:Counter": {"by": 10}})
    assert Counter.steps == 60
    (one,) = callbacks_of(TrainOptions(callbacks="DeviceStatsMonitor"))
    assert isinstance(one, pl.callbacks.DeviceStatsMonitor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"logger": "tensorbord"},
            "--logger tensorbord is not found .*choose csv, tensorboard, wandb, mlflow, a cl",
        ),
        ({"logger": "no_such_module:Logger"}, "no_such_module"),
        ({"logger": {"tensorboard": 3}}, "give its options as a mapping"),
        ({"logger": {"CSVLogger": {"folder": "x"}}}, "--logger CSVLogger: TypeError: .*'folder'"),
        ({"logger": "collections:Counter"}, "--logger collections:Counter is no Logger of Lightning"),
        ({"logger": "comet"}, "--logger comet is not found .comet there is no class"),
        ({"callbacks": "CSVLogger"}, "--callbacks CSVLogger is not found"),
        ({"callbacks": "collections:Counter"}, "collections:Counter is no Callback of Lightning"),
    ],
)
def test_what_is_wrong_is_said_before_training(trained, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        trained(**options)
    assert not (tmp_path / "run").exists()


def test_a_library_that_is_not_installed_is_named(monkeypatch, tmp_path):
    def missing(*args, **options):
        raise ModuleNotFoundError("neither tensorboard nor tensorboardX is there")

    monkeypatch.setattr(pl.loggers.TensorBoardLogger, "__init__", missing)
    with pytest.raises(UserError, match=r"pip install 'polymask\[tensorboard\]'"):
        loggers_of(TrainOptions(logger="tensorboard"), tmp_path)


class Needy(pl.Callback):
    """Finds out late that it lacks a library."""

    def setup(self, *args, **kwargs) -> None:
        raise ModuleNotFoundError("psutil is not installed")


def test_a_library_that_a_callback_lacks_is_named(trained):
    with pytest.raises(UserError, match="a library is missing: psutil is not installed"):
        trained(callbacks=f"{__name__}:Needy")


class Late(pl.loggers.CSVLogger):
    """Refuses its place when it begins to write."""

    def log_hyperparams(self, *args) -> None:
        raise ValueError("wrapped") from TypeError("no option 'nonsense'")


def test_a_logger_that_does_not_begin_is_named(trained, tmp_path):
    with pytest.raises(UserError, match="the logger Late does not begin: TypeError: no option 'nonsense'"):
        trained(logger={f"{__name__}:Late": {"save_dir": str(tmp_path / "x")}})
    assert not (tmp_path / "run/metrics.csv").exists()
