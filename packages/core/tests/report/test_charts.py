"""Charts stand in a page: no address, no foreign colour, names escaped, the same each time."""

from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
import pytest
import torch

from polymask import Step
from polymask.evaluation import Interval
from polymask.maskings import Random
from polymask.report import charts
from polymask.report.charts import PAGE, PAPER
from polymask.report.panels import panels_of
from polymask.report.statistics import describe, mask_statistics


def drawn(names=("<b>", "a & b")):
    made, axes = charts.panel(3, 2)
    charts.curves(charts.style(axes, PAGE, "step"), PAGE, range(3), {name: [1.0, 2.0, 3.0] for name in names})
    return charts.svg(made, 'a "chart" & more')


def test_svg_is_self_contained_and_escaped():
    text = drawn()
    assert "http" not in text and "xmlns" not in text and "<metadata" not in text
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert 'aria-label="a &quot;chart&quot; &amp; more"' in text


def test_svg_takes_the_colours_of_the_page():
    text = drawn()
    for name in ("ink", "muted", "line", "series-1", "series-2"):
        assert f"var(--{name})" in text
    assert not re.search(r"#0100", text)


def test_svg_is_the_same_each_time():
    assert drawn() == drawn()


def test_settings_of_matplotlib_stay_as_they_are():
    before = dict(mpl.rcParams)
    drawn()
    assert dict(mpl.rcParams) == before


def test_losses_over_decades_are_drawn_on_a_logarithmic_axis():
    for values, scale in (([10.0, 1.0, 0.1], "log"), ([1.0, 0.9, 0.8], "linear"), ([9.0, 0.0], "linear")):
        _, axes = charts.panel(3, 2)
        charts.curves(axes, PAGE, range(len(values)), {"loss": values})
        charts.logarithmic(axes)
        assert axes.get_yscale() == scale


def test_rows_without_a_value_are_left_out():
    _, axes = charts.panel(3, 2)
    charts.curves(axes, PAGE, range(4), {"rank": [float("nan"), 3.0, float("nan"), 4.0]})
    assert axes.lines[0].get_xydata().tolist() == [[1, 3], [3, 4]]


def test_unbounded_intervals_are_drawn_as_dots():
    _, axes = charts.panel(3, 2)
    infinite = Interval(0.5, float("nan"), -float("inf"), float("inf"))
    charts.dots(axes, PAPER, ["a"], {"kNN": [infinite]}, "accuracy")
    assert 0 <= axes.get_xlim()[0] < axes.get_xlim()[1] <= 1


@pytest.mark.parametrize(("grid", "expected"), [((6, 6), 4), ((12,), 4), ((2, 3, 4), 4), (None, 2)])
def test_panels_for_any_sites(grid, expected):
    if grid is None:
        found = describe(torch.arange(20)[None] < torch.arange(3, 9)[:, None], None)
    else:
        found = mask_statistics(Random(ratio=0.5), grid, n=64, step=Step(3))
    panels = panels_of(found)
    assert len(panels) == expected
    for panel in panels:
        made, axes = charts.panel(3, 2)
        panel.draw(axes, PAGE, found)
        assert charts.svg(made, panel.title).startswith("<svg")


def test_a_uniform_masking_looks_uniform():
    """Chance moves the colours by less than a third of their range."""
    found = mask_statistics(Random(ratio=0.5), (7, 7), n=2048)
    _, axes = charts.panel(3, 2)
    panels_of(found)[0].draw(axes, PAGE, found)
    low, high = axes.collections[0].get_clim()
    assert (found.coverage - found.ratio.mean()).abs().max() < 0.33 * (high - low) / 2


def test_sites_in_one_column_are_a_line_from_the_top():
    hidden = torch.arange(12) < torch.arange(1, 13)[:, None]
    found = describe(hidden, (12, 1))
    _, axes = charts.panel(3, 2)
    panels_of(found)[0].draw(axes, PAGE, found)
    share, row = axes.lines[0].get_data()
    assert share.tolist() == found.coverage.flatten().tolist() == sorted(share, reverse=True)
    assert row.tolist() == list(range(12)) and axes.get_ylim()[0] > axes.get_ylim()[1]


def test_coverage_on_three_axes_is_slices_with_gaps():
    """Of 16 slices every second: eight in three rows of three, the last place empty."""
    hidden = torch.rand(40, 16 * 2 * 3, generator=torch.Generator().manual_seed(0)) < 0.5
    found = describe(hidden, (16, 2, 3))
    _, axes = charts.panel(3, 2)
    title, _, draw = panels_of(found)[0]
    draw(axes, PAGE, found)
    shown = np.ma.filled(axes.collections[0].get_array().reshape(3 * 3 - 1, 3 * 4 - 1), np.nan)
    assert title == "Coverage by position, in slices"
    for k in range(8):
        top, left = k // 3 * 3, k % 3 * 4
        assert np.array_equal(shown[top : top + 2, left : left + 3], found.coverage[2 * k])
    assert np.isnan(shown).sum() == shown.size - 8 * 6


def test_no_two_lines_look_alike():
    axes = charts.figure(4, 3).subplots()
    charts.curves(axes, PAPER, range(3), {str(k): [1.0, 2.0, 3.0] for k in range(15)})
    looks = [(line.get_color(), str(line.get_linestyle()), line._dash_pattern) for line in axes.lines]
    assert len(set(map(str, looks))) == 15 and len({colour for colour, *_ in looks}) == 5
