"""Budgets and areas of curves that are made up, so that their values are known."""

from __future__ import annotations

import json

import pytest

from polymask.report import charts
from polymask.report.comparison import Comparison
from polymask.report.curves import ROWS, SECONDS, STEPS, Curves, line_of


def line(steps, knn, seconds_per_step=1.0):
    return {
        "steps": list(steps),
        "seconds": [step * seconds_per_step for step in steps],
        "kNN": list(knn),
        "linear": [0.5] * len(knn),
    }


def curves(rows=None):
    """Accuracy rises by 0.1 per 10 steps in a, twice as fast in b, whose steps take four times as long."""
    one = [line((10, 20, 30, 40), (0.1, 0.2, 0.3, 0.4)), line((10, 20, 30, 40), (0.2, 0.3, 0.4, 0.5))]
    two = [line((10, 20, 30, 40), (0.2, 0.4, 0.6, 0.8), 4), line((10, 20, 30, 40), (0.3, 0.5, 0.7, 0.9), 4)]
    return Curves({"a": one, "b": two}, rows or {})


def test_a_line_is_read_from_rows_that_were_probed():
    rows = [
        {"step": 5, "seconds": 2.0},
        {"step": 10, "seconds": 1.0, "kNN": 0.5, "linear": 0.6},
        {"step": 15, "seconds": 4.0, "kNN": 0.7, "linear": 0.8},
    ]
    assert line_of(rows) == {
        "steps": [10, 15],
        "seconds": [2.0 + 1.0, 2.0 + 1.0 + 4.0],
        "kNN": [0.5, 0.7],
        "linear": [0.6, 0.8],
    }
    assert line_of(rows[:1]) == {}


@pytest.mark.parametrize(
    ("axis", "budget", "expected"),
    [
        (STEPS, 40, 0.8 - 0.4),
        (SECONDS, 40, 0.2 - 0.4),  # b has done 10 steps when a has done 40
        (ROWS, 40 * 64, 0.4 - 0.4),  # b encodes two rows where a encodes one: 20 steps of b
    ],
)
def test_accuracies_are_compared_at_the_largest_budget_that_both_had(axis, budget, expected):
    found = curves({"a": 64, "b": 128})
    assert found.shared(0, axis) == budget
    assert found.difference("b", "a", "kNN", axis).mean == pytest.approx(expected)
    assert found.difference("b", "a", "linear", axis).mean == 0


def test_between_two_points_accuracy_lies_on_the_line():
    one, two = line((10, 20), (0.1, 0.3)), line((10, 15), (0.0, 0.0))
    assert Curves({"a": [one], "b": [two]}).reached("a", 0, "kNN", STEPS) == pytest.approx(0.2)


def test_the_area_is_the_mean_over_what_all_have_reached():
    found = curves()
    assert found.area("a", 0, "kNN", STEPS) == pytest.approx(0.25)
    assert found.difference("b", "a", "kNN", STEPS, area=True).mean == pytest.approx(0.25)
    # from 40 seconds, the first point of b, to 40 seconds, the last of a
    assert found.area("b", 0, "kNN", SECONDS) == pytest.approx(0.2)


def test_seconds_can_be_those_of_a_quiet_machine():
    found = curves().at_cost({"a": 0.5, "b": 1.0})
    assert found.budget("a", 0, SECONDS).tolist() == [5, 10, 15, 20]
    # 20 steps of b when a has done 40
    assert found.difference("b", "a", "kNN", SECONDS).mean == pytest.approx(0.0)
    assert found.difference("b", "a", "kNN", STEPS) == curves().difference("b", "a", "kNN", STEPS)


def test_rows_are_an_axis_where_they_are_known():
    assert curves().axes == [STEPS, SECONDS]
    assert curves({"a": 1, "b": 2}).axes == [STEPS, ROWS, SECONDS]
    assert [row[:2] for row in curves({"a": 1, "b": 2}).table("a")[1:]] == [
        ["b", STEPS],
        ["b", ROWS],
        ["b", SECONDS],
    ]


def test_a_comparison_shows_its_curves():
    values = {label: [{"kNN": 0.5, "loss": 1.0, "ms per sample": 1.0}] * 2 for label in "ab"}
    found = Comparison({}, {"a": {}, "b": {}}, (0, 1), values, curves=curves())
    assert "+0.400" in found.markdown()
    assert found.to_json()["curves"]["lines"]["a"][0]["steps"] == [10, 20, 30, 40]
    json.dumps(found.to_json(), allow_nan=False)
    assert "kNN accuracy" in charts.svg(found.curves.draw(charts.PAGE), "curves")
