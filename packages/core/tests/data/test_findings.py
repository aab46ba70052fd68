"""What files gave is kept, and every change of them is seen all the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from polymask.data import BadSample, findings
from polymask.data.folders import read_folder

LONG_AGO = 10**18


@dataclass(frozen=True)
class Look:
    words: int


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six files of a word in two classes, not fresh, of which so few are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(findings, "FEW", 1)
    monkeypatch.setattr(findings, "FRESH", -(10**10))  # nothing is too fresh
    for i in range(6):
        write(tmp_path / "files" / "ab"[i % 2] / f"{i}.txt", "word")
    return tmp_path / "files"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def opened(folder):
    """What a folder holds, without and with what is kept of it; and which files were looked at for that."""
    looked = []

    def look(path):
        looked.append(path.name)
        text = path.read_text()
        if text == "evil":
            raise BadSample("evil")
        return Look(len(text.split()))

    plain, looked[:] = read_folder(str(folder), [".txt"], "texts", look), []
    found = read_folder(str(folder), [".txt"], "texts", look, again=lambda known: Look(**known))
    for name in ("names", "looks", "classes", "skipped"):
        assert getattr(found, name) == getattr(plain, name)
    assert found.labels.tolist() == plain.labels.tolist()
    return found, sorted(looked)


def kept(folder):
    return list((folder.parent / "cache" / "polymask" / "indexes").glob("*"))


def test_files_that_stay_as_they_are_are_looked_at_once(folder):
    first, looked = opened(folder)
    assert looked == [f"{i}.txt" for i in range(6)] and len(kept(folder)) == 1
    before = kept(folder)[0].stat()
    again, looked = opened(folder)
    assert looked == [] and again.looks == first.looks == [Look(1)] * 6
    assert kept(folder)[0].stat().st_mtime_ns == before.st_mtime_ns


def other_size(folder):
    write(folder / "a" / "2.txt", "two words")


def same_size_and_time(folder):
    (folder / "a" / "2.txt").unlink()  # so that its number may be the same
    write(folder / "a" / "2.txt", "a rd")


def in_place(folder):
    with (folder / "a" / "2.txt").open("r+") as file:
        file.write("w rd")
    os.utime(folder / "a" / "2.txt", ns=(LONG_AGO, LONG_AGO))


def exchanged(folder):
    write(folder / "a" / "4.txt", "w rd")
    opened(folder)
    (folder / "a" / "4.txt").rename(folder / "spare")
    (folder / "a" / "2.txt").rename(folder / "a" / "4.txt")
    (folder / "spare").rename(folder / "a" / "2.txt")


def behind_a_link(folder):
    write(folder.parent / "elsewhere.txt", "word")
    (folder / "a" / "6.txt").symlink_to(folder.parent / "elsewhere.txt")
    opened(folder)
    write(folder.parent / "elsewhere.txt", "a rd")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (other_size, ["2.txt"]),
        (same_size_and_time, ["2.txt"]),
        (in_place, ["2.txt"]),
        (exchanged, ["2.txt", "4.txt"]),
        (behind_a_link, ["6.txt"]),
        (lambda folder: write(folder / "c" / "7.txt", "word"), ["7.txt"]),
        (lambda folder: (folder / "a" / "2.txt").unlink(), []),
        (lambda folder: shutil.rmtree(folder / "a"), []),
        (lambda folder: (folder / "a").rename(folder / "z"), ["0.txt", "2.txt", "4.txt"]),
    ],
)
def test_whatever_changes_is_seen(folder, change, names):
    opened(folder)
    time.sleep(0.02)  # times of files are a few milliseconds apart
    change(folder)
    _, looked = opened(folder)
    assert looked == names
    assert opened(folder)[1] == []


def test_what_cannot_be_used_is_looked_at_every_time(folder):
    write(folder / "a" / "2.txt", "evil")
    for _ in range(2):
        found, _ = opened(folder)
        assert found.skipped == [("a/2.txt", "evil")]
    assert opened(folder)[1] == ["2.txt"]


def test_a_file_that_may_change_unseen_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(findings, "FRESH", 3600 * 10**9)
    opened(folder)
    assert len(opened(folder)[1]) == 6


def damaged(path):
    raw = path.read_bytes()
    yield from (b"", b"no archive", raw[: len(raw) // 2], raw[:200] + bytes([raw[200] ^ 1]) + raw[201:])
    arrays = findings.load(path)
    for name, value in (("names", [1]), ("names", "abcdef"), ("values", [{"words": 1}]), ("values", [None])):
        findings.save(path, **{**arrays, name: findings.packed(value)})
        yield path.read_bytes()


def test_a_damaged_index_is_made_again(folder):
    opened(folder)
    (path,) = kept(folder)
    whole = path.read_bytes()
    for content in damaged(path):
        path.write_bytes(content)
        _, looked = opened(folder)
        assert len(looked) == 6 and opened(folder)[1] == [], content[:20]
        assert len(path.read_bytes()) == len(whole)


def test_where_nothing_can_be_kept_all_is_looked_at(folder, monkeypatch):
    (folder.parent / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "file"))
    for _ in range(2):
        assert len(opened(folder)[1]) == 6
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    monkeypatch.setattr(findings, "FEW", 7)
    opened(folder)
    assert not kept(folder)


def test_another_look_or_version_keeps_for_itself(folder, monkeypatch):
    opened(folder)
    monkeypatch.setattr(findings, "__version__", "another")
    assert len(opened(folder)[1]) == 6 and len(kept(folder)) == 2
    other = read_folder(str(folder), [".txt"], "texts", lambda path: 5, again=int)
    assert other.looks == [5] * 6 and len(kept(folder)) == 3


def test_names_of_any_bytes(folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/a/\xff\xfe.txt")).write_text("a b")
    assert opened(folder)[0].looks[0] == Look(1)
    assert opened(folder)[1] == []


def _open_often(folder):
    for i in range(20):
        write(folder / "a" / "2.txt", "word " * (i % 3 + 1))
        read_folder(str(folder), [".txt"], "t", lambda path: len(path.read_text().split()), again=int)
    return 0


@pytest.mark.slow
def test_two_processes_at_once(folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_open_often, args=(folder,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    found, _ = opened(folder)
    assert json.dumps([look.words for look in found.looks])
    assert not [path for path in kept(folder) if path.suffix != ".npz"]
