"""A dense probe: features at points, scores against scikit-learn, and a run from end to end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import Tensor, nn

from polymask import Batch, System, Tokens, UserError
from polymask.data import collate
from polymask_pointcloud.dense import LABEL, Dense, at_points, mean_iou, of_surfaces
from polymask_pointcloud.tokenizers import UNIT


class Scenes:
    """Points whose class is the colour of a chequered box where they lie: nothing linear tells it."""

    key = "points"

    def split(self, name: str, *, augment: bool = False) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(len(name))
        found = []
        for _ in range(12):
            count = int(torch.randint(60, 90, (1,), generator=generator))
            points = 2 * torch.rand(count, 3, generator=generator) - 1
            label = (points > 0).sum(1) % 2
            label[::7] = -1
            found.append({"points": points, LABEL: label})
        return found


class Answer(System):
    """An encoder of points that knows their class, or nothing."""

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows, self.weight = knows, nn.Parameter(torch.ones(1))
        self.saw: set[str] = set()

    def encode(self, batch: Batch) -> Tokens:
        self.saw |= set(batch)
        points = batch["points"]
        value = ((points > 0).sum(-1) % 2).float() if self.knows else torch.zeros(points.shape[:2])
        valid = torch.arange(points.shape[1]) < batch["points_length"][:, None]
        return Tokens(torch.stack([value, -value], dim=-1), points / UNIT, valid=valid)


def test_mean_iou_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, guess = (torch.randint(0, 5, (300,), generator=generator) for _ in range(2))
    theirs = jaccard_score(truth.numpy(), guess.numpy(), average="macro")
    assert mean_iou(guess, truth) == pytest.approx(theirs)
    # a class that is guessed and is not there has no union of its own, but takes from others
    assert mean_iou(torch.tensor([0, 0, 2, 1]), torch.tensor([0, 0, 0, 1])) == pytest.approx((2 / 3 + 1) / 2)


def test_features_at_points_are_those_of_near_tokens_by_distance() -> None:
    position = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [50, 0, 0], [0.2, 0, 0]]])
    values = torch.tensor([[[1.0], [2], [3], [100], [1000]]])
    valid = torch.tensor([[True, True, True, True, False]])
    points = torch.tensor([[[0.0, 0, 0], [0.5, 0, 0]]]) * UNIT
    found = at_points(Tokens(values, position, valid=valid), points)[0, :, 0]
    far = (0.25 + 1) ** 0.5
    weight = torch.tensor([1 / 0.5, 1 / 0.5, 1 / far])
    expected = float((weight * torch.tensor([1.0, 2, 3])).sum() / weight.sum())
    assert found.tolist() == pytest.approx([1.0, expected], rel=1e-4)
    # pillars are as far as they are in x and y
    flat = at_points(Tokens(values, position[..., :2], valid=valid), points + torch.tensor([0.0, 0, 9.0]))
    torch.testing.assert_close(flat[0, :, 0], found)


def test_a_floor_and_a_wall_are_told_by_hand_whatever_pads_them() -> None:
    generator = torch.Generator().manual_seed(0)
    side, other = 2 * torch.rand(2, 80, generator=generator) - 1
    floor = torch.stack([side, other, torch.zeros(80)], dim=1)
    wall = torch.stack([side[:70], side[:70], other[:70]], dim=1)
    batch = collate([{"points": floor}, {"points": wall}])
    found = of_surfaces("points")(batch)
    assert found.shape == (2, 80, 15) and torch.equal(found[..., :3], batch["points"])
    for rows, upright in ((found[0], 1.0), (found[1, :70], 0.0)):
        for normal, bend in ((rows[:, 3:6], rows[:, 6:9]), (rows[:, 9:12], rows[:, 12:])):
            torch.testing.assert_close(normal[:, 2], torch.full((len(rows),), upright), atol=1e-3, rtol=0)
            assert normal.min() >= 0 and bend[:, 2].max() < 1e-4 and (bend.sum(1) - 1).abs().max() < 1e-5


def test_points_without_a_class_and_padding_are_left_out_and_rows_share_the_rest() -> None:
    samples = Scenes().split("train")
    dense = Dense(scenes=5, points=20, batch_size=2)
    rows = {"one": lambda batch: batch["points"], "other": lambda batch: 2 * batch["points"]}
    features, labels = dense.collect(rows, samples, "points")
    assert len(labels) == 5 * 20 and int(labels.min()) == 0
    assert torch.equal(features["other"], 2 * features["one"])
    # every point is one of its scene, of the class that is kept with it, and none comes twice
    assert torch.equal((features["one"] > 0).sum(1) % 2, labels)
    assert len(torch.unique(features["one"], dim=0)) == 100
    every, _ = Dense(scenes=None, points=1000).collect(rows, samples, "points")
    assert len(every["one"]) == sum(int((s[LABEL] >= 0).sum()) for s in samples)


def test_an_encoder_that_knows_scores_one_beside_what_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run: Any = SimpleNamespace(
        system=Answer(True), data=Scenes(), folder=tmp_path, untrained=lambda: Answer(False)
    )
    scores = {(s.row, s.metric): s.value for s in Dense(points=50)(run)}
    assert scores["pre-trained", "accuracy"] == scores["pre-trained", "mIoU"] == 1
    for row in ("untrained", "raw input", "hand-made"):
        assert 0.35 < scores[row, "accuracy"] < 0.65
        assert scores[row, "mIoU"] < scores[row, "accuracy"]
    assert LABEL not in run.system.saw


def test_data_without_classes_of_points_is_refused() -> None:
    with pytest.raises(UserError, match="samples of this data have points alone"):
        Dense().collect({}, [{"points": torch.zeros(5, 3)}], "points")
    with pytest.raises(UserError, match="no point of 1 scenes"):
        Dense().collect({}, [{"points": torch.zeros(5, 3), LABEL: torch.full((5,), -1)}], "points")
    with pytest.raises(UserError, match="give 1 or more"):
        Dense(points=0)
