"""Scores of completions by their closed forms, and on a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polymask import Run, RunConfig, UserError
from polymask.maskings import Random
from polymask_pointcloud.evaluations.futures import Futures, distances, plausible
from polymask_pointcloud.skeleton import Skeleton

# two motions of four frames and one joint, of which the last two frames are hidden
TRUTH = torch.zeros(2, 4, 1, 3)
TRUTH[1, :, 0, 0] = 10.0
HIDDEN = torch.zeros(2, 4, 1, 3, dtype=torch.bool)
HIDDEN[:, 2:] = True


def made(*offsets: tuple[float, float]) -> torch.Tensor:
    """Completions of both motions that are off along z by so much in the two hidden frames."""
    x = TRUTH[:, None].repeat(1, len(offsets), 1, 1, 1)
    for s, off in enumerate(offsets):
        x[:, s, 2:, 0, 2] = torch.tensor(off)
    return x


def test_errors_are_of_the_best_and_of_all() -> None:
    found = distances(made((3, 1), (1, 2), (4, 0.5)), TRUTH, HIDDEN, 0.5)
    assert found["ADE"].tolist() == [1.5, 1.5]
    assert found["FDE"].tolist() == [0.5, 0.5]
    assert found["mean ADE"].tolist() == pytest.approx([(2 + 1.5 + 2.25) / 3] * 2)


def test_diversity_is_the_mean_distance_between_two() -> None:
    found = distances(made((0, 0), (3, 4), (6, 8)), TRUTH, HIDDEN, 0.5)
    assert found["APD"].tolist() == pytest.approx([(5 + 10 + 5) / 3] * 2)
    assert "APD" not in distances(made((0, 0)), TRUTH, HIDDEN, 0.5)


def test_what_is_visible_counts_nowhere() -> None:
    x = made((1, 1), (2, 2))
    other = x.clone()
    other[:, :, :2] += 7
    one, two = (distances(y, TRUTH, HIDDEN, 0.5) for y in (x, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_errors_of_all_that_were_alike_when_last_seen() -> None:
    """Two motions part after they were seen: completions that hit one miss the other by 2 and 4."""
    truth = torch.zeros(3, 4, 1, 3)
    truth[1, 2, 0, 0], truth[1, 3, 0, 0] = 2.0, 4.0
    truth[2, :, 0, 1] = 9.0
    hidden = HIDDEN[:1].expand(3, -1, -1, -1)
    found = distances(truth[:, None], truth, hidden, 0.5)
    assert found["ADE"].tolist() == [0, 0, 0]
    assert found["MMADE"].tolist() == [1.5, 1.5, 0]
    assert found["MMFDE"].tolist() == [2, 2, 0]
    between = hidden.clone()
    between[:, -1] = False
    assert "MMADE" not in distances(truth[:, None], truth, between, 0.5)


def test_bones_speed_and_acceleration() -> None:
    """A bone of 1 m that grows by a tenth where hidden; a joint that goes 0, 0, 1, 3 m at 10 frames/s."""
    skeleton = Skeleton((), (-1, 0), rooted=False)
    truth = torch.zeros(1, 4, 2, 3)
    truth[:, :, 0, 2], truth[:, :, 1, 2] = 2.0, 3.0
    hidden = torch.zeros_like(truth, dtype=torch.bool)
    hidden[:, 2:] = True
    x = truth[:, None].clone()
    x[:, :, 2:, 1, 2] = 3.1
    found = plausible(x, truth, hidden, skeleton, 10.0)
    assert found["bone error, %"].item() == pytest.approx(5)  # of one bone in two
    moving = truth[:, None].clone()
    moving[:, :, :, :, 0] = torch.tensor([0.0, 0, 1, 3])[:, None]
    found = plausible(moving, truth, hidden, skeleton, 10.0)
    assert found["speed, m/s"].item() == pytest.approx(15)
    assert found["acceleration, m/s2"].item() == pytest.approx(100)
    assert "foot skate, m/s" not in found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = {
        "system": "pointcloud/humanmac",
        "preset": "tiny",
        "data": {"name": "skeletons", "windows": 8, "test_windows": 6, "root": True, "frames": 20},
    }
    return Run.create(RunConfig.resolve(config), tmp_path_factory.mktemp("run"))


def test_a_run_is_scored_beside_its_ablations_and_the_held_pose(run: Run) -> None:
    scores = {(m.row, m.metric): m.value for m in Futures(futures=2, steps=5)(run)}
    rows = {row for row, _ in scores}
    ours = ("pre-trained", "told, not completed", "completed, not told", "untrained", "last pose held")
    assert rows == {*ours, "real"}
    metrics = {metric for row, metric in scores if row == "pre-trained"}
    named = {"ADE", "FDE", "mean ADE", "APD", "MMADE", "MMFDE"}
    assert metrics == named | {"bone error, %", "speed, m/s", "acceleration, m/s2", "foot skate, m/s"}
    assert scores["last pose held", "APD"] == 0 == scores["last pose held", "speed, m/s"]
    assert scores["real", "bone error, %"] == pytest.approx(0, abs=1e-3)
    assert scores["last pose held", "bone error, %"] == pytest.approx(0, abs=1e-3)
    # the untrained network guesses no noise, and what it makes is noise, much enlarged
    assert scores["untrained", "ADE"] > 10 * scores["last pose held", "ADE"]


def test_scores_do_not_depend_on_the_size_of_batches(run: Run) -> None:
    one, other = (
        {(m.row, m.metric): m.value for m in Futures(futures=2, steps=5, batch_size=size)(run)}
        for size in (3, 6)
    )
    assert one == pytest.approx(other, rel=1e-3)


def test_what_is_scored_as_hidden_is_what_was_completed(run: Run) -> None:
    """Masks go by the sample, and so must be drawn for the same ones both times."""
    futures = Futures(masking=Random(ratio=0.5), futures=1, steps=2, batch_size=3)
    truth, hidden = futures._motions(run.system, run)
    made = futures._made(run.system, run, {})[:, 0]
    torch.testing.assert_close(made[~hidden], truth[~hidden])
    assert not torch.isclose(made[hidden], truth[hidden]).all()


def test_frames_that_differ_from_motion_to_motion_are_refused(run: Run) -> None:
    with pytest.raises(UserError, match="hides other frames of each motion"):
        list(Futures(masking=Random(ratio=0.5), futures=2, steps=5)(run))


def test_a_run_that_generates_no_motion_is_refused(tmp_path: Path) -> None:
    config = {"system": "pointcloud/mae", "preset": "tiny", "data": {"name": "shapes", "limit": 8}}
    with pytest.raises(UserError, match="futures are of systems that generate motion"):
        list(Futures()(Run.create(RunConfig.resolve(config), tmp_path)))
