"""``polymask look RUN`` and the page of a run draw what its answers depend on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polymask.report.page import write_report

TRAIN = ("toy/mean", "--preset", "small", "--data", "toy/shapes", "--data.size", "[4,6]", "--data.n", "32")
COVERED = "what the answer depends on; the rest is covered"


@pytest.fixture
def trained(polymask):
    done = polymask("pretrain", *TRAIN, "--out", "run", "--no-report", "--workers", "0", "--steps", "2")
    assert done.status == 0, done.err
    return "run"


def test_a_run_is_drawn_as_it_is_trained(polymask, trained, monkeypatch):
    import polymask.report.look as module

    calls, function = [], module.look
    monkeypatch.setattr(
        module, "look", lambda *args, **options: calls.append((args, options)) or function(*args, **options)
    )
    done = polymask("look", trained, "--samples", "3", "--masks", "40", "-o", "a.png")
    assert done.status == 0 and done.out == "a.png\n", done.err
    ((system, *_), options) = calls[0]
    assert Path("a.png").is_file() and options["samples"] == 3 and options["total"] == 2
    from polymask import Run

    weights = Run.open(trained).system.state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in system.state_dict().items())
    done = polymask("look", trained, "--smaples", "3")
    assert done.status == 2 and "samples" in done.err


def test_the_page_of_a_run_shows_what_its_answers_depend_on(trained, toy, monkeypatch):
    assert COVERED not in write_report(trained).read_text()
    monkeypatch.setattr(
        toy.Mean, "explain", lambda self, batch, step: batch["image"][:, 0].float() * 0 + 1, raising=False
    )
    assert COVERED in write_report(trained).read_text()
