"""Folders, lines, objects, tables, an index of packages: what is broken is skipped and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polymask import UserError
from polymask.data import hub, open_data
from polymask_language.datasets.base import TextDataset
from polymask_language.datasets.folder import folder
from polymask_language.datasets.glosses import TOPICS, glosses, read_built_in, read_wordnet
from polymask_language.datasets.huggingface import huggingface, read_splits
from polymask_language.datasets.json_lines import json_lines
from polymask_language.datasets.lines import lines
from polymask_language.datasets.titles import read_index


def write(root: Path, files: dict[str, str | bytes]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def test_lines_of_utf_16_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(["one line", "another"] * 9), encoding="utf-16")
    corpus = lines(source=str(path))
    assert not corpus.texts and len(corpus.skipped) == 18
    assert corpus.skipped[0][1].startswith("holds bytes of zero, as UTF-16 does")


def test_folders_are_classes_and_broken_files_are_named(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "cats/1.txt": "purr",
        "cats/deep/2.md": "\ufeffmeow",
        "dogs/3.txt": "bark",
        "dogs/broken.txt": b"\xff\xfe\xfa",
        "dogs/empty.txt": " \n",
        "dogs/picture.png": b"\x89PNG",
        "dogs/.hidden.txt": "no",
    }
    corpus = folder(source=write(tmp_path, files))
    assert (corpus.texts, corpus.labels, corpus.classes) == (
        ["purr", "meow", "bark"],
        [0, 0, 1],
        ["cats", "dogs"],
    )
    assert corpus.test is None
    assert [name for name, _ in corpus.skipped] == ["dogs/broken.txt", "dogs/empty.txt", "dogs/picture.png"]
    assert "not UTF-8" in corpus.skipped[0][1]


def test_every_piece_of_a_text_has_the_name_of_its_file(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"train/{i}.txt": f"text {i} " * (1 + 9 * (i % 3)) for i in range(9)}
    source = write(tmp_path, {**files, "test/x.txt": "one more text", "test/y.txt": "and another"})
    data: Any = open_data(f"language/folder:{source}", length=16, vocab_size=300)
    for split in ("train", "test"):
        samples = data.split(split)
        found = [Path(source, name).read_text().split()[0:2] for name in samples.names()]
        documents = data._samples[split][1].tolist()
        assert found == [data.corpus.texts[i].split()[0:2] for i in documents]
    assert len(data.split("train").names()) == len(data.split("train")) > 9
    assert open_data("language/glosses", limit=8).split("train").names() is None


def test_folders_train_and_test_are_splits_and_a_file_beside_folders_means_no_classes(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train/a/1.txt": "one", "train/b/2.txt": "two", "val/a/3.txt": "three"}
    corpus = folder(source=write(tmp_path / "split", files))
    assert (corpus.texts, corpus.test, corpus.classes) == (
        ["one", "two", "three"],
        [False, False, True],
        ["a", "b"],
    )
    flat = folder(source=write(tmp_path / "flat", {"a/1.txt": "one", "2.txt": "two"}))
    assert flat.labels is None and flat.classes is None
    (tmp_path / "flat" / "a" / "loop").symlink_to(tmp_path / "flat")
    assert folder(source=str(tmp_path / "flat")).texts == flat.texts
    with pytest.raises(UserError, match="no folder"):
        folder(source=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="skipped 1 files, first 1.txt: empty file"):
        folder(source=write(tmp_path / "empty", {"1.txt": ""}))


def test_lines_and_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufefffirst line\nsecond\r\n\n".encode() + b"\xff bad\n" + b"last of\nfish")
    found = TextDataset(lines(source=str(path)), vocab_size=300, test=0.3)
    assert found.corpus.texts == ["first line", "second", "last of", "fish"]
    assert found.skipped[0][0] == "line 4"
    assert lines(source=str(path), paragraphs=True).texts == [
        "first line second",
        "last of fish",
    ]
    with pytest.raises(UserError, match="no file"):
        lines(source=str(tmp_path / "y.txt"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(end.join(["first line", "second", "", "", "third", "fourth", ""]).encode())
    assert lines(source=str(path)).texts == ["first line", "second", "third", "fourth"]
    assert lines(source=str(path), paragraphs=True).texts == ["first line second", "third fourth"]
    path.write_bytes(end.join(['{"text": "a"}', '{"text": "b"}']).encode())
    assert json_lines(source=str(path)).texts == ["a", "b"]


def test_objects_by_field(tmp_path: Path) -> None:
    rows: list[Any] = [{"body": "b1", "kind": 3, "title": "t1"}, {"body": "b2", "kind": 1, "title": "t2"}]
    written = [
        *map(json.dumps, rows),
        "{broken",
        "[1]",
        json.dumps({"text": "x"}),
        json.dumps({**rows[0], "body": ""}),
        "[" * 100_000,
        json.dumps({**rows[0], "body": "\ud800"}),
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(written))
    corpus = json_lines(source=str(path), field="body", label_field="kind", query_field="title")
    assert (corpus.texts, corpus.labels, corpus.classes) == (["b1", "b2"], [1, 0], ["1", "3"])
    assert corpus.queries == ["t1", "t2"]
    assert [name for name, _ in corpus.skipped] == [
        "line 3",
        "line 4",
        "line 5",
        "line 6",
        "line 7",
        "line 8",
    ]
    assert "no field 'body', it has 'text'" in corpus.skipped[2][1]
    with pytest.raises(UserError, match="no text in the file .* skipped 8"):
        TextDataset(json_lines(source=str(path), field="nothing"))


def test_tables_of_the_hub_streamed_or_not(tmp_path: Path) -> None:
    for split, count in (("train", 7), ("test", 3)):
        rows = ({"content": f"{split} text {i}", "label": "ab"[i % 2], "n": i} for i in range(count))
        write(tmp_path, {f"{split}.jsonl": "\n".join(map(json.dumps, rows))})
    for streaming in (False, True):
        corpus = read_splits(
            hub.load(str(tmp_path), None, streaming=streaming, option="documents", most=5), "x", None, None
        )
        assert list(corpus.texts) == [f"train text {i}" for i in range(5)] + [
            f"test text {i}" for i in range(3)
        ]
        assert corpus.test == [False] * 5 + [True] * 3
        assert corpus.classes == ["a", "b"] and corpus.labels == [0, 1, 0, 1, 0, 0, 1, 0]
    found = TextDataset(huggingface(source=str(tmp_path), label="none"), vocab_size=300)
    assert found.classes is None and len(found.split("test")) == 3
    with pytest.raises(UserError, match="no column 'nothing'; it has content, label, n"):
        huggingface(source=str(tmp_path), text="nothing")
    with pytest.raises(UserError, match="how much of the stream"):
        huggingface(source=str(tmp_path), streaming=True)


def test_the_index_of_packages_with_its_descriptions_inside_or_beside() -> None:
    long = "Description{}: A tool\n It does things.\n .\n It does  more.\n"
    inside = read_index("Package: a\n" + long.format("") + "Section: main/math\n\nPackage: b\nSection: net\n")
    beside = read_index(
        "Package: a\nDescription: A tool\nDescription-md5: 77\nSection: math\n",
        "Package: a\nDescription-md5: 77\n" + long.format("-en") + "\nPackage: b\nDescription-md5: 8\n",
    )
    for corpus in (inside, beside):
        assert corpus.texts == ["It does things. It does more."]
        assert (corpus.queries, corpus.classes, corpus.labels) == (["A tool"], ["math"], [0])


def test_definitions_come_with_the_package() -> None:
    found = list(read_built_in())
    assert len(found) == 117_659 and len(TOPICS) == 45
    assert {g.topic for g in found} == set(range(45))
    disaster = next(g for g in found if g.words == ("disaster",))
    assert (TOPICS[disaster.topic], disaster.text) == ("noun.act", "an act that has disastrous consequences")
    assert not any("\t" in g.text or not g.text for g in found)


def test_data_files_of_wordnet_are_read(tmp_path: Path) -> None:
    entry = '00001740 {} a 02 red(a) 0 dark_red 0 001 & 1 a 0000 | a colour; "red wine"  \n'
    for i, kind in enumerate(("noun", "verb", "adj", "adv")):
        (tmp_path / f"data.{kind}").write_text("  1 a licence\n" + entry.format(f"{i:02}"))
    found = list(read_wordnet(tmp_path, examples=False))
    assert [g.topic for g in found] == [0, 1, 2, 3]
    assert found[0].words == ("red", "dark red") and found[0].text == "a colour"
    assert next(read_wordnet(tmp_path, examples=True)).text == 'a colour; "red wine"'
    (tmp_path / "data.verb").write_text("00 xx\n")
    with pytest.raises(UserError, match="no data file of WordNet"):
        list(read_wordnet(tmp_path, examples=False))


def test_data_sets_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    few = list(read_built_in())[::200]
    monkeypatch.setattr("polymask_language.datasets.glosses.read_built_in", lambda: iter(few))
    found = open_data("language/glosses", vocab_size=600, label="part-of-speech", limit=50)
    assert isinstance(found, TextDataset) and len(found.split("train")) == 50
    assert found.classes == ["noun", "verb", "adj", "adv"]
    queries, documents = found.pairs("test")
    by_text = {g.text: ", ".join(g.words) for g in few}
    assert all(by_text[d] == q for q, d in zip(queries, documents, strict=True))
    with pytest.raises(UserError, match="'topic' or 'part-of-speech'"):
        glosses(label="sense")  # type: ignore[arg-type]
