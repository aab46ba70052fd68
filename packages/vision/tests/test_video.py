"""Clips: which frames, cropped alike, what is left out; tubelets; how reports show them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from polymask import RunConfig, UserError, build
from polymask.data import open_data
from polymask.report.look import mask_sheet
from polymask.report.player import Player
from polymask_vision.datasets import animated_emoji
from polymask_vision.datasets.moving_digits import DIRECTIONS, SIDE

videos = pytest.importorskip("polymask_vision.datasets.videos", reason="needs polymask-vision[video]")


def ramp(length: int = 24, side: int = 32) -> np.ndarray:
    """Grey frames, each brighter than the one before by 10: their time can be read off them."""
    return np.broadcast_to(
        (10 * np.arange(length, dtype=np.uint8))[:, None, None, None], (length, side, side, 3)
    ).copy()


def times(clip: Tensor, data: Any) -> list[int]:
    """Which frame of :func:`ramp` each frame is."""
    return (data.to_image(clip).mean((1, 2, 3)) * 25.5).round().int().tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve ramps of 24 frames in a second, of two classes, in three containers."""
    for i in range(12):
        path = tmp_path / "clips" / "ab"[i % 2] / f"{i}.{('mkv', 'avi', 'mp4')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        videos.write(path, ramp(), rate=24)
    return tmp_path / "clips"


def test_frames_are_spread_over_the_whole_video_in_any_container(folder: Path) -> None:
    data = open_data(f"vision/videos:{folder}", frames=6, test=0.25)
    assert data.classes == ["a", "b"] and len(data.split("train")) + len(data.split("test")) == 12
    assert data.labels("train").bincount().tolist() == [4, 4]
    for sample in (data.split("train")[i] for i in range(8)):
        assert sample["video"].shape == (6, 3, 32, 32)
        # the middles of six intervals of four frames
        assert times(sample["video"], data) == pytest.approx([2, 6, 10, 14, 18, 22], abs=1)


def test_a_rate_takes_a_window_from_the_middle_and_in_training_from_anywhere(folder: Path) -> None:
    data = open_data(f"vision/videos:{folder}", frames=4, rate=12)
    middle = times(data.split("train")[0]["video"], data)
    assert middle == pytest.approx([9, 11, 13, 15], abs=1)
    torch.manual_seed(0)
    samples = data.split("train", augment=True)
    starts = {times(samples[0]["video"], data)[0] for _ in range(30)}
    assert len(starts) > 5 and min(starts) < 4 and max(starts) > 13
    long = open_data(f"vision/videos:{folder}", frames=4, rate=2)
    assert times(long.split("train")[0]["video"], long)[-2:] == [23, 23]


def test_all_frames_of_a_clip_are_cropped_flipped_and_coloured_alike() -> None:
    for augment in ("crop", "crop-flip", "shift-flip", "three-augment", "crop-jitter", "flip"):
        data = open_data("vision/moving-digits", frames=8, augment=augment, channels=3, limit=100)
        sources = data.splits["train"].source
        sources.images.zero_()  # what is left stands still
        torch.manual_seed(1)
        samples = data.split("train", augment=True)
        one, other = samples[0]["video"], samples[0]["video"]
        assert torch.equal(one, one[:1].expand_as(one)), augment
        assert not torch.equal(one, other), augment
    with pytest.raises(UserError, match="one by one"):
        open_data("vision/moving-digits", augment="rand-augment")


def test_a_crop_does_not_flip() -> None:
    data = open_data("vision/moving-digits", augment="crop", crop_scale=(1.0, 1.0), label="direction")
    torch.manual_seed(0)
    plain, cropped = data.split("train"), data.split("train", augment=True)
    for i in range(20):
        own, other = plain[i]["video"], cropped[i]["video"]
        there, back = ((x - own).abs().mean() for x in (other, other.flip(-1)))
        assert there < back


