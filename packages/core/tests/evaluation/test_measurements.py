"""Scores of an evaluation, as the terminal shows them."""

from __future__ import annotations

import io

from rich.console import Console

from polymask.evaluation import Measurement, Measurements

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
