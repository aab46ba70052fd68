"""Captured motions seen by synthetic cameras: whose joints they are, who does what, what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polymask import UserError
from polymask.data import open_data
from polymask.plugins.registry import Registry
from polymask.testing import check_part
from polymask_vision.datasets import recorded_poses
from polymask_vision.poses import JOINTS

mocap: Any = pytest.importorskip("polymask_pointcloud.datasets.mocap", reason="needs polymask-pointcloud")


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person who walks ahead swinging the arms, and one who turns on the spot: no joints out of order."""
    folder = tmp_path_factory.mktemp("motions")
    for name, speed, spin in (("walk", 0.1, 0.0), ("spin", 0.0, 0.2)):
        rows = []
        for t in range(12):
            row = [1 / 15, speed * t, 0.9, 0.0]
            for joint, _, _, numbers in mocap.JOINTS:
                angle = 0.5 * np.sin(2 * np.pi * t / 12) if "shoulder" in joint else 0.0
                around = [np.cos(spin * t / 2), 0.0, np.sin(spin * t / 2), 0.0]
                turn = [np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)]
                row += around if joint == "root" else {4: turn, 1: [0.0], 0: []}[numbers]
            rows.append([float(x) for x in row])
        (folder / f"humanoid3d_{name}.txt").write_text(json.dumps({"Loop": "none", "Frames": rows}))
    return folder


def opened(folder: Path, **options: Any) -> Any:
    given = {"windows": 6, "test_windows": 2, "size": 16, "noise": 0.0, "missing": 0.0, **options}
    return open_data(f"vision/recorded-poses:{folder}", **given)


def test_the_reader_keeps_the_promises_of_data_sets() -> None:
    found = check_part("vision/recorded-poses", kind="datasets")
    assert found and not [result for result in found if result.outcome not in ("passed", "skipped")]


def test_a_window_has_two_or_three_people_who_do_the_same_motion_each_in_a_way_of_their_own(
    motions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = []
    rooms = recorded_poses.Rooms

    def watched(body: torch.Tensor, *rest: Any) -> Any:
        bodies.append(body)
        return rooms(body, *rest)

    monkeypatch.setattr(recorded_poses, "Rooms", watched)
    data = opened(motions)
    (body,) = bodies
    assert data.classes == ["spin", "walk"] and data.labels("train").tolist() == [0] * 6 + [1] * 6
    assert data.labels("test").tolist() == [0] * 2 + [1] * 2
    labels = torch.cat([data.labels("train"), data.labels("test")])
    hips = body[..., [11, 12], :2].mean(-2)
    way = (hips[:, -1] - hips[:, 0]).norm(dim=-1)
    assert (way[labels == 1] > 0.5).all() and (way[labels == 0] < 1e-4).all()
    # no two of a room, and no two of different rooms, are at the same point of it at the same time
    apart = body - body.mean((1, 3), keepdim=True)
    people = apart.transpose(1, 2).flatten(0, 1).flatten(1)
    distance = torch.cdist(people, people) + torch.eye(len(people))
    assert distance.min() > 1e-3
    # they stay where they are on the whole, with room between
    where = hips.mean(1)
    gaps = torch.cdist(where, where) + 9 * torch.eye(3)
    assert gaps.min() > 1 and where.norm(dim=-1).max() < 1.6
    views = {int(n) for n in data.lengths("train")}
    assert views == {2, 3}


def test_joints_are_those_of_the_same_name_and_faces_look_ahead(motions: Path) -> None:
    found = mocap.mocap(source=str(motions), frames=4, rate=4.0, windows=3, test_windows=1)
    names = found.train.source.skeleton.names
    place = torch.from_numpy(found.train.source.places)
    coco = recorded_poses.as_coco(place, names)
    for number, name in enumerate(JOINTS[5:], start=5):
        assert torch.equal(coco[..., number, :], place[..., names.index(name), :])
    walks = coco[4:]
    nose, ears = walks[..., 0, :], walks[..., [3, 4], :].mean(-2)
    way = walks[:, -1, 11] - walks[:, 0, 11]
    assert (torch.cosine_similarity((nose - ears)[:, 0, :2], way[:, :2]) > 0.99).all()
    eyes = walks[..., 1, :] - walks[..., 2, :]
    shoulders = walks[..., 5, :] - walks[..., 6, :]
    assert (torch.cosine_similarity(eyes, shoulders, dim=-1) > 0.999).all()
    assert torch.allclose(eyes.norm(dim=-1), torch.tensor(0.07), atol=1e-5)
    assert (walks[..., 1, 2] > walks[..., 3, 2]).all()  # eyes are higher than ears


def test_what_is_recorded_is_told_and_a_missing_package_named(
    motions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "captured motions" in opened(motions).describe()["synthetic"]
    monkeypatch.setattr(recorded_poses, "default_registry", lambda: Registry(entries=[]))
    with pytest.raises(UserError, match="pip install polymask-pointcloud"):
        opened(motions)