def test_broken_clips_are_left_out_counted_and_named(folder: Path) -> None:
    (folder / "a" / "empty.mp4").touch()
    (folder / "a" / "noise.mkv").write_bytes(b"no video " * 100)
    whole = (folder / "b" / "3.mkv").read_bytes()
    (folder / "b" / "cut.mp4").write_bytes((folder / "b" / "5.mp4").read_bytes()[:900])
    (folder / "b" / "words.txt").write_text("not a clip")
    data = open_data(f"vision/videos:{folder}", frames=4)
    assert len(data.split("train")) + len(data.split("test")) == 12
    reasons = dict(data.skipped)
    assert set(reasons) == {"a/empty.mp4", "a/noise.mkv", "b/cut.mp4", "b/words.txt"}
    assert reasons["a/empty.mp4"] == "empty file" and all(reasons.values())
    # damage that shows on decoding: another clip of the class stands in, and it is told
    (folder / "b" / "3.mkv").write_bytes(whole[: len(whole) * 2 // 5])
    data = open_data(f"vision/videos:{folder}", frames=4, test=0.0)
    names = data.splits["train"].names()
    place = names.index("b/3.mkv")
    with pytest.warns(UserWarning, match=r"b/3.mkv: .*stands in for it"):
        sample = data.split("train")[place]
    assert sample["video"].isfinite().all()
    assert "b/3.mkv" in dict(data.skipped)


@pytest.mark.parametrize("name", ["slow.mp4", "slow.mkv", "slow.gif"])
@pytest.mark.parametrize("count", [1, 3])
def test_slow_clips_are_whole(tmp_path: Path, name: str, count: int) -> None:
    if name == "slow.gif":
        pictures = [Image.fromarray(frame) for frame in ramp()[:count]]
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=2000)
    else:
        videos.write(tmp_path / name, ramp()[:count], rate=1)
    shutil.copy(tmp_path / name, tmp_path / f"other-{name}")
    data = open_data(f"vision/videos:{tmp_path}", frames=6, test=0.0)
    video = data.split("train")[0]["video"]
    assert not data.skipped
    assert len({tuple(frame.flatten().tolist()) for frame in video}) == count


def test_frames_of_two_sizes_are_no_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(f"vision/videos:{folder}", frames=2, test=0.0)
    source = data.splits["train"].source
    monkeypatch.setattr(
        source, "frames", lambda index, times: [np.zeros((4 + i, 4, 3), np.uint8) for i in range(len(times))]
    )
    with pytest.raises(UserError, match="its frames differ in size"):
        data.split("train")[0]


def test_a_folder_without_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no videos"):
        open_data(f"vision/videos:{tmp_path}")


def test_without_pyav_the_message_says_how_to_install_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "polymask_vision.datasets.videos")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'polymask-vision\[video\]'"):
        open_data(f"vision/videos:{folder}")


def test_digits_move_the_way_their_direction_says_and_stay_inside() -> None:
    data = open_data("vision/moving-digits", label="direction")
    assert data.classes == list(DIRECTIONS)
    source = data.splits["train"].source
    for i in range(0, 1797, 40):
        grounds = source.grounds.clone()
        source.grounds.zero_()
        clip = torch.stack(source.frames(i, [t / 8 for t in range(8)]))[:, 0].float()
        source.grounds.copy_(grounds)
        axis = torch.arange(float(SIDE))
        y = (clip.sum(2) * axis).sum(1) / clip.sum((1, 2))
        x = (clip.sum(1) * axis).sum(1) / clip.sum((1, 2))
        rows, columns = DIRECTIONS[data.classes[int(source.direction[i])]]
        torch.testing.assert_close(y.diff(), torch.full((7,), 2.0 * rows), atol=1e-3, rtol=0)
        torch.testing.assert_close(x.diff(), torch.full((7,), 2.0 * columns), atol=1e-3, rtol=0)
    digit = open_data("vision/moving-digits")
    assert torch.equal(digit.split("train")[5]["video"], data.split("train")[5]["video"])
    assert (len(digit.split("train")), len(digit.split("test"))) == (1442, 355)
    assert data.labels("train").bincount(minlength=8).min() > 100


def test_clips_that_do_not_change_are_read_once() -> None:
    data, calls = open_data("vision/moving-digits", limit=10), []
    source = data.splits["train"].source
    own = source.frames
    source.frames = lambda *given: calls.append(given) or own(*given)
    samples = data.split("train")
    assert torch.equal(samples[3]["video"], samples[3]["video"]) and len(calls) == 1


def test_animations_are_read_by_time_with_names_and_categories(tmp_path: Path) -> None:
    source = animated_emoji.example_source(tmp_path)
    shutil.copy(tmp_path / "assets" / "1f600.webp", tmp_path / "assets" / "1f600-1f3fb.webp")
    (tmp_path / "assets" / "1f601.webp").write_bytes((tmp_path / "assets" / "1f601.webp").read_bytes()[:-40])
    data = open_data(f"vision/animated-emoji:{source}", frames=4, test=0.3)
    assert data.classes == ["Objects", "Symbols"]
    assert [name for name, _ in data.skipped] == ["1f601.webp"]
    names = data.splits["train"].names() + data.splits["test"].names()
    assert len(names) == 12
    # a thing in two colours of skin stays on one side
    sides = [name in data.splits["train"].names() for name in names if "1f600" in name]
    assert len(sides) == 2 and len(set(sides)) == 1
    animations = data.splits["train"].source
    number = [animations.name(i) for i in range(12)].index("assets/1f602.webp")
    assert animations.seconds(number) == pytest.approx(1.0)
    frames = animations.frames(number, [0.1, 0.3, 0.6, 0.99])
    lefts = [int((np.asarray(x)[..., 2].max(0) > 128).nonzero()[0].min()) for x in frames]
    assert lefts == [0, 2, 4, 6]
    plain = open_data(f"vision/animated-emoji:{source}", skin=False)
    assert not any("1f3fb" in name for s in plain.splits.values() for name in s.names())
    (tmp_path / "data-by-emoji.json").write_text("no json")
    with pytest.raises(UserError, match="cannot be read"):
        open_data(f"vision/animated-emoji:{source}")
    (tmp_path / "data-by-emoji.json").write_text(json.dumps({}))
    shutil.rmtree(tmp_path / "assets")
    with pytest.raises(UserError, match="no animations"):
        open_data(f"vision/animated-emoji:{source}")


