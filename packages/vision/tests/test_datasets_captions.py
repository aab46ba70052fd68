"""Images with captions: where readers find them, and their words as entries of samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polymask import Registry, UserError
from polymask.data import collate, open_data
from polymask_vision.datasets import animated_emoji, moving_digits, persons, stamps, texts

WORDS = {"text_vocab": "bpe", "text_vocab_size": 320}
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
NAMES = ("red", "green", "blue", "grey")
SAID = {f"{name}.png": f"a {name} thing, number {i}" for i, name in enumerate(NAMES)}


def images(folder: Path, names: Any = SAID) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (50 * i, 0, 0)).save(folder / name)


def told(data: Any) -> dict[str, str]:
    """Captions by file, over both splits."""
    return {
        name: caption
        for split in ("train", "test")
        for name, caption in zip(data.splits[split].names(), data.captions(split) or (), strict=False)
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_captions_are_read_from_a_table_a_list_or_beside_each_image(kind: str, tmp_path: Path) -> None:
    images(tmp_path)
    if kind == "csv":
        rows = [f'{name},"{caption}"' for name, caption in SAID.items()]
        (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *rows]))
    elif kind == "jsonl":
        lines = [json.dumps({"file_name": name, "text": caption}) for name, caption in SAID.items()]
        (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    else:
        for name, caption in SAID.items():
            (tmp_path / name).with_suffix(".txt").write_text(f"{caption}\n")
    data = open_data(f"vision/folder:{tmp_path}", test=0.25, **PLAIN)
    assert told(data) == SAID and not data.skipped


def test_rows_of_no_use_are_left_out_and_named(tmp_path: Path) -> None:
    pytest.importorskip("polymask_language")
    images(tmp_path)
    rows = [
        "image,caption",
        "red.png,one",
        "red.png,two",
        "nosuch.png,three",
        "green.png,",
        "blue.png, four  five ",
        "grey.png,a cat, on a mat",
    ]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    (tmp_path / "captions.jsonl").touch()
    with pytest.warns(UserWarning, match="left out"):
        data = open_data(f"vision/folder:{tmp_path}", **PLAIN)
    assert told(data) == {"red.png": "one", "green.png": "", "blue.png": "four five", "grey.png": ""}
    assert dict(data.skipped) == {
        "captions.csv, line 3": "another caption of red.png; its first is used",
        "captions.csv, line 4": "there is no file nosuch.png that can be used",
        "captions.csv, line 5": "it lacks a file or a caption",
        "captions.csv, line 7": "more fields than columns: put a caption with a comma in double quotes",
        "captions.jsonl": "captions are those of captions.csv",
    }
    with pytest.warns(UserWarning, match="7 left out"):
        worded: Any = open_data(f"vision/folder:{tmp_path}", **WORDS, **PLAIN)
    assert sorted(told(worded)) == ["blue.png", "red.png"]
    assert {name for name, why in worded.skipped if why == "it has no caption"} == {"green.png", "grey.png"}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a,b\nred.png,x", "it begins with a, b"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'file,caption\nred.png,"a red\ngreen.png,x\n', "line 2: unexpected end of data; see to its quotes"),
        (b"file,caption\nred.png," + b"x" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(content: bytes, match: str, tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "captions.csv").write_bytes(content)
    with pytest.raises(UserError, match=match):
        open_data(f"vision/folder:{tmp_path}", **PLAIN)


def test_a_broken_line_of_json_is_left_out(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "captions.jsonl").write_text(
        '{"file": "red.png", "caption": "one"}\n{"file"\n[1]\n' + "[" * 100_000
    )
    with pytest.warns(UserWarning, match="3 left out"):
        data = open_data(f"vision/folder:{tmp_path}", **PLAIN)
    assert [why for _, why in data.skipped] == ["no JSON object"] * 3


def test_words_are_entries_of_samples_and_their_vocabulary_is_for_text_slots_alone(tmp_path: Path) -> None:
    pytest.importorskip("polymask_language")
    stamps.example_source(tmp_path)
    data: Any = open_data(f"vision/stamps:{tmp_path}", **WORDS, **PLAIN)
    samples, captions = data.split("train"), data.captions("train")
    vocabulary = data.texts.vocabulary
    for sample, caption in zip((samples[i] for i in range(len(samples))), captions, strict=True):
        decoded = vocabulary.tokenizer.decode(sample["text"].tolist()).strip()
        assert decoded == caption.lower() and sample["word"].shape == sample["text"].shape
    assert "vocabulary" not in data.provides and data.provides["text"]["vocabulary"] == vocabulary.size
    assert data.provides["text"]["length"] == 32 and "text_vocab" not in data.provides["preparation"]
    batch = collate([samples[i] for i in range(6)])
    assert batch["text"].dtype == torch.int64 and batch["image"].shape[0] == 6
    assert "captions" in data.describe()
    same = [captions.index(caption) for caption in captions]
    identity = [int(samples[i]["identity"]) for i in range(len(samples))]
    assert [identity.index(x) for x in identity] == same


def test_without_text_vocab_nothing_changes(tmp_path: Path) -> None:
    stamps.example_source(tmp_path)
    data: Any = open_data(f"vision/stamps:{tmp_path}", **PLAIN)
    assert set(data.split("train")[0]) == {"image", "label_map"} and data.texts is None
    assert "text" not in data.provides


def test_data_without_captions_and_an_environment_without_language_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path)
    stamps.example_source(tmp_path / "stamps")
    alone = Registry(environ={"POLYMASK_PLUGINS": "core,vision"})
    alone.plugins = [record for record in alone.plugins if record.name != "language"]
    with monkeypatch.context() as patch:
        patch.setattr(texts, "default_registry", lambda: alone)
        with pytest.raises(UserError, match="pip install polymask-language"):
            open_data(f"vision/stamps:{tmp_path / 'stamps'}", **WORDS, **PLAIN)
    pytest.importorskip("polymask_language")
    shutil.rmtree(tmp_path / "stamps")
    with pytest.raises(UserError, match="these data have none: give a folder with captions.csv"):
        open_data(f"vision/folder:{tmp_path}", **WORDS, **PLAIN)


# ------------------------------------------------------------------------------------- persons


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank drawings, where a test is about captions."""
    blank = lambda people, pixels, seed: torch.zeros(len(people), 3, pixels, pixels, dtype=torch.uint8)  # noqa: E731
    monkeypatch.setattr(persons, "_drawings", blank)


