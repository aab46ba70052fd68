"""Tar shards: members are grouped as WebDataset does, read at random, and damage is named."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from polymask import UserError
from polymask.data import open_data
from polymask_vision.datasets.webdataset import expand_braces, find_shards


def picture(shade: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(file, kind)
    return file.getvalue()


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of four samples: shade 10 * shard + place, class the place's parity."""
    for s in range(3):
        members = {}
        for i in range(4):
            members[f"{i:04d}.png"] = picture(10 * s + i)
            members[f"{i:04d}.cls"] = str(i % 2).encode()
            members[f"{i:04d}.json"] = json.dumps({"animal": ["cat", "dog", "emu"][s]}).encode()
        shard(tmp_path / f"train-{s:03d}.tar", members)
    return tmp_path


def shades(data: object, split: str = "train") -> list[int]:
    samples = data.split(split)  # type: ignore[attr-defined]
    pictures = [data.to_image(samples[i]["image"]) for i in range(len(samples))]  # type: ignore[attr-defined]
    return [round(float(p[0, 0, 0]) * 255) for p in pictures]


@pytest.mark.parametrize("pattern", ["train-{000..002}.tar", "train-*.tar", "", "train-{000,001,002}.tar"])
def test_samples_come_in_the_order_of_the_shards(shards: Path, pattern: str) -> None:
    data = open_data(f"wds:{shards / pattern}", test=0)
    assert shades(data) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert data.labels("train").tolist() == [0, 1] * 6  # type: ignore[union-attr]
    assert data.classes == ["0", "1"]
    assert data.provides["size"] == (6, 8)
    assert data.skipped == []


def test_any_sample_is_read_alone(shards: Path) -> None:
    samples = open_data(f"wds:{shards}", test=0).split("train")
    last, first = samples[11]["image"], samples[0]["image"]
    assert not torch.equal(first, last)
    assert torch.equal(pickle.loads(pickle.dumps(samples))[11]["image"], last)


def test_shards_to_test_on(shards: Path) -> None:
    data = open_data(f"wds:{shards}/train-{{000..001}}.tar", test_source=f"{shards}/train-002.tar")
    assert shades(data, "test") == [20, 21, 22, 23]
    assert len(data.split("train")) == 8
    divided = open_data(f"wds:{shards}", test=0.25)
    assert (len(divided.split("train")), len(divided.split("test"))) == (8, 4)


def test_classes_from_a_field(shards: Path) -> None:
    data = open_data(f"wds:{shards}", label="json:animal", test=0)
    assert data.classes == ["cat", "dog", "emu"]
    assert data.labels("train").bincount().tolist() == [4, 4, 4]  # type: ignore[union-attr]
    assert open_data(f"wds:{shards}", label="none").classes is None


def test_members_are_grouped_by_folder_and_first_dot(tmp_path: Path) -> None:
    shard(
        tmp_path / "a.tar",
        {
            "x/1.left.JPG": picture(200, "JPEG"),
            "x/1.cls": b"7",
            "y/1.left.JPG": picture(100, "JPEG"),
            "y/1.right.png": picture(90),
            "y/1.cls": b"10",
            "words.txt": b"no picture",
            ".hidden": b"",
            "z/3.right.png": picture(50),
        },
    )
    data = open_data(f"wds:{tmp_path}", test=0)
    assert data.labels("train").tolist() == [0, -1]  # type: ignore[union-attr]
    assert shades(data)[1] == 50
    assert "a sample of 2 images (y/1.left.JPG, y/1.right.png)" in data.skipped[0][1]
    left = open_data(f"wds:{tmp_path}", image="left.jpg", test=0)
    assert left.classes == ["7", "10"]
    right = open_data(f"wds:{tmp_path}", image="right.png", test=0)
    assert shades(right) == [90, 50]


def test_damage_is_named_and_the_rest_is_used(shards: Path) -> None:
    path = shards / "train-001.tar"
    raw = path.read_bytes()
    with tarfile.open(path) as tar:
        third = tar.getmembers()[6]
    path.write_bytes(raw[: third.offset_data + 10])
    shard(shards / "train-003.tar", {"1.png": b"", "2.png": picture(30)})
    shard(shards / "train-004.tar", {"1.png": picture(40)}, "w:gz")
    data = open_data(f"wds:{shards}/train-*.tar", test=0)
    assert shades(data) == [0, 1, 2, 3, 10, 11, 20, 21, 22, 23, 30]
    found = {Path(name).relative_to(shards).as_posix(): reason for name, reason in data.skipped}
    assert found["train-003.tar/1"] == "empty file"
    assert "unpack" in found["train-004.tar"]
    assert "train-001.tar" in found


