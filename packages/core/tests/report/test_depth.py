"""What a page draws from block to block."""

from __future__ import annotations

import torch

from polymask import Mask, Step, System
from polymask.report.page import Page, _by_depth
from polymask.report.progress import schedule
from polymask.report.templates import render
from polymask.trunk import Trunk, profile


class Passing(System):
    """Mask tokens that pass through two blocks, and a line of its own."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def trunk(self, batch, step):
        x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
        block = lambda x, attn_mask: x.square()  # noqa: E731
        return Trunk(self.mask, x, x, None, 0, (block, block), dict, dict)

    def by_depth(self, batch, step):
        return {"mine": torch.tensor([torch.nan, 1.0, 2.0])}


def test_mask_tokens_are_measured_beside_what_a_system_measures_itself():
    system = Passing(Mask(torch.arange(6).expand(2, -1) < 3, 3))
    mine, measured = _by_depth(system, {}, Step()).values()
    assert mine[1:].tolist() == [1, 2]
    assert torch.equal(measured, profile(system.trunk({}, Step())))
    assert list(_by_depth(Passing(Mask(torch.full((2, 6), 0.5))), {}, Step())) == ["mine"]
    assert _by_depth(System(), {}, Step()) == {}


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
