"""Figures of masks by hand, and instances found against shapely's polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polymask import Run, RunConfig, UserError, default_registry
from polymask.cli.verbs import embed
from polymask.config import Source
from polymask.evaluation.measurements import Measurement
from polymask_vision.evaluations.instances import WHOLE, Instances, fits, hits, matched, polygon_overlaps
from polymask_vision.instance_masks import Detections, outline_of


def bars(*rows: tuple[int, int], width: int = 10) -> Tensor:
    """Masks ``[n, 12, 12]`` of rows from one to another."""
    found = torch.zeros(len(rows), 12, 12, dtype=torch.bool)
    for mask, (low, high) in zip(found, rows, strict=True):
        mask[low:high, :width] = True
    return found


def test_figures_of_masks_by_hand() -> None:
    """Two bars beside one another, and one alone, in boxes of 6 rows; the last is padding."""
    truth = torch.stack([bars((0, 3), (3, 6), (0, 0)), bars((0, 4), (0, 0), (0, 0))])
    boxes = torch.stack([bars((0, 6), (2, 6), (0, 0)), bars((0, 8), (0, 0), (0, 0))])
    said = torch.stack([bars((0, 4), (2, 6), (0, 12)), bars((0, 3), (0, 12), (0, 12))])
    valid = torch.tensor([[True, True, False], [True, False, False]])
    found = fits(said, truth, boxes, valid)
    assert found["mask IoU"] == pytest.approx([3 / 4, 3 / 4])
    assert found["mask IoU, crowded"] == pytest.approx([3 / 4])
    assert found["mask IoU, alone"] == pytest.approx([3 / 4])
    # one of three rows of the neighbour, and the only row of it that the box has
    assert found["leak, crowded"] == pytest.approx([(1 / 3 + 1) / 2])
    none = fits(truth, truth, boxes, valid)
    assert none["mask IoU"] == [1, 1] and none["leak, crowded"] == [0]


def test_what_two_instances_share_is_no_leak() -> None:
    truth = bars((0, 4), (2, 6), (0, 6))[None, :2]
    boxes = bars((0, 6), (0, 6))[None]
    valid = torch.ones(1, 2, dtype=torch.bool)
    assert fits(truth, truth, boxes, valid)["leak, crowded"] == [0]
    # all of the box: of both the two rows that the other alone has
    assert fits(boxes, truth, boxes, valid)["leak, crowded"] == [1]
    same = bars((0, 4), (0, 4))[None]
    found = fits(same, same, boxes, valid)
    assert found["leak, crowded"] == [] and found["mask IoU, crowded"] == [1]


def square(left: float, top: float, right: float, bottom: float) -> np.ndarray[Any, Any]:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def test_overlaps_of_outlines() -> None:
    pytest.importorskip("shapely")
    one = [square(0, 0, 4, 4), square(8, 8, 9, 9)]
    two = [square(0, 0, 4, 2), square(2, 2, 6, 6), np.array([[0, 0], [4, 4], [4, 0], [0, 4]])]
    bow_tie = 8 / 16  # crosses itself: two triangles, of half the square
    expected = np.array([[8 / 16, 4 / 28, bow_tie], [0, 0, 0]])
    np.testing.assert_allclose(polygon_overlaps(one, two, (12, 12)), expected)
    assert polygon_overlaps([], two, (12, 12)).shape == (0, 3) and polygon_overlaps(
        one, [], (12, 12)
    ).shape == (2, 0)


def test_the_outline_of_a_mask_holds_it() -> None:
    shapely = pytest.importorskip("shapely")
    pytest.importorskip("skimage")
    mask = torch.zeros(20, 30)
    mask[0:6, 4:20] = 1  # it reaches the edge of the image
    mask[12:14, 2:4] = 1  # a smaller part
    outline = outline_of(mask)
    assert outline is not None
    low, high = outline.min(0), outline.max(0)
    np.testing.assert_allclose(np.concatenate([low, high]), [4, 0, 20, 6], atol=0.01)
    assert shapely.Polygon(outline).area == pytest.approx(16 * 6, rel=0.02)
    assert outline_of(torch.zeros(20, 30)) is None


def test_each_instance_is_found_once_and_the_most_probable_detection_chooses_first() -> None:
    overlaps = np.array([[0.8, 0.6], [0.9, 0.2], [0.4, 0.7], [0.4, 0.4]])
    assert hits(overlaps, 0.5) == 2
    assert hits(overlaps[:2], 0.5) == 1  # the second is of the same instance
    assert hits(np.array([[0.8, 0.1], [0.9, 0.6]]), 0.5) == 2  # it finds another one
    assert hits(overlaps[[0, 3]], 0.5) == 1 and hits(overlaps[3:], 0.5) == 0
    assert hits(np.zeros((3, 0)), 0.5) == 0 and hits(np.zeros((0, 3)), 0.5) == 0


def test_counts_of_images() -> None:
    """Two lines are there and both are found, one twice, beside one that is nothing; then none of one."""
    pytest.importorskip("shapely")
    pytest.importorskip("skimage")
    lines = torch.tensor([[2.0, 2.0, 30.0, 10.0], [2.0, 14.0, 30.0, 22.0]])
    corners = lines[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(2, 4, 2)
    frames = torch.stack([lines[0], lines[0] + 1, lines[1], torch.tensor([2.0, 24.0, 10.0, 30.0])])
    score = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.9, 0.0, 0.0, 0.0]])
    found = Detections(frames.expand(2, 4, 4), score, torch.ones(2, 4, 8, 8), frames.expand(2, 4, 4))
    valid = torch.tensor([[True, True], [False, True]])
    total = matched(found, corners.expand(2, 2, 4, 2), valid, (32, 32), Instances())
    assert total.tolist() == [2, 5, 3]


def test_detections_without_a_mask_count_and_instances_are_cut_at_the_edge() -> None:
    pytest.importorskip("shapely")
    pytest.importorskip("skimage")
    line = torch.tensor([[-18.0, 2.0, 12.0, 10.0]])
    corners = line[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(1, 1, 4, 2)
    frames = torch.tensor([[[0.0, 2.0, 12.0, 10.0], [4.0, 20.0, 8.0, 24.0], [4.0, 20.0, 8.0, 24.0]]])
    masks = torch.ones(1, 3, 8, 8)
    masks[:, 1:] = 0
    score = torch.tensor([[0.9, 0.8, 0.0]])
    found = Detections(frames, score, masks, frames)
    total = matched(found, corners, torch.ones(1, 1, dtype=torch.bool), (32, 32), Instances())
    assert total.tolist() == [1, 2, 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A system that proposes, as it begins."""
    data = {"name": "vision/curved-text", "count": 12, "pixels": 48, "height": [6.0, 8.0], "test": 0.5}
    options = {"boxes": "proposed", "before": 20, "after": 10, "rois": 16, "box_dim": 8}
    config = RunConfig.resolve({"system": "vision/mayor", "preset": "tiny", "data": data, **options})
    return Run.create(config, tmp_path_factory.mktemp("runs") / "mayor")


