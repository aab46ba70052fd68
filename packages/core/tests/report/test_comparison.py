"""Means, paired differences and words of a comparison whose runs are made up."""

from __future__ import annotations

import dataclasses
import json

import pytest
from scipy import stats

from polymask.evaluation.intervals import NOTHING
from polymask.report import charts
from polymask.report.comparison import Comparison
from polymask.report.curves import Curves
from polymask.report.templates import flat, render

KNN = {"a": [0.50, 0.60, 0.70], "b": [0.55, 0.651, 0.749], "c|d": [0.52, 0.57, 0.71]}


def comparison(seeds=(0, 1, 2), accuracies=True):
    values = {
        label: [
            {
                **(
                    {"kNN": knn, "untrained kNN": 0.4, "linear": 0.8, "untrained linear": 0.7}
                    if accuracies
                    else {}
                ),
                "loss": 1.0 + knn,
                "ms per sample": 2.0,
            }
            for knn in found[: len(seeds)]
        ]
        for label, found in KNN.items()
    }
    return Comparison(
        config={"system": "vision/mae", "data": {"name": "vision/digits"}, "steps": 3},
        variants={"a": {"masking": {"name": "a"}}, "b": {"masking": {"name": "b"}}, "c|d": {}},
        seeds=seeds,
        values=values,
        reference={"kNN": 0.9, "linear": 0.95} if accuracies else {},
        folders={label: [f"{label}-seed{s}" for s in seeds] for label in values},
    )


def test_means_have_t_intervals():
    found = comparison().mean("a", "kNN")
    low, high = stats.t.interval(0.95, 2, loc=0.6, scale=stats.sem(KNN["a"]))
    assert (found.mean, found.low, found.high) == pytest.approx((0.6, low, high))


def test_differences_are_paired_by_seed():
    result = comparison()
    # almost always 0.05 more: certain, although the means' intervals overlap widely
    assert 0 < result.difference("b", "kNN").error < 1e-3
    assert result.mean("b", "kNN").low < result.mean("a", "kNN").high
    assert result.verdict("b", "kNN") == "higher"
    paired = [c - a for c, a in zip(KNN["c|d"], KNN["a"], strict=True)]
    expected = stats.ttest_1samp(paired, 0).confidence_interval(1 - 0.05 / 2)
    found = result.difference("c|d", "kNN")  # one of two
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert result.verdict("c|d", "kNN") == "no difference seen"


def test_seeds_that_agree_to_the_last_digit_tell_nothing():
    values = [{"kNN": knn, "loss": 1.0, "ms per sample": 1.0} for knn in (0.5, 0.6, 0.7)]
    more = [{**value, "kNN": value["kNN"] + 0.05} for value in values]
    assert (
        Comparison({}, {"a": {}, "b": {}}, (0, 1, 2), {"a": values, "b": more}).verdict("b", "kNN") == NOTHING
    )


def test_a_test_of_few_samples_is_doubted_although_seeds_agree():
    """Both seeds answer two of twenty samples better: without the samples that would be certain."""
    right = {"a": "1" * 12 + "0" * 8, "b": "1" * 14 + "0" * 6}
    values = {
        k: [{"kNN": v.count("1") / 20, "loss": 1.0, "ms per sample": 1.0}] * 2 for k, v in right.items()
    }
    answers = {label: {"kNN": [[text], [text]]} for label, text in right.items()}
    small = Comparison({}, {"a": {}, "b": {}}, (0, 1), values, answers=answers)
    found = small.difference("b", "kNN")
    assert (
        found.mean == pytest.approx(0.1)
        and found.low < 0 < found.high
        and small.verdict("b", "kNN") == NOTHING
    )
    many = {label: {"kNN": [[50 * text], [50 * text]]} for label, text in right.items()}
    large = Comparison({}, {"a": {}, "b": {}}, (0, 1), values, answers=many)
    assert large.verdict("b", "kNN") == "higher"
    assert json.loads(json.dumps(large.to_json()))["answers"] == many


def made_up(**differences):
    """A comparison of variants that differ from the first by so much, give or take a thousandth."""
    values = {
        label: [
            {"kNN": base + by + 1e-3 * seed * bool(by), "loss": 1.0, "ms per sample": 1.0}
            for seed, base in enumerate((0.5, 0.6, 0.7))
        ]
        for label, by in {"first": 0.0, **differences}.items()
    }
    values["first"] = [{**v, "kNN": v["kNN"] + 1e-4 * (-1) ** k} for k, v in enumerate(values["first"])]
    return Comparison({}, {label: {} for label in values}, (0, 1, 2), values)


