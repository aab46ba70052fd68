"""Dense evaluation: scores against scikit-learn, intervals by hand and over samples, and who sees what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.metrics import jaccard_score, r2_score, root_mean_squared_error
from torch import Tensor

from polymask import UserError
from polymask.evaluation import dense
from polymask.evaluation.classifiers import fit_linear, fit_ridge
from polymask.evaluation.dense import MAJORITY, MEAN, Dense
from polymask.evaluation.intervals import jackknife_interval


def samples(n: int, seed: int, classes: int = 3, places: int = 40) -> list[dict[str, Tensor]]:
    """Features in which the class of a place shows, with noise; every seventh place is not known."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        label = torch.randint(0, classes, (places,), generator=generator)
        x = torch.nn.functional.one_hot(label, 4) + 0.6 * torch.randn(places, 4, generator=generator)
        label[::7] = -1
        found.append({"x": x, "label": label})
    return found


def probe(**options: Any) -> Dense:
    usual: dict[str, Any] = {
        "truth": lambda batch: batch["label"],
        "spread": lambda values, chosen: values[chosen],
        "samples": None,
        "places": 30,
        "test_places": None,
        "seed": 0,
        "batch_size": 4,
    }
    return Dense(**{**usual, **options})


ROWS = {"one": lambda batch: batch["x"]}


def by_row(found: Any) -> dict[tuple[str, str], Any]:
    return {(one.row, one.metric): one for one in found}


def test_scores_are_scikit_learns_at_every_known_place():
    train, test = samples(10, 0), samples(7, 1)
    scores = by_row(probe(classes=("a", "b")).measure(ROWS, train, test))
    x, truth, groups = probe().collect(ROWS, train)
    assert len(truth) == 10 * 30 and groups.bincount().tolist() == [30] * 10
    every = torch.cat([one["label"] for one in test])
    guess = fit_linear(x["one"], truth).predict(torch.cat([one["x"] for one in test]))[every >= 0]
    every = every[every >= 0]
    assert scores["one", "accuracy"].value == pytest.approx(float((guess == every).double().mean()))
    assert scores["one", "mIoU"].value == pytest.approx(jaccard_score(every, guess, average="macro"))
    each = jaccard_score(every, guess, average=None)
    named = [scores["one", f"IoU of {name}"].value for name in ("a", "b", "2")]
    assert named == pytest.approx(each.tolist())
    usual = torch.full_like(every, int(truth.bincount().argmax()))
    assert scores[MAJORITY, "mIoU"].value == pytest.approx(jaccard_score(every, usual, average="macro"))


def test_a_class_that_is_told_and_is_not_there_takes_from_others_alone():
    counts = dense.counts(torch.tensor([0, 0, 2, 1]), torch.tensor([0, 0, 0, 1]), torch.tensor(0))
    assert float(dense._of_counts(counts.double())["mIoU"]) == pytest.approx((2 / 3 + 1) / 2)


def test_values_are_regressed():
    def valued(one: dict[str, Tensor]) -> dict[str, Tensor]:
        value = one["x"] @ torch.tensor([1.0, -2, 3, 0]) + 5
        return {"x": one["x"], "label": value.masked_fill(one["label"] < 0, torch.nan)}

    train, test = [valued(one) for one in samples(10, 0)], [valued(one) for one in samples(7, 1)]
    rows = {**ROWS, "part": lambda batch: batch["x"][..., :2]}
    scores = by_row(probe().measure(rows, train, test))
    assert scores["one", "R2"].value > 0.999 and scores["one", "RMSE"].value < 0.1
    x, truth, groups = probe().collect(rows, train)
    every = torch.cat([one["label"] for one in test])
    known = every.isfinite()
    guess = fit_ridge(x["part"], truth, groups).scores(torch.cat([one["x"] for one in test])[:, :2])[known, 0]
    true, guessed = every[known].numpy(), guess.numpy()
    assert scores["part", "R2"].value == pytest.approx(r2_score(true, guessed), rel=1e-5)
    rmse = root_mean_squared_error(true, guessed)
    assert scores["part", "RMSE"].value == pytest.approx(rmse, rel=1e-5)
    assert scores[MEAN, "R2"].value <= 0


