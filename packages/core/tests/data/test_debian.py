"""Debian's packages are fetched once, whole or not at all, and it is said what to do where that fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from polymask import UserError
from polymask.data import debian

INSIDE = "usr/share/polymask-stand-in"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was run, by a stand-in that does what the commands do to the folders they are given."""
    ran: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], cwd: str, **options: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        if command[0] == "apt-get":
            for package in command[2:]:
                Path(cwd, f"{package}_1_all.deb").write_text(package)
        else:
            package = Path(command[2]).read_text()
            folder = Path(command[3], INSIDE)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / package).write_text("content")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    return ran


def test_several_packages_are_unpacked_into_one_folder(tmp_path, commands):
    debian.fetch(tmp_path, "b", "a")
    assert sorted(path.name for path in (tmp_path / INSIDE).iterdir()) == ["a", "b"]
    assert commands[0] == ("apt-get", "download", "b", "a")
    assert [command[:2] for command in commands[1:]] == [("dpkg-deb", "-x")] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["usr"]  # the archives are gone


def test_the_cache_is_filled_once(tmp_path, commands):
    cache = tmp_path / "cache" / "x"
    for _ in range(2):
        assert debian.unpacked(INSIDE, "a", cache=cache) == cache
        assert [path.name for path in cache.iterdir()] == ["a"]
    assert len(commands) == 2


def test_an_installed_package_is_taken_as_it_is_where_it_is_complete(tmp_path, commands):
    installed = tmp_path / "installed"
    installed.mkdir()

    def find():
        return debian.unpacked(
            str(installed)[1:], "a", cache=tmp_path / "x", complete=lambda folder: (folder / "a").exists()
        )

    with pytest.raises(UserError):  # the stand-in unpacks another folder
        find()
    assert len(commands) == 2
    (installed / "a").touch()
    assert find() == installed
    assert len(commands) == 2 and not (tmp_path / "x").exists()


def test_a_cache_that_stays_incomplete_is_refused(tmp_path, commands):
    with pytest.raises(UserError, match=r"x lacks some of what is expected; delete it"):
        debian.unpacked(INSIDE, "a", cache=tmp_path / "x", complete=lambda folder: (folder / "b").exists())


def test_where_nothing_can_be_fetched_it_says_why_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError) as caught:
        debian.unpacked(INSIDE, "a", "b", cache=tmp_path / "x", advice="Or use another.")
    text = str(caught.value)
    assert text.startswith("Debian's a, b could not be fetched: this system has no apt-get")
    assert "'apt-get download a b'" in text
    assert f"put what is in {INSIDE} into {tmp_path / 'x'}. Or use another." in text
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_tells_its_last_line_and_one_that_hangs_that_it_did(tmp_path, monkeypatch):
    def failing(command: tuple[str, ...], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 100, "", "W: noise\nE: Unable to locate package a\n")

    def hanging(command: tuple[str, ...], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 5)

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(OSError, match=r"apt-get download failed: E: Unable to locate package a$"):
        debian.fetch(tmp_path, "a")
    monkeypatch.setattr(subprocess, "run", hanging)
    with pytest.raises(OSError, match="apt-get download took more than 5 seconds"):
        debian.fetch(tmp_path, "a")
