"""A dense probe: features at points, scores against scikit-learn, and a run from end to end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, System, Tokens, UserError
from polymask.data import collate
from polymask.evaluation import dense as probe
from polymask_pointcloud.evaluations.dense import LABEL, Dense, at_points, of_surfaces, truth
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


def test_points_without_a_class_and_padding_are_not_known() -> None:
    samples = Scenes().split("train")
    batch = collate(samples)
    found = truth(batch, "points")
    for row, sample in zip(found, samples, strict=True):
        assert torch.equal(row[: len(sample[LABEL])], sample[LABEL])
        assert (row[len(sample[LABEL]) :] == -1).all()
    assert found.shape[1] > min(len(sample[LABEL]) for sample in samples)


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


def test_every_row_is_asked_about_as_many_points_of_a_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    plain = probe.Dense.measure

    def measure(self: probe.Dense, *given: Any, **options: Any) -> Any:
        asked.append((self.samples, self.places, self.test_places))
        return plain(self, *given, **options)

    monkeypatch.setattr(probe.Dense, "measure", measure)
    run: Any = SimpleNamespace(system=Answer(True), data=Scenes(), untrained=lambda: Answer(False))
    rows = {one.row for one in Dense(scenes=3, points=20)(run)}
    assert asked == [(3, 20, 20)]
    assert rows == {"pre-trained", "untrained", "raw input", "hand-made"}


def test_data_without_classes_of_points_is_refused() -> None:
    with pytest.raises(UserError, match="samples of this data have points alone"):
        truth({"points": torch.zeros(1, 5, 3), "id": torch.zeros(1)}, "points")
    with pytest.raises(UserError, match="give 1 or more"):
        Dense(points=0)