def test_the_jackknife_of_a_mean_is_its_t_interval():
    from polymask.evaluation.intervals import t_interval

    values = torch.tensor([0.2, 0.5, 0.9, 0.4, 0.7], dtype=torch.float64)
    without = (values.sum() - values) / 4
    found, expected = jackknife_interval(float(values.mean()), without), t_interval(values.tolist())
    assert (found.error, found.low, found.high) == pytest.approx(
        (expected.error, expected.low, expected.high)
    )
    assert jackknife_interval(0.9, without, -1.0, 1.0).high == 1.0
    sure = jackknife_interval(1.0, torch.ones(20, dtype=torch.float64), 0.0, 1.0)
    assert 0.8 < sure.low < 0.9 and sure.high == 1.0  # of 20 samples, as Wilson has it
    assert jackknife_interval(0.9, without[:1]).error != jackknife_interval(0.9, without[:1]).error


def test_places_of_one_sample_are_no_independent_answers():
    """The same places in fewer samples, each right or wrong as a whole, say less."""
    train = samples(10, 0)

    def width(test: list[dict[str, Tensor]]) -> float:
        found = by_row(probe().measure(ROWS, train, test))["one", "accuracy"]
        return found.high - found.low

    good, bad = samples(8, 1, places=60), samples(8, 2, places=60)
    for one in bad:
        one["label"] = torch.where(one["label"] < 0, -1, (one["label"] + 1) % 3)
    mixed = [{key: torch.cat([a[key], b[key]]) for key in a} for a, b in zip(good, bad, strict=True)]
    assert width(good + bad) > 3 * width(mixed)


def test_rows_share_their_places_and_the_test_is_asked_at_as_many_as_wanted():
    rows = {**ROWS, "twice": lambda batch: 2 * batch["x"]}
    x, _, _ = probe(samples=5).collect(rows, samples(10, 0))
    assert len(x["one"]) == 5 * 30 and torch.equal(x["twice"], 2 * x["one"])
    asked: list[int] = []

    def spread(values: Tensor, chosen: Tensor) -> Tensor:
        asked.append(int(chosen.sum()))
        return values[chosen]

    list(probe(spread=spread, test_places=3).measure(ROWS, samples(4, 0), samples(4, 1)))
    assert asked == [4 * 30, 4 * 3]


def test_spreading_scores_is_scoring_what_was_spread():
    train = probe().collect(ROWS, samples(10, 0))
    wide = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    # more features than places: the fit is in their span
    for x in (train[0]["one"], (train[0]["one"] @ wide)[:30]):
        fit = fit_linear(x, train[1][: len(x)])
        a, b = x[:5], x[5:10]
        # features are standardised in float32, whatever the classifier of this scikit-learn counts in
        scores, expected = fit.scores((a + 3 * b) / 4), (fit.scores(a) + 3 * fit.scores(b)) / 4
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(fit.classes[fit.scores(x).argmax(1)], fit.predict(x))
        two = fit_linear(x, (train[1][: len(x)] > 0).long() * 5)
        assert two.classes.tolist() == [0, 5]
        assert torch.equal(two.classes[two.scores(x[None])[0].argmax(1)], two.predict(x))
    alone = fit_linear(x, torch.full((len(x),), 4))
    assert alone.classes[alone.scores(x).argmax(1)].tolist() == alone.predict(x).tolist() == [4] * len(x)


def test_the_penalty_is_chosen_on_groups_held_out_whole():
    """A feature that numbers the group tells its values within groups that were seen, and in no other."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(20).repeat_interleave(10)
    noise = torch.randn(200, 1, generator=generator)
    x = torch.cat([torch.nn.functional.one_hot(groups, 20).float(), noise], dim=1)
    y = torch.randn(20, generator=generator)[groups] * 3 + noise[:, 0]
    chosen = [fit_ridge(x, y, g).model.alpha for g in (groups, torch.arange(200))]
    assert chosen[0] > chosen[1]


def test_samples_without_a_known_place_are_refused():
    blank = [{"x": one["x"], "label": torch.full((40,), -1)} for one in samples(3, 0)]
    with pytest.raises(UserError, match="none of 3 samples has a place whose label is known"):
        list(probe().measure(ROWS, blank, samples(2, 1)))
    with pytest.raises(UserError, match="not finite"):
        list(probe().measure({"one": lambda batch: batch["x"] * torch.inf}, samples(3, 0), samples(2, 1)))


def test_intervals_are_of_the_score_without_each_sample():
    train, test = samples(10, 0), samples(6, 1)
    for metric in ("mIoU", "accuracy"):
        found = by_row(probe().measure(ROWS, train, test))["one", metric]
        without = [
            by_row(probe().measure(ROWS, train, test[:i] + test[i + 1 :]))["one", metric].value
            for i in range(6)
        ]
        expected = jackknife_interval(found.value, torch.tensor(without, dtype=torch.float64), 0.0, 1.0)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
