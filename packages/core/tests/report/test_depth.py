"""What a page draws from block to block."""

from __future__ import annotations

from polymask import System
from polymask.report.page import Page
from polymask.report.progress import schedule
from polymask.report.templates import render


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