def test_a_run_is_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymask_vision.evaluations.instances.matched", lambda *_: torch.tensor([3, 4, 6]))
    found: dict[tuple[str, str], Measurement] = {(m.row, m.metric): m for m in Instances(score=0.1)(run)}
    rows = {row for row, _ in found}
    assert rows == {"pre-trained", "untrained", WHOLE}
    assert {m for row, m in found if row == WHOLE} == {
        "mask IoU",
        "mask IoU, crowded",
        "mask IoU, alone",
        "leak, crowded",
    }
    assert found[WHOLE, "leak, crowded"].value == 1
    assert 0.2 < found[WHOLE, "mask IoU"].value < 0.7
    figures = [found["pre-trained", name].value for name in ("precision", "recall", "hmean")]
    assert figures == pytest.approx([3 / 4, 3 / 6, 2 * 0.75 * 0.5 / 1.25])
    for (row, metric), one in found.items():  # nothing was trained
        if row == "untrained":
            assert found["pre-trained", metric].value == one.value


def test_systems_without_masks_are_refused(run: Run) -> None:
    class Other:
        system = torch.nn.Linear(1, 1)

    with pytest.raises(UserError, match="vision/mayor"):
        list(Instances()(Other()))  # type: ignore[arg-type]


def test_a_run_without_a_tokenizer_is_not_embedded(run: Run) -> None:
    with pytest.raises(UserError, match="MAYOR has no tokenizer, and so no features of a whole sample"):
        embed._resolve(run, Source("command line", {}), default_registry())


def test_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    for name in ("shapely", "skimage"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"polymask-vision\[instances\]"):
        polygon_overlaps([], [], (4, 4))
    with pytest.raises(UserError, match=r"polymask-vision\[instances\]"):
        outline_of(torch.zeros(4, 4))
