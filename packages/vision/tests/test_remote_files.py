"""Files that fsspec reaches: found, read in parts, tried again, and never half."""

from __future__ import annotations

import os

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from polymask import UserError
from polymask.data import BadSample, reading
from polymask_vision.datasets import remote


@pytest.fixture
def memory(monkeypatch):
    """A file system in memory, whose reads fail as often as ``failures`` says."""
    monkeypatch.setattr(remote, "WAIT", 0)
    system = MemoryFileSystem()
    system.pipe({"/some/a.tar": bytes(range(100)), "/some/b.tar": b"b", "/some/c.txt": b"c"})
    plain = MemoryFileSystem.cat_file
    state = {"failures": 0, "tries": 0, "change": lambda found: found}

    def cat_file(self, path, start=None, end=None, **other):
        state["tries"] += 1
        if state["tries"] <= state["failures"]:
            raise ConnectionError("gone for a moment")
        return state["change"](plain(self, path, start=start, end=end, **other))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    yield state
    system.rm("/some", recursive=True)


def test_folders_and_wildcards(memory):
    both = ["memory:///some/a.tar", "memory:///some/b.tar"]
    assert remote.find("memory://some", ".tar") == remote.find("memory://some/*.tar", ".tar") == both
    assert remote.find("memory://some/c.txt", ".tar") == ["memory://some/c.txt"]
    assert [about.size for _, about in remote.about(both)] == [100, 1]


def test_ranges_and_files_from_front_to_back(memory):
    assert remote.read("memory://some/a.tar", 7, 3) == bytes([7, 8, 9])
    wanted = [("memory://some/a.tar", i, 2) for i in range(50)]
    assert remote.read_many(wanted) == [bytes([i, i + 1]) for i in range(50)]
    with remote.opened("memory://some/a.tar", 100) as file:
        assert file.read(5) == bytes(range(5))
        file.seek(98)
        assert file.read(5) == bytes([98, 99])


def test_another_content_has_another_identity(memory, tmp_path):
    ((_, before),) = remote.about(["memory://some/a.tar"])
    ((_, same),) = remote.about(["memory://some/a.tar"])
    MemoryFileSystem().pipe_file("/some/a.tar", bytes(100))
    ((_, after),) = remote.about(["memory://some/a.tar"])
    assert before == same and None not in before and before.identity != after.identity
    file = tmp_path / "a"
    file.write_bytes(b"1")
    assert next(remote.about([str(file)]))[1] == (1, None)  # it may change again unseen


def test_what_fails_for_a_moment_is_tried_again(memory):
    memory["failures"] = remote.TRIES - 1
    assert remote.read("memory://some/a.tar", 0, 2) == b"\0\1"


def test_what_fails_for_good_is_no_broken_sample(memory):
    memory["failures"] = 100
    with (
        pytest.raises(
            UserError, match=r"memory://some/a.tar cannot be read, in 5 tries: ConnectionError.*resumed"
        ),
        reading(),
    ):
        remote.read("memory://some/a.tar?signature=1", 0, 2)
    with pytest.raises(UserError, match="there is no file memory://some/z.tar"):
        list(remote.about(["memory://some/z.tar"]))


def test_parts_that_are_too_short_or_too_long(memory):
    memory["change"] = lambda found: found[:-1]
    with pytest.raises(UserError, match="1 bytes from 0 on, not 2"):
        remote.read("memory://some/a.tar", 0, 2)
    memory["change"] = lambda found: found + b"more"
    with pytest.raises(UserError, match="whole files only"):
        remote.read("memory://some/a.tar", 0, 2)


def test_a_package_that_is_missing_is_named(monkeypatch):
    with pytest.raises(UserError, match="s3:// addresses cannot be read here: .*s3fs"):
        remote.read("s3://bucket/a.tar", 0, 2)
    with pytest.raises(UserError, match="nothing:// addresses cannot be read here"):
        remote.read("nothing://bucket/a.tar", 0, 2)


def test_files_of_this_disk_fail_as_ever(tmp_path):
    with pytest.raises(BadSample, match="No such file"), reading():
        remote.read(os.fspath(tmp_path / "a"), 0, 1)
