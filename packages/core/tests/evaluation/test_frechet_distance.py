"""The distance of what is generated from what is held out: closed forms, budgets, refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from polymask import System, UserError
from polymask.data import evenly
from polymask.evaluation.features import extract, raw_features
from polymask.evaluation.frechet_distance import COST, DISTANCE, REAL, FrechetDistance, distance
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.systems.base import Generation


class Copies(System):
    """Gives samples back, moved and scaled as its options say."""

    def __init__(self, moved: float = 0.0) -> None:
        super().__init__()
        self.moved, self.weight, self.seen = moved, nn.Parameter(torch.zeros(1)), list[Any]()

    def forward(self, batch, step):
        return {"loss": self.weight.sum()}

    def generate(self, batch, step, mask=None, *, more: float = 0.0):
        """Give samples back."""
        self.seen.append((batch["id"], step))
        return Generation({"image": batch["image"] + self.moved + more})


@pytest.fixture
def run(toy_data) -> SimpleNamespace:
    copies = Copies()
    return SimpleNamespace(system=copies, data=toy_data(test=40), step=1, untrained=lambda: Copies(2.0))


def measured(run, **options: Any) -> dict[tuple[str, str], float]:
    return {(found.row, found.metric): found.value for found in FrechetDistance(**options)(run)}


def test_distance_of_normal_distributions():
    x = torch.randn(500, 3, dtype=torch.float64)
    assert distance(x, x) == pytest.approx(0, abs=1e-6)
    assert distance(x, x + torch.tensor([1.0, 2.0, 0.0])) == pytest.approx(5, rel=1e-4)
    # of one number: the squared difference of means and of deviations
    a, b = torch.randn(100, 1), 3 * torch.randn(80, 1) + 1
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert distance(a, b) == pytest.approx(float(expected), rel=1e-4)


def test_rows_are_budgets_beside_an_untrained_system_and_real_samples(run):
    found = measured(run, budgets=({}, {"more": 1.0}), batch_size=7)
    assert list(dict.fromkeys(row for row, _ in found)) == [TRAINED, "more 1.0", UNTRAINED, REAL]
    numbers = run.data.split("test")[0]["image"].numel()
    assert found[TRAINED, DISTANCE] == pytest.approx(0, abs=1e-3)
    assert found["more 1.0", DISTANCE] == pytest.approx(numbers, rel=1e-3)
    assert found[UNTRAINED, DISTANCE] == pytest.approx(4 * numbers, rel=1e-3)
    look = {"": raw_features("image")}
    real = [extract(look, x, evenly(len(x), 40))[""] for x in map(run.data.split, ("train", "test"))]
    assert found[REAL, DISTANCE] == pytest.approx(distance(*real), rel=1e-3)
    assert found[TRAINED, COST] > 0


def test_samples_have_their_own_ids_and_the_seed(run):
    measured(run, samples=10, batch_size=4, seed=3)
    ids = torch.cat([ids for ids, _ in run.system.seen])
    assert len(set(ids.tolist())) == 10 and {step.seed for _, step in run.system.seen} == {3}


def test_what_cannot_be_measured_is_refused(run):
    with pytest.raises(UserError, match=r"lss is no option of generation by Copies; there are more"):
        measured(run, budgets=({"lss": 1},))
    with pytest.raises(UserError, match="two samples or more"):
        measured(run, samples=1)
    with pytest.raises(UserError, match="generates nothing"):
        measured(SimpleNamespace(system=System()))