@pytest.mark.parametrize(
    ("one", "other", "said", "if_lower"),
    [
        (0.1, 0.1, "supports", "contradicts"),
        (0.1, 0.0, "supports in 1 of 2", "contradicts in 1 of 2"),
        (0.0, 0.0, NOTHING, NOTHING),
        (-0.1, 0.0, "contradicts in 1 of 2", "supports in 1 of 2"),
        (0.1, -0.1, "mixed", "mixed"),
    ],
)
def test_a_claim_is_mixed_only_where_one_is_higher_and_one_lower(one, other, said, if_lower):
    found = made_up(one=one, other=other)
    assert found.claimed(("one", "other"), "kNN") == said
    assert found.claimed(("one", "other"), "kNN", lower=True) == if_lower


def test_a_claim_is_one_of_as_many_comparisons_as_it_is_about():
    found = comparison()
    alone, among = found.difference("c|d", "kNN", 1), found.difference("c|d", "kNN")
    assert among.high - among.low > alone.high - alone.low


def test_a_claim_about_cost_says_at_what_it_is_equal():
    """Twice the rows in a step: better at equal steps, and the same at equal rows."""

    def line(scale, seed):
        steps = [10, 20, 30, 40]
        reached = [scale * s * (1 + 1e-3 * seed * (scale > 0.005)) for s in steps]
        return {"steps": steps, "seconds": steps, "kNN": reached, "linear": reached}

    lines = {"first": [line(0.005, k) for k in range(3)], "one": [line(0.01, k) for k in range(3)]}
    found = dataclasses.replace(made_up(one=0.2), curves=Curves(lines, {"first": 64, "one": 128}))
    assert found.claimed(("one",), "kNN") == f"supports at equal steps, {NOTHING} at equal rows encoded"
    same = dataclasses.replace(found, curves=Curves(lines, {"first": 64, "one": 64}))
    assert same.claimed(("one",), "kNN") == "supports"


def test_lower_is_said_too():
    values = {"a": comparison().values["b"], "b": comparison().values["a"]}
    turned = Comparison({}, {"a": {}, "b": {}}, (0, 1, 2), values)
    assert turned.verdict("b", "kNN") == "lower"


def test_one_seed_cannot_tell():
    result = comparison(seeds=(0,))
    assert result.verdict("b", "kNN") == "one seed cannot tell"
    assert "±" not in result.markdown()
    json.dumps(result.to_json(), allow_nan=False)


def test_differences_are_a_row_per_variant_and_say_what_is_beyond_doubt():
    heading, *rows = comparison().differences()
    assert heading == ["minus a", "kNN", "linear"] and [row[0] for row in rows] == ["b", "c|d"]
    for row in rows:
        for measure, cell in zip(heading[1:], row[1:], strict=True):
            found = comparison().difference(row[0], measure)
            half = found.high - found.mean
            word = "" if found.verdict == NOTHING else f" {found.verdict}"
            assert cell == f"{found.mean:+.3f} ± {half:.3f}{word}"
    assert any(cell.endswith(" higher") for cell in rows[0]) and not rows[1][1][-1].isalpha()
    heading, *rows = comparison(seeds=(0,)).differences()
    assert heading[0] == "minus a (one seed cannot tell)"
    assert not any("higher" in cell or "lower" in cell for row in rows for cell in row)


def test_the_table_has_every_variant_and_the_references():
    names = [row[0] for row in comparison().rows()]
    assert names == ["variant", "a", "b", "c|d", "untrained", "raw input"]
    assert comparison().rows()[-1] == ["raw input", "0.900", "0.950", "", ""]
    assert comparison().rows()[1][1] == "0.600 ± 0.248"


def test_markdown_keeps_its_columns():
    lines = [line for line in comparison().markdown().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {4, 6}
    assert "c\\|d" in lines[4]


def test_without_labels_losses_are_compared_and_not_accuracies():
    result = comparison(accuracies=False)
    assert result.measures == ["loss", "ms per sample"]
    assert len(result.differences()) == 1
    assert "loss" in charts.svg(result.draw(charts.PAGE), "loss")


def test_json_round_trip():
    found = json.loads(json.dumps(comparison().to_json(), allow_nan=False))
    assert found["results"]["b"]["difference"]["kNN"]["verdict"] == "higher"
    assert found["results"]["a"]["values"][2]["kNN"] == 0.7
    assert "never stand for those of a paper" in found["notes"]


def test_the_page_escapes_names_and_loads_nothing():
    result = comparison()
    text = render(
        "comparison.html.j2",
        found=result,
        notes="<notes>",
        chart_title="Accuracy",
        chart=charts.svg(result.draw(charts.PAGE), "chart"),
        config=flat({"source": "<script>alert(1)</script>"}),
        changes={"<a>": {"b": "c"}},
    )
    assert (
        "<script" not in text and "&lt;script&gt;" in text and "&lt;notes&gt;" in text and "<a>" not in text
    )
    assert "http" not in text and "src=" not in text