def test_a_broken_picture_is_replaced(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"1.png": picture(10), "2.png": picture(20)[:50], "3.png": picture(30)})
    data = open_data(f"wds:{tmp_path}", test=0)
    with pytest.warns(UserWarning, match=r"a\.tar/2: .*a\.tar/3 stands in"):
        assert shades(data) == [10, 30, 30]


def test_files_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    images = {f"{i}.png": picture(i) for i in range(4)}
    labels = {f"{i}.cls": str(i % 2).encode() for i in range(4)}
    shard(tmp_path / "a.tar", {**images, **labels})
    data = open_data(f"wds:{tmp_path}", test=0)
    assert shades(data) == [0, 1, 2, 3]
    assert data.labels("train").tolist() == [0, 1, 0, 1]  # type: ignore[union-attr]


def test_names_with_more_dots_are_not_taken_for_one_sample(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {f"2023.08.{i:02d} track.png": picture(i) for i in range(20)})
    with pytest.raises(UserError, match=r"2023: a sample of 20 images .*up to their first dot.*rename"):
        open_data(f"wds:{tmp_path}")
    twice = {"1.png": picture(1), "2.a.png": picture(2), "2.b.png": picture(3), "2.png": picture(4)}
    shard(tmp_path / "a.tar", twice)
    data = open_data(f"wds:{tmp_path}", test=0)
    assert shades(data) == [1]
    assert "a sample of 3 images" in data.skipped[0][1]
    assert shades(open_data(f"wds:{tmp_path}", image="png", test=0)) == [1, 4]


def test_a_label_that_cannot_be_read_costs_its_sample_alone(tmp_path: Path) -> None:
    members = {f"{i}.png": picture(i) for i in range(3)}
    shard(tmp_path / "a.tar", {**members, "0.json": b'{"a": 1}', "1.json": b"{", "2.json": b"[]"})
    data = open_data(f"wds:{tmp_path}", label="json:a", test=0)
    assert shades(data) == [0, 2]
    assert data.labels("train").tolist() == [0, -1]  # type: ignore[union-attr]
    assert data.skipped[0][0].endswith("a.tar/1")


def test_an_empty_label_is_none_and_a_whole_number_is_one_class(tmp_path: Path) -> None:
    words = {"0": "", "1": "1", "2": "1.0", "3": "1.5", "4": " \n"}
    members = {f"{name}.png": picture(int(name)) for name in words}
    texts = {f"{name}.cls": word.encode() for name, word in words.items()}
    fields = {f"{name}.json": json.dumps({"a": word}).encode() for name, word in words.items()}
    shard(tmp_path / "a.tar", {**members, **texts, **fields})
    for label in ("cls", "json:a"):
        data = open_data(f"wds:{tmp_path}", label=label, test=0)
        assert data.classes == ["1", "1.5"] and shades(data) == [1, 2, 3]
        assert data.labels("train").tolist() == [0, 0, 1]  # type: ignore[union-attr]
        assert all("its label is empty" in why for _, why in data.skipped) and len(data.skipped) == 2


def test_a_shard_cut_off_is_used_to_where_it_ends(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {f"{i}.png": picture(i) for i in range(3)})
    with tarfile.open(path) as tar:
        last = tar.getmembers()[2]
    path.write_bytes(path.read_bytes()[: last.offset_data + 10])
    data = open_data(f"wds:{tmp_path}", test=0)
    assert shades(data) == [0, 1]
    assert "ends within 2.png; what precedes the damage, 2 samples, is used" in data.skipped[0][1]


@pytest.mark.parametrize("more", [0, 100, 512])
def test_a_shard_that_ends_between_its_files_is_told(tmp_path: Path, more: int) -> None:
    path = shard(tmp_path / "a.tar", {f"{i}.png": picture(i) for i in range(3)})
    raw = path.read_bytes()
    with tarfile.open(path) as tar:
        end = tar.getmembers()[2].offset
    damaged = raw[: end + more] if more < 512 else raw[:end] + b"x" * 512 + raw[end + 512 :]
    path.write_bytes(damaged)
    data = open_data(f"wds:{tmp_path}", test=0)
    assert shades(data) == [0, 1]
    assert [why for _, why in data.skipped] == [
        f"no end mark at byte {end:,}, so it is cut off or damaged there; what precedes the damage, "
        "2 samples, is used"
    ]


def test_what_follows_the_end_of_a_shard_is_told(tmp_path: Path) -> None:
    one, other = (shard(tmp_path / name, {"0.png": picture(3)}) for name in ("a.tar", "b.tar"))
    one.write_bytes(one.read_bytes() + other.read_bytes())
    data = open_data(f"wds:{one}", test=0)
    assert shades(data) == [3] and "more follows its end mark" in data.skipped[0][1]


