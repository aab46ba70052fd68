from __future__ import annotations

import io

from rich.console import Console

from polymask.training import progress
from polymask.training.progress import describe

ROW = {"loss": 0.73456, "samples_per_second": 1234.5, "data_wait": 0.0312}


def test_one_line():
    assert describe(ROW, 2_000) == "loss 0.7346  1,234 samples/s  0:02 left  3% waiting for data"
    assert "1:00:00 left" in describe(ROW, round(1234.5 * 3600))
    assert "12:05 left" in describe(ROW, round(1234.5 * 725))
    assert describe({}, 10) == ""


def run(toy, folder, monkeypatch, terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, force_jupyter=False, width=120)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    toy.fit(toy.Run(folder, toy.Toy(), toy.Data(), toy.options(log_every=2)))
    return out.getvalue()


def test_live_in_a_terminal(toy, tmp_path, monkeypatch):
    shown = run(toy, tmp_path, monkeypatch, terminal=True)
    assert "12/12" in shown
    assert "samples/s" in shown
    assert "waiting for data" in shown


def test_plain_lines_elsewhere(toy, tmp_path, monkeypatch, capsys):
    assert run(toy, tmp_path, monkeypatch, terminal=False) == ""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1  # the rest would have come within ten seconds
    assert lines[0].startswith("step 12/12  loss ")


def test_every_so_often_without_a_terminal(toy, tmp_path, monkeypatch, capsys):
    now = iter(range(0, 10**6, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    run(toy, tmp_path, monkeypatch, terminal=False)
    steps = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert steps[-1] == "12/12"
    assert 2 < len(steps) < 11


def test_nothing_of_lightning_is_said(toy, tmp_path, capsys):
    toy.fit(toy.Run(tmp_path, toy.Toy(), toy.Data(), toy.options()), progress=False)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
