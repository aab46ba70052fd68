"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from polymask import UserError
from polymask.checkpoints import write_tensors
from polymask.export import save_state
from polymask.files import (
    atomic,
    contents,
    locked,
    read_json,
    read_yaml,
    write_json,
    write_text,
    write_yaml,
)


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


@pytest.mark.parametrize(
    ("number", "why", "advice"),
    [(28, "No space left on device", "make room"), (24, "Too many open files", r"let .* \(ulimit -n\)")],
)
def test_what_was_there_stays_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, why: str, advice: str
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "first")

    def full() -> None:
        with atomic(path) as file:
            file.write("sec")
            raise OSError(number, why)

    with pytest.raises(UserError, match=rf"a.txt cannot be written: {why}; {advice}"):
        full()
    assert path.read_text() == "first" and names(tmp_path) == ["a.txt"]

    def refuse(*args: object) -> None:
        raise OSError(5, "Input/output error")

    for step in ("replace", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, refuse)
            with pytest.raises(UserError, match=r"a.txt cannot be written: Input/output error"):
                write_text(path, "second")
        assert path.read_text() == "first" and names(tmp_path) == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_is_in_place_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "first")
    seen = []
    fsync = os.fsync

    def note(handle: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.read_text()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    write_text(path, "second")
    assert seen == [(False, "first"), (True, "second")]


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a.txt cannot be written: (Not a directory|File exists)"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_tensors_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_tensors(path, {"x": torch.ones(3)})
    whole = path.read_bytes()
    # every byte written to this device fails for want of room
    (tmp_path / f".a.pt.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"a.pt cannot be written: No space left on device"):
        write_tensors(path, {"x": torch.zeros(3_000_000)})
    assert path.read_bytes() == whole and names(tmp_path) == ["a.pt"]


HOLD = """
import os, sys, time
from pathlib import Path
from polymask.files import contents, locked
with locked(Path(sys.argv[1])):
    if "fork" in sys.argv:
        os.fork()
    os.write(1, b"held\\n")
    time.sleep(60)
"""


def test_a_folder_has_one_writer_and_the_end_of_a_process_frees_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        try:
            with (
                pytest.raises(UserError, match=f"in use by process {other.pid} on {socket.gethostname()}"),
                locked(folder),
            ):
                raise AssertionError
        finally:
            other.kill()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / f".last.ckpt.{other.pid}.partial").write_bytes(b"half")
    assert names(folder) == [".lock", "checkpoints"]
    with locked(folder):
        assert (folder / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"
        assert names(folder / "checkpoints") == []
    assert names(folder) == ["checkpoints"]


def test_what_a_killed_process_left_is_no_content_and_runs_within_are_left_alone(tmp_path: Path) -> None:
    half, other = tmp_path / ".plan.json.1.partial", tmp_path / "run" / ".probe.json.2.partial"
    other.parent.mkdir()
    for path in (half, other, tmp_path / ".lock"):
        path.write_text("half")
    assert contents(tmp_path) == ["run"] and contents(tmp_path / "nothing") == []
    with locked(tmp_path):
        assert not half.exists() and other.exists()


def test_a_lock_ends_with_its_process_though_its_children_live(tmp_path: Path) -> None:
    """As worker processes do for a while when the one that trains is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "fork"], stdout=subprocess.PIPE, start_new_session=True
    ) as other:
        assert other.stdout is not None
        assert [other.stdout.readline() for _ in range(2)] == [b"held\n"] * 2
        other.kill()
        other.wait()
        try:
            with locked(tmp_path):
                pass
        finally:
            os.killpg(other.pid, signal.SIGKILL)


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


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"\xff", b"[" * 100_000, None])
def test_damaged_json_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "probe.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"probe.json is damaged .*: put back a copy, or delete it"):
        read_json(path, lambda found: found["rows"])


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


def test_exported_weights_can_be_read_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_state({"x": torch.arange(6.0).view(2, 3).T}, tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert load_file(tmp_path / "model.safetensors")["x"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_numbers_in_base_8_or_60_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 010\nb: 1:30\nc: 10\nd: 0x10\ne: -0\nf: 0.5\ng: 1:30.5\n")
    found = {"a": "010", "b": "1:30", "c": 10, "d": 16, "e": 0, "f": 0.5, "g": "1:30.5"}
    assert read_yaml(tmp_path / "a.yaml") == found
    write_yaml(tmp_path / "b.yaml", found)
    assert read_yaml(tmp_path / "b.yaml") == found


def test_a_lock_that_could_not_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(socket, "gethostname", full)
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with pytest.raises(UserError, match="No space left"), locked(tmp_path / name):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and not any((tmp_path / "there").iterdir())
