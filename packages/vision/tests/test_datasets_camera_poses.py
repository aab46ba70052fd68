"""Made-up people seen by made-up cameras: what moves, who sees it, and what is the same in clip and pose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Step
from polymask.data import collate, open_data
from polymask_vision.datasets.camera_poses import ACTIVITIES, bodies, camera_poses, project
from polymask_vision.datasets.multiview import mirrored
from polymask_vision.poses import JOINTS, MIRRORED, SEEN

SMALL = {"windows": 48, "test_windows": 16, "size": 16}
WRISTS, ANKLES, HIPS = [9, 10], [15, 16], [11, 12]


def data(**options: Any) -> Any:
    return open_data("vision/camera-poses", **(SMALL | options))


@pytest.fixture(scope="module")
def body() -> Tensor:
    """Joints of 400 windows, ``[n, T, P, 17, 3]``."""
    ids = torch.arange(400)
    return bodies(ids, ids % 4, 8)[0]


def test_activities_are_what_their_names_say(body: Tensor) -> None:
    middle = body[..., HIPS, :].mean(-2)
    way = (middle[:, -1] - middle[:, 0])[..., :2].norm(dim=-1)
    forward = (body[..., WRISTS, :] - body[..., [5, 6], :])[..., :2].norm(dim=-1).amax((1, 3))
    kind = torch.arange(400) % 4
    for number, name in enumerate(ACTIVITIES):
        mine = kind == number
        walks, reaches = way[mine] > 1, forward[mine] > 0.45
        assert walks[:, 0].all() == walks[:, 0].any() == (name == "walk") and not walks[:, 1:].any()
        assert (reaches.float().mean(0) > 0.95).tolist() == {
            "reach": [True, False, False],
            "hand over": [True, True, False],
        }.get(name, [False] * 3)
    # by one hand, leaning; walkers look where they go and swing their legs, and no two windows are alike
    arms = (body[..., WRISTS, :] - body[..., [5, 6], :])[..., :2].norm(dim=-1).amax(1)[:, 0]
    assert (arms[kind == 2].amin(-1) < 0.45).float().mean() > 0.95
    lean = (body[..., [5, 6], :].mean(-2) - middle)[..., :2].norm(dim=-1).amax(1)[:, 0]
    assert lean[kind == 2].median() > lean[kind == 0].median() + 0.05
    ahead = (body[..., 0, :] - body[..., [3, 4], :].mean(-2))[:, 0, 0, :2]
    gone = (middle[:, -1] - middle[:, 0])[:, 0, :2]
    assert (torch.cosine_similarity(ahead, gone)[kind == 1] > 0.99).all()
    stride = (body[..., 15, :] - body[..., 16, :])[..., :2].norm(dim=-1).amax(1)[:, 0]
    assert (stride[kind == 1] > 0.35).all() and (stride[kind == 0] < 0.35).all()
    assert not torch.isclose(body[0], body[4]).all(-1).any()
    # hands meet: those of the two are nearest when they hand over
    gap = (body[:, :, 0, WRISTS, None] - body[:, :, 1, None, WRISTS]).norm(dim=-1).amin((1, 2, 3))
    assert gap[kind == 3].median() < 0.75 * gap[kind == 0].median()


def test_bodies_are_of_fixed_lengths(body: Tensor) -> None:
    for one, other in ((5, 7), (7, 9), (11, 13), (13, 15), (5, 6)):
        length = (body[..., one, :] - body[..., other, :]).norm(dim=-1)
        assert (length.std(1) < 1e-5).all() and length.min() > 0.8 * 0.17 and length.max() < 0.55
    ahead, left = body[..., 0, :] - body[..., [3, 4], :].mean(-2), body[..., 5, :] - body[..., 6, :]
    assert (ahead[..., 0] * left[..., 1] - ahead[..., 1] * left[..., 0] > 0).all()
    assert body[..., 0, 2].min() > 1.2 and body[..., ANKLES, 2].amin(-1).median() < 0.3


def test_a_camera_sees_by_perspective(body: Tensor) -> None:
    number = torch.arange(20).view(10, 2)
    one, depth = project(body[:10], number)
    assert one.shape == (10, 2, 8, 3, 17, 2) and (depth > 1).all()
    # the middle of a straight line lies on its picture, and straight up is up
    ends = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 2.0]])
    seen, _ = project(ends.expand(10, 1, 1, 3, 3), number)
    along, rest = seen[..., 2, :] - seen[..., 0, :], seen[..., 1, :] - seen[..., 0, :]
    area = along[..., 0] * rest[..., 1] - along[..., 1] * rest[..., 0]
    assert area.abs().max() < 1e-5 and (along[..., 1] < -0.1).all()


def test_test_windows_are_seen_by_cameras_of_their_own() -> None:
    """The same bodies before cameras of training and of test look different."""
    both = [camera_poses(windows=n, test_windows=40 - n) for n in (20, 40)]
    one, other = (splits.train.source for splits in both)
    same = (one.clean == other.clean).flatten(1).all(1)
    assert same[:20].all() and not same[20:].any()
    assert torch.equal(one.there, other.there) and torch.equal(
        both[0].train.labels, both[1].train.labels[:20]
    )
    # cameras of a window differ, unless there are too few
    assert not (one.clean[:, 0] == one.clean[:, 1]).flatten(1).all(1).any()
    two = camera_poses(windows=4, test_windows=4, cameras=2).train.source
    assert torch.equal(two.clean[:, 2], two.clean[:, 0]) and not torch.equal(two.clean[:, 1], two.clean[:, 0])


def test_no_two_draws_share_a_stream_of_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[tuple[int, int]] = []
    bits = Step.bits

    def watched(self: Step, ids: Tensor, sites: int, stream: int = 0) -> Tensor:
        streams.append((self.seed, stream))
        return bits(self, ids, sites, stream)

    monkeypatch.setattr(Step, "bits", watched)
    camera_poses(windows=2, test_windows=2)
    assert len(streams) == len(set(streams)) == 8


def test_samples_have_clips_and_poses_of_two_or_three_cameras() -> None:
    found = data()
    samples = [found.split("train")[i] for i in range(48)]
    views = [len(sample["pose"]) for sample in samples]
    assert set(views) == {2, 3} and found.lengths("train").tolist() == views
    for sample, v in zip(samples, views, strict=True):
        assert sample["video"].shape == (v, 8, 3, 16, 16) and sample["pose"].shape == (v, 8, 3, 17, 2)
        assert sample[SEEN].shape == (v, 8, 3, 17) and (sample["pose"][sample[SEEN] == 0] == 0).all()
    batch = collate(samples)
    assert batch["video_length"].tolist() == views and not batch[SEEN][torch.tensor(views) == 2, 2].any()
    one = data(views=1)
    assert one.lengths("train") is None and one.split("train")[3]["video"].shape[0] == 1
    assert torch.equal(one.split("train")[3]["pose"], samples[3]["pose"][:1])
    video = torch.cat([sample["video"].flatten() for sample in samples])
    assert abs(float(video.mean())) < 0.3 and 0.7 < float(video.std()) < 1.3


def test_noise_and_drop_outs_are_of_the_rates_that_were_asked_for() -> None:
    source = camera_poses(windows=200, test_windows=1, noise=0.02, missing=0.2).train.source
    off = source.pose - source.clean
    assert abs(float(off.std()) - 0.02) < 1e-3
    clean = camera_poses(windows=200, test_windows=1, noise=0.0, missing=0.0).train.source
    assert torch.equal(clean.pose, clean.clean)
    visible = clean.seen
    assert abs(float(source.seen[visible].float().mean()) - 0.64) < 0.01
    assert not clean.seen[~clean.there].any()
    # whoever leaves the frame is not seen; the third is there in half of the windows
    outside = ((clean.clean < 0) | (clean.clean > 1)).any(-1) & clean.there[..., None]
    assert outside.any() and not clean.seen[outside].any()
    assert clean.there[..., :2].all() and 0.4 < clean.there[..., 2].float().mean() < 0.6


def test_who_is_who_differs_from_camera_to_camera_and_stays_in_time() -> None:
    source = camera_poses(windows=60, test_windows=1, noise=0.0, missing=0.0).train.source
    same = 0
    for index in range(60):
        pose, seen = source.poses(index, 3)
        order = source.order[index]
        for view in range(len(pose)):
            for place in range(3):
                who = order[view, place]
                there = seen[view, :, place]
                assert torch.equal(pose[view, :, place][there], source.clean[index, view, :, who][there])
        same += bool((order[0] == order[1]).all())
    assert same < 25


def test_a_flip_mirrors_clip_and_pose_alike() -> None:
    plain, flips = data(noise=0.0), data(noise=0.0, augment="flip")
    one, flipped = plain.split("train")[5], 0
    for seed in range(8):
        torch.manual_seed(seed)
        other = flips.split("train", augment=True)[5]
        if torch.equal(other["video"], one["video"]):
            assert torch.equal(other["pose"], one["pose"])
            continue
        flipped += 1
        assert torch.equal(other["video"], one["video"].flip(-1))
        seen = other[SEEN] > 0
        assert torch.equal(seen, one[SEEN][..., list(MIRRORED)] > 0)
        left, right = JOINTS.index("left wrist"), JOINTS.index("right wrist")
        there = seen[..., left]
        torch.testing.assert_close(other["pose"][..., left, 0][there], 1 - one["pose"][..., right, 0][there])
        torch.testing.assert_close(other["pose"][..., left, 1][there], one["pose"][..., right, 1][there])
        assert torch.equal(mirrored(other["pose"], one[SEEN] > 0) == 0, one["pose"] == 0)
    assert 0 < flipped < 8


def test_people_are_drawn_where_their_joints_are() -> None:
    found = data(noise=0.0, missing=0.0, size=48)
    split = found.split("train")
    inside = []
    for i in range(12):
        sample = split[i]
        bright = found.to_image(sample["video"]).amax(2) > 0.4
        at = (sample["pose"] * 48).long().clamp(0, 47)
        hit = [
            bright[v, t, y, x]
            for v, t, p, j in (sample[SEEN] > 0).nonzero().tolist()
            if j > 4
            for x, y in [at[v, t, p, j].tolist()]
        ]
        inside.append(torch.stack(hit).float().mean())
    assert torch.stack(inside).mean() > 0.8


def test_clips_show_who_is_there_at_their_times_the_near_over_the_far() -> None:
    source = camera_poses(windows=24, test_windows=1).train.source
    index = int((~source.there[:, 0, 0, 2]).nonzero()[0])
    before = source.video(index, 2, (24, 24))
    source.clean[index, 1, 3, 0] += 0.2
    moved = (source.video(index, 2, (24, 24)) != before).flatten(2).any(-1)
    assert moved.nonzero().tolist() == [[1, 3]]
    source.there[index] = True
    assert (source.video(index, 2, (24, 24)) != before).flatten(2).any(-1)[0].all()
    # all three at one place: the colour of the nearest
    source.clean[index] = torch.rand(17, 2, generator=torch.Generator().manual_seed(0))
    source.colours[index] = torch.eye(3)
    for near in range(3):
        source.depth[index] = torch.where(torch.arange(3) == near, 1.0, 2.0)
        video = source.video(index, 2, (24, 24))
        assert video[:, :, near].amax() == 1 and video[0, 0].amax((1, 2)).argmax() == near


def test_masks_colour_the_persons_they_hide() -> None:
    from polymask_vision.poses import Poses

    found = data()
    sample = found.split("train")[1]
    tokens = Poses(**{k: found.provides[k] for k in ("persons", "joints", "frames", "views")})(
        {key: value[None] for key, value in sample.items()}
    )
    real = tokens.real[0]
    kept = type(tokens)(tokens.values[:, real], tokens.position[:, real])
    bare = found.render(sample)
    none, every = (
        found.render(sample, kept, torch.full((int(real.sum()),), x, dtype=torch.bool)) for x in (False, True)
    )
    assert bare.shape == (3, 192, 512) and torch.equal(bare, none) and not torch.equal(bare, every)
    assert every[0].sum() > bare[0].sum() and found.media(sample)["cameras"].clip.shape[-1] % 16 == 0


def test_the_raw_description_is_of_poses_alone_and_finite() -> None:
    found = data()
    batch = collate([found.split("train")[i] for i in range(8)])
    vectors = found.descriptor(batch)
    assert vectors.shape == (8, 102) and vectors.isfinite().all()
    one = collate([found.split("train")[2]])
    torch.testing.assert_close(found.descriptor(one)[0], vectors[2])
