"""Files are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from polymask import UserError
from polymask.files import atomic, read_yaml, write_json, write_text, write_yaml


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_there_stays_until_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "first")
    with atomic(path) as file:
        file.write("second")
        file.flush()
        assert path.read_text() == "first"
    assert path.read_text() == "second" and names(path.parent) == ["a.txt"]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "first")

    def full() -> None:
        with atomic(path) as file:
            file.write("sec")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        full()
    assert path.read_text() == "first" and names(tmp_path) == ["a.txt"]

    def refuse(*args: object) -> None:
        raise OSError(5, "Input/output error")

    for step in ("replace", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, refuse)
            with pytest.raises(OSError, match="Input/output"):
                write_text(path, "second")
        assert path.read_text() == "first" and names(tmp_path) == ["a.txt"]


def test_a_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    def stopped() -> None:
        with atomic(tmp_path / "a.bin", "wb") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert names(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_is_of_finite_numbers_and_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_yaml_comes_back_in_order_and_in_any_language(tmp_path: Path) -> None:
    value = {"z": [1, 2], "a": {"größe": None, "字": 0.5}}
    write_yaml(tmp_path / "a.yaml", value)
    found = read_yaml(tmp_path / "a.yaml")
    assert found == value and list(found) == ["z", "a"]
    assert "größe" in (tmp_path / "a.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"a: [", "cannot read"), (b"\xff\xfe", "cannot read"), (b"- 1", "must map")],
)
def test_what_is_no_configuration_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
