"""Scores of an evaluation, as the terminal shows them."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from polymask import UserError
from polymask.evaluation import Measurement, Measurements
from polymask.evaluation.measurements import evaluate_run, read_scores

METRICS = ("found", "found far", "found near", "told", "told far", "advantage", "perplexity")
ROWS = ("pre-trained", "untrained", "frequency alone")


def shown(metrics: tuple[str, ...], rows: tuple[str, ...]) -> str:
    scores = [
        Measurement(row, metric, 0.25 + i, i * 1.0, 3400.0 * i + 1)
        for row in rows
        for i, metric in enumerate(metrics)
    ]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(Measurements("language/facts", scores).table())
    return console.export_text()


def test_many_metrics_go_down_the_side_and_are_cut_nowhere() -> None:
    text = shown(METRICS, ROWS)
    assert "…" not in text and "e+" not in text
    head, *lines = [line for line in text.splitlines()[1:] if line.strip()]
    assert all(row in head for row in ROWS)
    assert all(any(line.strip().startswith(f"{metric} ") for line in lines) for metric in METRICS)
    assert "1 to 3401" in text


def test_few_metrics_go_across_with_their_interval_beside() -> None:
    text = shown(METRICS[:2], ROWS)
    assert any("pre-trained" in line and "0.25 0 to 1" in line for line in text.splitlines())


@pytest.mark.parametrize("given", [None, [], ["nDCG"], {"accuracy": 0.5}])
def test_an_evaluation_that_measures_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: object
) -> None:
    config = SimpleNamespace(name="toy/odd", build=lambda: lambda run: given)
    monkeypatch.setattr("polymask.evaluation.measurements.chosen", lambda *args: config)
    run = SimpleNamespace(folder=tmp_path, system=nn.Linear(1, 1))
    with pytest.raises(UserError, match="toy/odd (measured nothing: it gave|found nothing to measure)"):
        evaluate_run(run, "odd")  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


ODD: list[Any] = [(1, "a", 2.0), ("row", "a\nb", 2.0), ("row", "a", "x")]


@pytest.mark.parametrize("score", [Measurement(*odd) for odd in ODD])
def test_measurements_that_are_none_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Measurement
) -> None:
    config = SimpleNamespace(name="toy/odd", build=lambda: lambda run: [score])
    monkeypatch.setattr("polymask.evaluation.measurements.chosen", lambda *args: config)
    run = SimpleNamespace(folder=tmp_path, system=nn.Linear(1, 1))
    with pytest.raises(UserError, match="toy/odd: "):
        evaluate_run(run, "odd")  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_numbers_of_any_kind_are_kept_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [Measurement("row", "a", np.float32(0.5), math.nan, torch.tensor(1.0))]  # type: ignore[arg-type]
    config = SimpleNamespace(name="toy/odd", build=lambda: lambda run: scores)
    monkeypatch.setattr("polymask.evaluation.measurements.chosen", lambda *args: config)
    monkeypatch.setattr("polymask.evaluation.measurements.settings_of", lambda config: {})
    run = SimpleNamespace(folder=tmp_path, system=nn.Linear(1, 1), step=3)
    evaluate_run(run, "odd")  # type: ignore[arg-type]
    (found,) = read_scores(tmp_path)
    assert found.step == 3 and found.scores == [Measurement("row", "a", 0.5, None, 1.0)]


def test_what_was_measured_before_the_last_step_is_told_and_left_out(tmp_path: Path) -> None:
    old = Measurements("toy/odd", [Measurement("row", "a", 1.0)], step=3)
    (tmp_path / "evaluation-toy-odd.json").write_text(json.dumps(old.to_json()))
    (tmp_path / "metrics.csv").write_text("step,loss\n3,0.5\n")
    assert read_scores(tmp_path) == [old]
    (tmp_path / "metrics.csv").write_text("step,loss\n3,0.5\n6,0.4\n")
    with pytest.warns(UserWarning, match="was measured at step 3, and the run is at step 6 now"):
        assert read_scores(tmp_path) == []


def test_the_step_of_a_run_is_that_of_its_checkpoint_where_no_row_has_come_since(tmp_path: Path) -> None:
    old = Measurements("toy/odd", [Measurement("row", "a", 1.0)], step=3)
    (tmp_path / "evaluation-toy-odd.json").write_text(json.dumps(old.to_json()))
    (tmp_path / "metrics.csv").write_text("")
    (tmp_path / "checkpoints").mkdir()
    for step in (3, 7):
        torch.save(
            {"polymask": {}, "state_dict": {}, "global_step": step}, tmp_path / "checkpoints/last.ckpt"
        )
        if step == 3:
            assert read_scores(tmp_path) == [old]
    with pytest.warns(UserWarning, match="was measured at step 3, and the run is at step 7 now"):
        assert read_scores(tmp_path) == []
