"""Data that Debian's packages carry."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from polymask.data.cache import whole_or_not
from polymask.errors import UserError


def unpacked(
    inside: str,
    *packages: str,
    cache: Path,
    complete: Callable[[Path], bool] = Path.is_dir,
    advice: str = "",
) -> Path:
    """A folder of Debian packages: where they are installed, or in the cache, fetched if need be.

    Args:
        inside: the folder, from the root.
        packages: their names.
        cache: where to keep what is fetched.
        complete: whether a folder has what is expected.
        advice: what else can be done where nothing can be fetched.

    Raises:
        UserError: it cannot be had here, with what to do.
    """
    for folder in (Path("/", inside), cache):
        if complete(folder):
            return folder
    try:
        with tempfile.TemporaryDirectory() as place, whole_or_not(cache) as part:
            fetch(place, *packages)
            shutil.copytree(Path(place, inside), part, dirs_exist_ok=True)
        if not complete(cache):
            raise OSError(f"{cache} lacks some of what is expected; delete it and try again")
    except OSError as error:
        raise UserError(
            f"{error}\nWhere there is a network, run 'apt-get download {' '.join(packages)}', unpack with "
            f"'dpkg-deb -x' and put what is in {inside} into {cache}. {advice}".rstrip()
        ) from error
    return cache


def fetch(folder: str | Path, *packages: str) -> None:
    """Download Debian packages with ``apt-get download``, no root needed, and unpack them in a folder.

    Raises:
        OSError: it cannot be done here, with the reason.
    """
    try:
        with tempfile.TemporaryDirectory() as place:
            run("apt-get", "download", *packages, folder=place)
            for archive in sorted(Path(place).glob("*.deb")):
                run("dpkg-deb", "-x", str(archive), str(folder), folder=place)
    except OSError as error:
        raise OSError(f"Debian's {', '.join(packages)} could not be fetched: {error}") from error


def run(*command: str, folder: str | Path) -> str:
    """What a command prints.

    Raises:
        OSError: it is not there, or fails, with its last line, or takes more than half an hour.
    """
    if not shutil.which(command[0]):
        raise OSError(f"this system has no {command[0]}")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{' '.join(command[:2])} took more than {error.timeout:.0f} seconds") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise OSError(f"{' '.join(command[:2])} failed: {lines[-1]}")
    return done.stdout
