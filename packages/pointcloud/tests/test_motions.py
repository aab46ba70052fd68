"""Data sets of motion, what a skeleton tells of it, and how it is drawn."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polymask import UserError
from polymask.data import open_data
from polymask_pointcloud.animation import Animation
from polymask_pointcloud.datasets import mocap
from polymask_pointcloud.datasets.draw import poses
from polymask_pointcloud.skeleton import Skeleton, bone_lengths, moving, skating

CHAIN = Skeleton(("root", "knee", "foot"), (-1, 0, 1), feet=(2,))


# -------------------------------------------------------------------- skeleton


def test_bones_with_and_without_the_root() -> None:
    bare = CHAIN.without_root()
    assert (CHAIN.bones, CHAIN.limbs, CHAIN.drawn) == ([(2, 1)], [1], [(1, 0), (2, 1)])
    assert (bare.bones, bare.limbs, bare.drawn, list(bare.feet)) == ([(1, 0)], [0], [(1, 0), (2, 1)], [1])
    place = torch.tensor([[[1.0, 2, 3], [0, 0, -4], [0, 3, -4]]])
    assert bone_lengths(place, CHAIN).tolist() == [[3, 4]] == bone_lengths(place[:, 1:], bare).tolist()
    assert CHAIN.placed(place)[0].tolist() == [[1, 2, 3], [1, 2, -1], [1, 5, -1]]
    assert bare.placed(place[:, 1:])[0].tolist() == [[0, 0, 0], [0, 0, -4], [0, 3, -4]]


def test_speed_is_in_metres_a_second() -> None:
    motion = torch.arange(5.0)[:, None, None] * torch.tensor([[0.3, 0.4, 0.0]])
    assert torch.allclose(moving(motion, 10.0), torch.full((4, 1), 5.0))


def test_a_foot_skates_while_it_stands_and_not_in_the_air() -> None:
    """The root goes ahead at 1 m/s; a foot that goes back as fast stands still, one that does not slides."""
    ahead = torch.arange(20.0)[:, None] / 10 * torch.tensor([[1.0, 0, 0]])
    down = torch.tensor([[0.0, 0, -1]]).expand(20, -1)

    def of(foot: Tensor) -> float:
        motion = torch.stack([ahead, down / 2, foot], dim=1)
        return float(skating(motion, CHAIN, 10.0))

    assert of(down - ahead) == pytest.approx(0, abs=1e-5)
    assert of(down) == pytest.approx(1, abs=1e-5)
    lifted = down.clone()
    lifted[10:, 2] += 0.2
    lifted[:10] -= ahead[:10]
    assert of(lifted) == pytest.approx(0, abs=1e-5)


# --------------------------------------------------------------- captured motion


@pytest.fixture
def captured(tmp_path: Path) -> str:
    return mocap.example_source(tmp_path)


def test_turns_carry_joints_around_their_parents() -> None:
    """At rest joints stand where the humanoid has them; a bent elbow swings the wrist about z."""
    turn = np.zeros((1, len(mocap.JOINTS), 4))
    turn[..., 0] = 1
    names = list(mocap.SKELETON.names)
    rest = mocap.joints_at(turn)[0]
    assert rest[names.index("right ankle")] == pytest.approx((0, -0.421546 - 0.40987, 0.084887))
    assert rest[names.index("head")] == pytest.approx((0, 0.236151 + 0.223894 + 0.175, 0))
    turn[0, names.index("left elbow")] = (math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4))
    bent = mocap.joints_at(turn)[0]
    wrist, elbow = names.index("left wrist"), names.index("left elbow")
    assert bent[wrist] - bent[elbow] == pytest.approx((0.258947, 0, 0))
    turn[0, 0] = (math.cos(math.pi / 4), 0, math.sin(math.pi / 4), 0)  # the root, a quarter turn about y
    assert mocap.joints_at(turn)[0][wrist] == pytest.approx(bent[wrist][[2, 1, 0]] * (1, 1, -1))


def test_bones_keep_their_length_between_captured_frames(captured: str) -> None:
    data = open_data(f"mocap:{captured}", frames=40, rate=77.0)
    motion = torch.stack([data.split("train")[i]["motion"] for i in range(20)])
    length = bone_lengths(motion.double(), data.skeleton)
    assert torch.allclose(length, length[:1, :1].expand_as(length), atol=1e-6)


def test_a_loop_goes_on_with_its_way_and_heading(tmp_path: Path) -> None:
    """One of which each cycle goes a metre ahead and turns left by a quarter draws a square."""
    rows = []
    for t in range(5):
        yaw = math.pi / 2 * t / 4
        row = [0.25, t / 4 * 0.8, 1.0, 0.0, math.cos(yaw / 2), 0, math.sin(yaw / 2), 0]
        rows.append([*row, *(x for j in mocap.JOINTS[1:] for x in {4: [1, 0, 0, 0], 1: [0], 0: []}[j[3]])])
    path = tmp_path / "humanoid3d_square.txt"
    path.write_text(json.dumps({"Loop": "wrap", "Frames": rows}))
    clip = mocap.Clip.read(path)
    corner = clip.at(np.arange(5) * 1.25)[:, 0]
    assert corner[:, [0, 2]] == pytest.approx(np.array([[0, 0], [1, 0], [1, -1], [0, -1], [0, 0]]), abs=1e-6)
    assert corner[:, 1] == pytest.approx([1] * 5)
    steps = np.linalg.norm(np.diff(clip.at(np.linspace(0, 5, 201))[:, 0], axis=0), axis=-1)
    assert steps.max() < 0.025  # no jump where one cycle follows another


def test_one_that_does_not_loop_ends_and_holds(captured: str) -> None:
    clip = mocap.Clip.read(Path(captured, "humanoid3d_none.txt"))
    late = clip.at(np.array([11 / 30, 5.0, 50.0]))
    assert late[1] == pytest.approx(late[2]) and late[0] == pytest.approx(late[1])
    assert not np.allclose(clip.at(np.array([0.0]))[0], late[0])


def test_windows_are_all_different_and_of_every_motion_in_both_splits(captured: str) -> None:
    data = open_data(f"mocap:{captured}", frames=20, windows=6, test_windows=2)
    labels, test = data.labels("train"), data.labels("test")
    assert labels is not None and test is not None
    assert (labels.tolist(), test.tolist()) == ([0] * 6 + [1] * 6, [0, 0, 1, 1])
    every = [*data.split("train"), *data.split("test")]
    flat = torch.stack([x["motion"].flatten() for x in every])
    assert float((torch.cdist(flat, flat) + 10 * torch.eye(16)).min()) > 1e-3
    again = open_data(f"mocap:{captured}", frames=20, windows=6, test_windows=2)
    assert torch.equal(again.split("train")[3]["motion"], every[3]["motion"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "is no captured motion"),
        (
            '{"Frames": [[1, 2], [3, 4]]}',
            r"frames of shape \[2, 2\], those of a humanoid are",
        ),
    ],
)
def test_files_that_are_no_motion_are_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "humanoid3d_x.txt").write_text(content)
    with pytest.raises(UserError, match=said):
        open_data(f"mocap:{tmp_path}")


def test_a_folder_without_motions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no motions"):
        open_data(f"mocap:{tmp_path}")
    with pytest.raises(UserError, match="the slowest speed is 2 and the fastest 1.25"):
        open_data(f"mocap:{tmp_path}", slowest=2.0)


# --------------------------------------------------------------- samples of motion


def test_the_root_is_left_out_or_its_way_comes_first() -> None:
    bare, rooted = (open_data("skeletons", windows=5, root=root) for root in (False, True))
    one, other = bare.split("train")[0]["motion"], rooted.split("train")[0]["motion"]
    assert one.shape == (50, 5, 3) and other.shape == (50, 6, 3)
    assert torch.equal(one, other[:, 1:])
    assert not other[0, 0].any() and other[-1, 0].norm() > 0.1
    assert bare.provides["parents"] == (-1, -1, 1, -1, 3) and rooted.provides["rooted"]


def test_augmentation_turns_about_z_and_mirrors() -> None:
    """Heights and lengths stay; half of the windows are mirrored an odd number of times; headings spread."""
    data = open_data("skeletons", windows=5, augment="move")
    plain = data.split("train")[1]["motion"].double()
    samples, turned = data.split("train", augment=True), []
    torch.manual_seed(0)
    for _ in range(400):
        x = samples[1]["motion"].double()
        assert torch.allclose(x[..., 2], plain[..., 2], atol=1e-6)
        assert torch.allclose(x.norm(dim=-1), plain.norm(dim=-1), atol=1e-5)
        turned.append(torch.linalg.lstsq(plain.flatten(0, 1)[:, :2], x.flatten(0, 1)[:, :2]).solution)
    maps = torch.stack(turned)
    assert float((torch.linalg.det(maps) < 0).double().mean()) == pytest.approx(0.5, abs=0.08)
    assert float(maps[:, 0].mean(0).norm()) < 0.12


def test_made_up_skeletons_keep_their_bones_and_have_several_futures() -> None:
    data = open_data("skeletons", windows=300)
    motion = torch.stack([x["motion"] for x in data.split("train")])
    length = bone_lengths(motion.double(), data.skeleton)
    assert torch.allclose(length, length[:1, :1].expand_as(length), atol=1e-6)
    labels = data.labels("train")
    assert labels is not None
    steady = motion[labels == 0]
    speed = moving(steady, 25.0).mean(2)
    change = speed[:, 20:].mean(1) / speed[:, :17].mean(1)
    stopped = (change < 0.1).double().mean()
    assert 0.15 < float(stopped) < 0.35  # a quarter of all


# ------------------------------------------------------------------------- files


def saved(folder: Path, name: str, frames: int = 120, joints: int = 3, **more: object) -> None:
    t = np.arange(frames)[:, None, None] / 10
    motion = t * np.array([1.0, 2.0, 3.0]) + np.arange(joints)[:, None]
    np.savez(folder / name, motion=motion, **more)  # type: ignore[arg-type]


def test_files_are_cut_into_windows_that_stay_together(tmp_path: Path) -> None:
    for i in range(6):
        saved(tmp_path, f"{i}.npz", frames=100 + 10 * i)
    data = open_data(f"clips:{tmp_path}", frames=50, stride=20, test=0.34)
    assert len(data.split("train")) + len(data.split("test")) == 3 + 4 + 4 + 5 + 5 + 6
    sides = {split: {n.split(",")[0] for n in data.splits[split].names()} for split in ("train", "test")}
    assert len(sides["test"]) == 2 and not sides["train"] & sides["test"]


def test_recordings_are_interpolated_to_the_rate_asked_for(tmp_path: Path) -> None:
    for i in range(2):
        saved(tmp_path, f"{i}.npz", frames=31, rate=10.0)
    data = open_data(f"clips:{tmp_path}", frames=61, rate=20.0, root=True, test=0.5)
    motion = data.split("train")[0]["motion"]
    assert len(data.split("train")) == 1
    line = torch.arange(61.0)[:, None] / 20 * torch.tensor([1.0, 2, 3])
    assert torch.allclose(motion[:, 0], line, atol=1e-5)


def test_units_and_axes_become_metres_with_z_up(tmp_path: Path) -> None:
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", np.tile([[[0.0, 0, 0], [100, 200, 300]]], (30, 1, 1)))
    data = open_data(f"clips:{tmp_path}", frames=10, unit=0.001, up="y", test=0.5)
    assert data.split("train")[0]["motion"][0].tolist() == [pytest.approx([0.1, -0.3, 0.2])]


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    for i in range(3):
        saved(tmp_path, f"good{i}.npz")
    saved(tmp_path, "other.npz", joints=4)
    saved(tmp_path, "short.npz", frames=20)
    saved(tmp_path, "still.npz", rate=0.0)
    np.save(tmp_path / "flat.npy", np.zeros((100, 9)))
    np.savez(tmp_path / "named.npz", poses=np.zeros((100, 3, 3)))
    (tmp_path / "broken.npz").write_bytes(b"PK broken")
    data = open_data(f"clips:{tmp_path}", frames=50)
    reasons = dict(data.skipped)
    assert reasons.pop("broken.npz")
    assert reasons == {
        "other.npz": "other joints than the 3 of good0.npz",
        "short.npz": "20 frames, 20 at 50 a second, fewer than 50",
        "still.npz": "its rate is 0 frames a second",
        "flat.npy": "an array [100, 9]; motion is [frames, joints, 3], 2 joints or more",
        "named.npz": "it holds poses, not 'motion'",
    }


def test_places_that_are_not_finite_are_found_when_read(tmp_path: Path) -> None:
    for i in range(4):
        saved(tmp_path, f"{i}.npz")
    motion = np.zeros((120, 3, 3))
    motion[60:] = np.nan
    np.savez(tmp_path / "3.npz", motion=motion)
    data = open_data(f"clips:{tmp_path}", frames=50, stride=50, test=0.25)
    assert data.describe()["speed of joints"].endswith("m/s on average")
    assert data.describe()["unreadable"].endswith("places that are not finite")
    with pytest.warns(UserWarning, match="places that are not finite"):
        every = [x["motion"] for split in ("train", "test") for x in data.split(split)]
    assert all(x.isfinite().all() for x in every)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parents": [-1, 0]}, r"3 joints need as many parents.* got \[-1, 0\]"),
        ({"parents": [-1, 2, 0]}, r"each joint's one of those before it; got \[-1, 2, 0\]"),
        ({"feet": [3]}, r"feet are numbers of joints, 0 to 2; got \[3\]"),
    ],
)
def test_skeletons_that_are_none_are_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    saved(tmp_path, "a.npz")
    saved(tmp_path, "b.npz")
    with pytest.raises(UserError, match=said):
        open_data(f"clips:{tmp_path}", frames=50, **options)


def test_without_parents_joints_are_points(tmp_path: Path) -> None:
    saved(tmp_path, "a.npz")
    saved(tmp_path, "b.npz")
    data = open_data(f"clips:{tmp_path}", frames=50)
    assert not data.skeleton.drawn and "bones" not in data.describe()
    assert data.render(data.split("train")[0]).shape == (3, 128, 256)


# ---------------------------------------------------------------------- pictures


def blue(picture: Tensor) -> Tensor:
    """Where something hidden is drawn, ``[H, W]``."""
    return picture[2] - picture[0] > 0.15


def test_hidden_joints_are_in_colour_where_and_when_they_are_hidden() -> None:
    data = open_data("skeletons", windows=2)
    motion = data.split("train")[0]["motion"]
    nothing, past = torch.zeros(50, 5), torch.zeros(50, 5)
    past[25:] = 1
    assert not blue(poses(motion, data.skeleton, nothing)).any()
    first, last = blue(poses(motion, data.skeleton, past)).split(64, dim=0)
    assert not first.any() and all(cell.any() for cell in last.split(64, dim=1))
    head = torch.zeros(50, 5)
    head[:, 0] = 1
    one, every = blue(poses(motion, data.skeleton, head)), blue(poses(motion, data.skeleton, nothing + 1))
    assert 0 < int(one.sum()) < int(every.sum()) / 2


def test_an_animation_holds_all_places_and_what_is_seen() -> None:
    motion = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    seen = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    skeleton = Skeleton((), (-1, 0), rooted=False)
    page = Animation({"real": motion, "</script>": 2 * motion}, skeleton, seen, rate=30.0).page()
    text = page.split('<script type="application/json">')[1].split("</script>")[0]
    data = json.loads(text)
    assert (data["frames"], data["joints"], data["rate"], data["bones"]) == (4, 3, 30.0, [[1, 0], [2, 1]])
    known = np.frombuffer(base64.b64decode(data["seen"]), "u1").reshape(4, 3)
    assert known.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]]
    one, two = (np.frombuffer(base64.b64decode(x["places"]), "<i2").reshape(4, 3, 3) for x in data["layers"])
    assert np.linalg.norm(one / data["unit"], axis=-1).max() == pytest.approx(1, abs=1e-3)
    ratio = (two[:, 1:] - two[:, :1]) / (one[:, 1:] - one[:, :1])
    assert np.median(ratio) == pytest.approx(2, abs=1e-2)
    suffix, content = Animation({"motion": motion}, skeleton).file()
    assert suffix == ".html" and b"requestAnimationFrame" in content