def test_special_files_and_endless_patterns_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    (tmp_path / "zero.tar").symlink_to("/dev/zero")
    for pattern in ("a.tar", "*.tar", "zero.tar", "b{0..99999999999}.tar"):
        with pytest.raises(UserError, match="there is no file"):
            open_data(f"wds:{tmp_path}/{pattern}")


def test_braces_multiply() -> None:
    assert list(expand_braces("a{08..11}{x,yz}.tar")) == [
        f"a{i:02d}{e}.tar" for i in range(8, 12) for e in ("x", "yz")
    ]
    assert list(expand_braces("plain{}.tar")) == ["plain{}.tar"]


def test_what_cannot_be_read_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*train-003\.tar"):
        find_shards(f"{shards}/train-{{000..005}}.tar")
    with pytest.raises(UserError, match="a pipe cannot be read at random"):
        open_data("wds:pipe:cat a.tar")
    with pytest.raises(UserError, match=r"s3:// addresses cannot be read here: .*s3fs"):
        open_data("wds:s3://bucket/a.tar")
    shard(shards / "words.tar", {"1.txt": b"words"})
    with pytest.raises(UserError, match="no images"):
        open_data(f"wds:{shards}/words.tar")
    with pytest.raises(UserError, match=r"no images \(webp\)"):
        open_data(f"wds:{shards}/train-000.tar", image="webp")


def test_links_are_the_files_they_name(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"x/0.png": picture(3), "x/0.cls": b"cat", "note.txt": b"hello"})
    with tarfile.open(path, "a") as tar:
        for name, kind, there in (
            ("x/1.png", tarfile.LNKTYPE, "x/0.png"),
            ("x/2.png", tarfile.SYMTYPE, "0.png"),
            ("y/3.png", tarfile.SYMTYPE, "../x/0.png"),
            ("y/4.png", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, there
            tar.addfile(info)
    data = open_data(f"wds:{path}", test=0)
    assert shades(data) == [3, 3, 3, 3] and data.labels("train").tolist() == [0, -1, -1, -1]  # type: ignore[union-attr]
    assert [(Path(name).name, why) for name, why in data.skipped] == [
        ("4.png", "a link to /etc/passwd, which is not in this tar file")
    ]


def test_the_last_file_of_a_name_counts(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"0.png": picture(3), "1.png": picture(4)})
    shard(path, {"0.png": picture(9)}, mode="a")
    data = open_data(f"wds:{path}", test=0)
    assert shades(data) == [9, 4]
    assert data.skipped == [
        (str(path), "names that stand in it more than once: 1, first 0.png; the last file of each is used")
    ]


@pytest.mark.parametrize("label", ["animal", "json:colour"])
def test_a_label_that_no_sample_has_is_refused(shards: Path, label: str) -> None:
    with pytest.raises(UserError, match=f"no sample has a label '{label}'"):
        open_data(f"wds:{shards}", label=label)


@pytest.mark.parametrize(("option", "found"), [({}, "a text"), ({"caption": "json:said"}, "a field")])
def test_captions_are_files_or_fields(tmp_path: Path, option: dict[str, str], found: str) -> None:
    members = {}
    for i in range(8):
        members[f"{i}.png"] = picture(10 * i)
        members[f"{i}.txt"] = f" a text \n of {i}".encode() if i != 3 else b""
        members[f"{i}.json"] = f'{{"said": "a field of {i}"}}'.encode() if i != 3 else b"{}"
    path = shard(tmp_path / "a.tar", members)
    for _ in range(2):  # the second time from what was kept
        data: Any = open_data(f"wds:{path}", test=0, **option)
        assert data.captions("train") == [f"{found} of {i}" if i != 3 else "" for i in range(8)]
    assert open_data(f"wds:{path}", test=0, caption="none").captions("train") is None
    pytest.importorskip("polymask_language")
    with pytest.warns(UserWarning, match="1 left out, 7 used"):
        words = open_data(f"wds:{path}", test=0.2, text_vocab="bpe", text_vocab_size=300, **option)
    assert words.split("train")[0]["text"].dtype == torch.int64


def test_a_caption_that_is_no_text_costs_its_sample(tmp_path: Path) -> None:
    members = {f"{i}.png": picture(10 * i) for i in range(3)}
    path = shard(tmp_path / "a.tar", {**members, "1.txt": b"\xff\xfe"})
    with pytest.warns(UserWarning, match="1 left out, 2 used.*can't decode"):
        open_data(f"wds:{path}", test=0)