def test_captions_of_persons_name_their_attributes(drawn: None) -> None:
    found = persons.persons(count=400, pixels=8)
    captions = texts.captions_of(found.train) + texts.captions_of(found.test)
    assert len(found.train) == 320 and len(set(captions)) > 390
    words = {word for kind in persons.ATTRIBUTES.values() for word in kind if word}
    named = [sum(word in words for word in caption.replace(",", "").split()) for caption in captions]
    assert set(named) == {4, 5, 6}
    again = persons.persons(count=400, pixels=8)
    assert captions == texts.captions_of(again.train) + texts.captions_of(again.test)
    assert captions[:320] != texts.captions_of(persons.persons(count=400, pixels=8, seed=1).train)


def test_one_attribute_of_some_training_captions_is_false_and_marked(drawn: None) -> None:
    clean, noisy = (persons.persons(count=1000, pixels=8, false=share) for share in (0.0, 0.3))
    assert texts.captions_of(clean.test) == texts.captions_of(noisy.test)
    changed = 0
    for number in noisy.train.index.tolist():
        before, after = (split.train.source.caption(number) for split in (clean, noisy))
        where = noisy.train.source.planted(number)
        assert (where is None) == (before == after) and clean.train.source.planted(number) is None
        if where is not None:
            changed += 1
            word = after[slice(*where)]
            true = true_of(before, after, where)
            assert true != word
            assert any(word in known and true in known for known in persons.ATTRIBUTES.values())
    assert abs(changed / 800 - 0.3) < 4 * (0.21 / 800) ** 0.5


def true_of(before: str, after: str, where: tuple[int, int]) -> str:
    """The word that stood where another one was put."""
    return before[where[0] : len(before) - (len(after) - where[1])]


def test_planted_words_are_marked_in_samples(drawn: None) -> None:
    pytest.importorskip("polymask_language")
    data: Any = open_data("vision/persons", count=300, pixels=8, false=0.5, text_length=99, **WORDS, **PLAIN)
    samples, marked = data.split("train"), 0
    for place, number in enumerate(data.splits["train"].index.tolist()):
        sample, where = samples[place], data.splits["train"].source.planted(number)
        assert sample["planted"].any() == (where is not None)
        if where is not None:
            marked += 1
            said = data.texts.vocabulary.tokenizer.decode(sample["text"][sample["planted"]].tolist()).strip()
            assert said == data.splits["train"].source.caption(number)[slice(*where)]
    assert marked > 80 and not data.split("test")[0]["planted"].any()


