"""Packages of npm are fetched once, whole or not at all, and are what was published."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from polymask import UserError
from polymask_vision.datasets import npm


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    return file.getvalue()


CONTENT = archive("data.json", "img/a.png", "index.js", "../out.json")
INTEGRITY = "sha512-" + base64.b64encode(hashlib.sha512(CONTENT).digest()).decode()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was run, by a stand-in that leaves the archive."""
    commands: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], cwd: str, **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        Path(cwd, "thing-1.2.3.tgz").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def fetched(folder: Path, integrity: str = INTEGRITY) -> Path:
    wanted = ("data.json", "img/")
    return npm.unpacked(
        "thing",
        "1.2.3",
        integrity,
        cache=folder / "cache" / "thing",
        wanted=lambda name: name.startswith(wanted),
    )


def test_what_is_wanted_is_unpacked_once(tmp_path, ran):
    for _ in range(2):
        cache = fetched(tmp_path)
        assert sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*.*")) == [
            "data.json",
            "img/a.png",
        ]
    assert ran == [("npm", "pack", "thing@1.2.3", "--silent")]


def test_another_archive_than_the_published_is_refused(tmp_path, ran):
    with pytest.raises(UserError, match=r"thing-1.2.3.tgz is not the file that was published"):
        fetched(tmp_path, "sha512-" + base64.b64encode(b"x" * 64).decode())
    assert not any((tmp_path / "cache").iterdir())


def test_nothing_is_written_outside_of_the_cache(tmp_path, ran):
    with pytest.raises(UserError, match="could not be fetched"):
        npm.unpacked("thing", "1.2.3", INTEGRITY, cache=tmp_path / "cache" / "x", wanted=lambda name: True)
    assert not (tmp_path / "cache" / "out.json").exists() and not (tmp_path / "cache" / "x").exists()


def test_without_npm_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError) as caught:
        fetched(tmp_path)
    assert "npm's thing could not be fetched: this system has no npm" in str(caught.value)
    assert "run 'npm pack thing@1.2.3'" in str(caught.value)
