"""Errors of distances, what is done to images and boxes, and rivals that look at no pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, Run, RunConfig, Step, System, UserError
from polymask.evaluation.intervals import jackknife_interval
from polymask.evaluation.result import TRAINED
from polymask_vision.boxes import boxes_of
from polymask_vision.evaluations.distance import (
    CONSTANT,
    SIZE,
    Distance,
    Rivals,
    by_image,
    errors,
    jittered,
    occluded,
    scores,
)

STEP = Step(0, 1, 3)


def batch_of(n: int = 40) -> Batch:
    chance = torch.Generator().manual_seed(0)
    corner = torch.rand(n, 2, 2, generator=chance) * torch.tensor([24.0, 24.0])
    corner[:, 1] += torch.tensor([0.0, 32.0])
    box = torch.cat([corner, corner + 8 + 16 * torch.rand(n, 2, 2, generator=chance)], dim=2).clamp_max(64)
    return {"image": torch.rand(n, 3, 64, 64, generator=chance), "boxes": box.round(), "id": torch.arange(n)}


def test_errors_by_hand() -> None:
    told, truth = torch.tensor([2.0, 5.0, 1.0, -1.0]), torch.tensor([2.0, 4.0, 1.26, 1.0])
    found = errors(told, truth)
    torch.testing.assert_close(found["AbsRel"], torch.tensor([0.0, 0.25, 0.26 / 1.26, 2.0]))
    torch.testing.assert_close(found["RMSE"], torch.tensor([0.0, 1.0, 0.0676, 4.0]))
    assert found["within 1.25"].tolist() == [1, 0, 0, 0]  # 5 / 4 is not below


def test_objects_of_one_image_are_no_more_than_the_image() -> None:
    """Each object ten times over: the scores are the same, and so are their intervals."""
    chance = torch.Generator().manual_seed(0)
    truth = torch.rand(30, 2, generator=chance) + 1
    told, known = truth * (0.6 + 0.8 * torch.rand(30, 2, generator=chance)), torch.rand(30, 2) < 0.8
    once = by_image(told, truth, known)
    often = by_image(*(x.repeat(1, 10) for x in (told, truth, known)))
    assert once.shape == (30, 4) and torch.equal(once[:, 3], known.sum(1).double())
    for metric, value in scores(once.sum(0)).items():
        torch.testing.assert_close(scores(often.sum(0))[metric], value, rtol=1e-5, atol=0)
        one, other = (
            jackknife_interval(float(value), scores(x.sum(0) - x)[metric], 0.0, 1.0) for x in (once, often)
        )
        assert one.low == pytest.approx(other.low, rel=1e-4) and one.error > 0
    flat = errors(told[known], truth[known])
    assert float(scores(once.sum(0))["RMSE"]) == pytest.approx(float(flat["RMSE"].mean().sqrt()), rel=1e-5)


def test_a_share_of_each_box_is_covered_and_nothing_else() -> None:
    batch = batch_of()
    changed = (occluded(batch, 0.4, STEP)["image"] != batch["image"]).all(1)
    inside = torch.zeros_like(changed)
    shares = []
    for row, boxes in enumerate(batch["boxes"].int().tolist()):
        for left, top, right, bottom in boxes:
            inside[row, top:bottom, left:right] = True
            shares.append(float(changed[row, top:bottom, left:right].float().mean()))
    assert not (changed & ~inside).any()
    assert sum(shares) / len(shares) == pytest.approx(0.4, abs=0.05)
    again = occluded({name: x[5:7] for name, x in batch.items()}, 0.4, STEP)["image"]
    assert torch.equal(again, occluded(batch, 0.4, STEP)["image"][5:7])
    short = {**batch, "boxes_length": torch.ones(40, dtype=torch.int64)}
    fewer = (occluded(short, 0.4, STEP)["image"] != batch["image"]).all(1)
    assert not (fewer & ~changed).any() and not fewer[:, 32:, :24].all(0).any()
    first = batch["boxes"][0, 1].int().tolist()
    assert not fewer[0, first[1] : first[3], first[0] : first[2]].any()  # padding covers nothing


def test_boxes_move_and_grow_by_at_most_a_share_of_their_sides() -> None:
    batch = batch_of()
    batch["boxes"] = batch["boxes"] + 200
    batch["image"] = torch.zeros(40, 1, 600, 600)
    found = jittered(batch, 0.15, STEP)["boxes"]
    low, high = batch["boxes"][..., :2], batch["boxes"][..., 2:]
    side, now = high - low, found[..., 2:] - found[..., :2]
    growth = now / side - 1
    shift = ((found[..., :2] + found[..., 2:]) - (low + high)) / 2 / side
    for each in (growth, shift):
        assert each.abs().max() <= 0.1501 and each.abs().max() > 0.13 and each.mean().abs() < 0.04
    cut = jittered({**batch, "image": torch.zeros(40, 1, 220, 230)}, 0.15, STEP)["boxes"]
    assert cut[..., 0::2].max() == 230 and cut[..., 1::2].max() == 220
    none = {**batch, "boxes": torch.zeros(40, 0, 4)}
    assert jittered(none, 0.15, STEP)["boxes"].shape == (40, 0, 4)


class Knowing(System):
    """Tells the distances that samples have, times a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.1))

    def distances(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.factor * batch["distance"], boxes_of(batch, "")[1]


class OfSystem:
    """A run that holds a system and data."""

    name = "a run"

    def __init__(self, system: Any, data: Any) -> None:
        self.system, self.data = system, data


def placed(**options: Any) -> Any:
    from polymask.data import open_data

    return open_data("vision/placed-objects", count=40, pixels=32, **options)


def test_a_system_that_knows_is_a_tenth_off_and_rivals_go_by_the_boxes() -> None:
    run: Any = OfSystem(Knowing(), placed())
    measured = list(Distance(batch_size=7)(run))
    assert all((one.low or 0) >= 0 and (one.high or 0) <= 1 for one in measured if "within" in one.metric)
    # all are right of all that were asked: a share has an interval then too
    assert all(one.low < 1 == one.value for one in measured if one.row == TRAINED and "within" in one.metric)
    found = {(one.row, one.metric): one.value for one in measured}
    for condition in ("", ", occluded", ", jittered"):
        assert found[TRAINED, f"AbsRel{condition}"] == pytest.approx(0.1, abs=1e-4)
        assert found[TRAINED, f"within 1.25{condition}"] == 1
    truth = torch.cat([run.data.split("test")[i]["distance"] for i in range(8)])
    assert found[TRAINED, "RMSE"] == pytest.approx(float((truth * 0.1).square().mean().sqrt()), rel=1e-4)
    # digits are wider where they are nearer, each by a size of its own
    assert found[SIZE, "AbsRel"] < 0.7 * found[CONSTANT, "AbsRel"]
    # what covers an object leaves its box as it is
    assert found[SIZE, "AbsRel, occluded"] == found[SIZE, "AbsRel"] != found[SIZE, "AbsRel, jittered"]
    rivals = Rivals.of(run, None, 16)
    assert -1 < rivals.slope < -0.4
    train = run.data.split("train")
    every = torch.cat([train[i]["distance"] for i in range(len(train))])
    assert rivals.median == pytest.approx(float(every.median()))


def test_what_tells_no_distance_and_data_without_one_are_refused() -> None:
    with pytest.raises(UserError, match="does not tell distances"):
        next(iter(Distance()(OfSystem(nn.Linear(1, 1), placed()))))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no object in training has a known distance"):
        next(iter(Distance()(OfSystem(Knowing(), placed(labelled=0.0)))))  # type: ignore[arg-type]


def test_a_run_of_mom_is_measured(tmp_path: Path) -> None:
    data = {"name": "vision/placed-objects", "count": 16}
    config = {"system": "vision/mom", "preset": "tiny", "data": data, "steps": 2, "workers": 0}
    run = Run.create(RunConfig.resolve(config), tmp_path / "run")
    found = list(Distance()(run))
    assert len(found) == 27 and {one.row for one in found} == {TRAINED, CONSTANT, SIZE}
