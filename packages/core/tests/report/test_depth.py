"""What a page draws from block to block."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from polymask import Preview, Step, System
from polymask.evaluation.features import evaluating
from polymask.maskings import Random
from polymask.report import charts
from polymask.report.page import Page, _pictures
from polymask.report.progress import schedule, training
from polymask.report.templates import render


def test_the_lines_and_media_of_a_preview_are_on_the_page(gradients, looker):
    class Lines(looker):
        def preview(self, batch, step):
            media = {"halved": batch["image"] / 2}
            three = {name: torch.tensor([1.0, 2.0, torch.nan]) for name in ("pupil", "coach")}
            return Preview(media, {"share of keys": torch.tensor([torch.nan, 1.0, 2.0]), "rank": three})

    page = Page("t")
    run = SimpleNamespace(data=gradients(), system=Lines(Random()))
    with evaluating(run.system):
        _pictures(page, run, Step())
    assert [chart.title for chart in page.depth] == ["share of keys", "rank"]
    assert "share of keys" in page.depth[0].svg
    assert "pupil" in page.depth[1].svg and "coach" in page.depth[1].svg
    assert list(page.pictures) == ["halved"] and list(page.masks) == ["student"]


def test_a_page_without_lines_has_no_such_section():
    assert "From block to block" not in render("page.html.j2", page=Page("t"), methods=(), caveat="")


def test_what_changes_over_the_run_is_drawn_over_all_of_it():
    asked = []

    class Changing(System):
        def schedule(self, step):
            asked.append((step.index, step.total))
            return {"half": step.progress / 2, "all": step.progress}

    (chart,) = schedule(Changing(), 90)
    assert asked[0] == (0, 90) and asked[-1] == (90, 90)
    assert chart.title == "Schedule" and "half" in chart.svg and "all" in chart.svg
    assert schedule(System(), 90) == []


def test_what_a_system_says_of_itself_is_titled_in_words_and_shown_below_zero_too(monkeypatch):
    seen = {}

    def panel(*size):
        made, axes = charts_panel(*size)
        seen[len(seen)] = axes
        return made, axes

    charts_panel = charts.panel
    monkeypatch.setattr(charts, "panel", panel)
    rows = {"step": [1.0, 2.0], "mask_IoU_gauge": [0.2, 0.4], "lean_gauge": [-0.5, 0.25]}
    assert [chart.title for chart in training(rows)] == ["Mask IoU", "Lean"]
    assert [axes.get_ylim() for axes in seen.values()] == [(0.0, pytest.approx(0.44)), (-0.55, 0.275)]
