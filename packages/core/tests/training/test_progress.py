from __future__ import annotations

import io

from rich.console import Console

from polymask.training import progress, read_metrics
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


class Closed(io.StringIO):
    """A terminal or pipe whose other end is gone."""

    def write(self, text):
        raise OSError(5, "Input/output error")


def test_nobody_has_to_watch(toy, tmp_path, monkeypatch):
    console = Console(file=Closed(), force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    monkeypatch.setattr("sys.stderr", Closed())
    toy.fit(toy.Run(tmp_path / "live", toy.Toy(), toy.Data(), toy.options()))
    console = Console(file=Closed(), force_terminal=False, width=120)
    toy.fit(toy.Run(tmp_path / "plain", toy.Toy(), toy.Data(), toy.options()))
    for name in ("live", "plain"):
        assert read_metrics(tmp_path / name / "metrics.csv")[-1]["step"] == 12


def test_a_notebook_without_widgets_gets_plain_lines(toy, tmp_path, monkeypatch, capsys):
    """Where rich would draw it needs ipywidgets, and warns of it."""
    console = Console(file=io.StringIO(), force_terminal=False, force_jupyter=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    toy.fit(toy.Run(tmp_path, toy.Toy(), toy.Data(), toy.options()))
    assert capsys.readouterr().err.startswith("step 12/12  loss ")