def test_drawings_show_what_captions_say() -> None:
    pytest.importorskip("python_avatars")
    pytest.importorskip("resvg_py")
    data: Any = open_data("vision/persons", count=60, pixels=32, **PLAIN)
    by_colour: dict[str, list[torch.Tensor]] = {}
    for sample, caption in zip(
        (data.split("train")[i] for i in range(48)), data.captions("train"), strict=True
    ):
        by_colour.setdefault(caption.split("in a ")[1].split()[0], []).append(sample["image"][:, 29, 16])
    means = {colour: torch.stack(pixels).mean(0) for colour, pixels in by_colour.items()}
    assert means["red"][0] > means["red"][2] + 0.2 and means["blue"][2] > means["blue"][0] + 0.2
    assert means["white"].min() > 0.7 > 0.4 > means["black"].max()


def test_persons_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="persons that differ"):
        persons.persons(count=10**6)
    with pytest.raises(UserError, match="leaves some to train on"):
        persons.persons(count=10, test=1.0)


def test_captions_of_moving_digits_tell_what_is_so_and_no_more_than_asked() -> None:
    every: Any = open_data("vision/moving-digits", coloured=True)
    source = every.splits["train"].source
    for number in range(0, 1797, 200):
        digit, way = (
            moving_digits.WORDS[source.digit[number]],
            list(moving_digits.DIRECTIONS)[source.direction[number]],
        )
        colour = list(moving_digits.COLOURS)[source.colour[number]]
        said = source.wordings(number)
        assert len(set(said)) == 3 and all(f"{colour} {digit}" in x and way in x for x in said)
        assert said[0] == source.caption(number) == f"a {colour} {digit} moving {way}"
    assert set(torch.cat([every.labels(name) for name in ("train", "test")]).tolist()) == set(range(10))
    some = open_data("vision/moving-digits", coloured=True, told=["colour"]).splits["train"].source
    text = " ".join(" ".join(some.wordings(number)) for number in range(1797))
    assert not any(word in text.split() for word in (*moving_digits.WORDS, "left", "right", "up", "down"))
    assert "red" in text and "red" not in open_data("vision/moving-digits").splits["train"].source.caption(0)
    for options in ({"label": "colour"}, {"told": ["size"]}):
        with pytest.raises(UserError, match="colour"):
            open_data("vision/moving-digits", **options)


def test_digits_have_the_colour_that_is_told() -> None:
    data: Any = open_data("vision/moving-digits", coloured=True, label="colour", limit=200)
    source, means = data.splits["train"].source, {}
    source.grounds.zero_()
    for place in range(100):
        clip, name = (
            data.to_image(data.split("train")[place]["video"]),
            data.classes[data.labels("train")[place]],
        )
        means.setdefault(name, []).append(clip.amax((0, 2, 3)))
    high = {name: (torch.stack(each).mean(0) > 0.5).tolist() for name, each in means.items()}
    assert high["red"] == [True, False, False] and high["blue"] == [False, False, True]
    assert high["yellow"] == [True, True, False] and high["purple"] == [True, False, True]


def test_of_several_captions_training_draws_one_and_others_have_the_first(tmp_path: Path) -> None:
    pytest.importorskip("polymask_language")
    videos = pytest.importorskip("polymask_vision.datasets.videos")
    rows = ["file,caption"]
    for i in range(6):
        videos.write(tmp_path / f"{i}.mkv", np.full((4, 16, 16, 3), 30 * i, np.uint8), rate=4)
        rows += [f"{i}.mkv,first {i}", f"{i}.mkv,second {i}", f"{i}.mkv,third {i}"][: i + 1]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    data: Any = open_data(f"vision/videos:{tmp_path}", frames=2, test=0.0, **WORDS)
    assert not data.skipped and data.captions("train") == [f"first {i}" for i in range(6)]
    plain, drawn = data.split("train"), data.split("train", augment=True)
    torch.manual_seed(0)
    for place, count in ((0, 1), (1, 2), (5, 3)):
        first = plain[place]
        assert first["text"].tolist() == plain[place]["text"].tolist()
        seen = [int(drawn[place]["identity"]) for _ in range(60)]
        assert len(set(seen)) == count and int(first["identity"]) in seen
        assert max(seen.count(x) for x in seen) < 60 / count + 15
        assert torch.equal(drawn[place]["video"], first["video"])
    batch = collate([plain[0], drawn[3]])
    assert batch["text"].shape[0] == 2 and "text" in data.provides and "captions" in data.describe()


def test_animated_emoji_are_captioned_by_their_names(tmp_path: Path) -> None:
    data: Any = open_data(f"vision/animated-emoji:{animated_emoji.example_source(tmp_path)}")
    captions = [*data.captions("train"), *data.captions("test")]
    assert sorted(captions) == [f"thing {x}" for x in "abcdefghijkl"]