def test_tubelets_hold_time_row_column_and_within_them_frame_row_column_channel() -> None:
    tokenizer = build(
        "vision/tubelets", "tokenizers", patch_size=4, facts={"frames": 4, "size": (8, 12), "channels": 2}
    )
    batch = tokenizer.example(2)
    tokens = tokenizer(batch)
    assert tokens.grid == (2, 2, 3) and tokens.values.shape == (2, 12, 64)
    x = batch["video"]
    for number, place in enumerate(tokens.position[0].int().tolist()):
        t, r, c = place
        block = x[1, 2 * t : 2 * t + 2, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
        assert torch.equal(tokens.values[1, number], block.permute(0, 2, 3, 1).flatten())
    assert torch.equal(tokenizer.inverse(tokens.values), x)
    assert tokenizer.provides["in_dim"] == 64 and "patch_size" not in tokenizer.provides


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"frames": 5, "size": (16, 16)}, "do not tile clips of 5"), ({"size": (15, 16)}, "do not tile frames")],
)
def test_what_tubelets_do_not_tile_is_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("vision/tubelets", "tokenizers", patch_size=8, facts=facts)
    tokenizer = build("vision/tubelets", "tokenizers", patch_size=8, facts={"frames": 4, "size": 16})
    with pytest.raises(ValueError, match="expected clips"):
        tokenizer({"video": torch.zeros(2, 6, 3, 16, 16)})


def test_pixels_are_normalised_over_all_numbers_of_a_tubelet() -> None:
    target = build("vision/pixels", "targets", patch_norm=True, facts={"in_dim": 64})
    tokenizer = build(
        "vision/tubelets", "tokenizers", patch_size=4, facts={"frames": 4, "size": 8, "channels": 2}
    )
    batch = {"video": 3 + 2 * tokenizer.example(4)["video"]}
    values = target(batch, tokenizer(batch))
    torch.testing.assert_close(values.mean(-1), torch.zeros(4, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.var(-1), torch.ones(4, 8), atol=1e-4, rtol=0)


def test_a_tokenizer_of_images_is_refused_with_video_and_the_other_way_round() -> None:
    for data, tokenizer in (("vision/moving-digits", "vision/patches"), ("vision/digits", "vision/tubelets")):
        with pytest.raises(UserError, match=f"{tokenizer} cuts .* choose another --tokenizer"):
            RunConfig.resolve({"system": "vision/mae", "data": data, "tokenizer": tokenizer})


def test_weights_of_models_of_images_are_not_offered_for_video() -> None:
    facts = {"in_dim": 8, "grid": (2, 4, 4)}
    encoder = build("vision/vit", "encoders", dim=24, depth=1, heads=2, facts=facts)
    assert encoder.imports() == {}
    assert build("vision/vit", "encoders", dim=24, depth=1, heads=2, facts=facts | {"grid": (4, 4)}).imports()


def test_look_draws_a_mask_of_video_on_a_strip_of_frames() -> None:
    """Cut by the tokenizer of video, though more systems of video are systems of images."""
    data = open_data("vision/moving-digits", limit=20)
    sheet = mask_sheet(build("core/tube-blocks", "maskings"), data, samples=2, draws=1, masks=20)
    assert [x.shape[0] for x in sheet.originals] == [8]  # frames are columns
    assert list(sheet.statistics) == ["view 1", "view 2"]
    for row in sheet.rows.values():
        assert all(x.shape[0] == 8 for x in row)


def test_a_player_holds_all_frames_side_by_side_and_loads_nothing() -> None:
    page = Player(torch.rand(5, 3, 4, 6), rate=10, note="</script>").page()
    assert '"frames": 5' in page and '"height": 4' in page and '"width": 6' in page
    assert "\\u003c/script>" in page and "http" not in page.replace("http-equiv", "")
    assert "TRANSPORT" not in page and "DATA" not in page.split("data:image", 1)[0]
    many = Player(torch.rand(130, 1, 2, 2), rate=10).page()
    assert '"frames": 64' in many and f'"rate": {10 * 64 / 130}' in many
    data = open_data("vision/moving-digits", limit=10)
    assert "<iframe" in data.media(data.split("train")[0])["clip"]._repr_html_()
