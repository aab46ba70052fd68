"""Data that Debian packages carry."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from polymask import UserError
from polymask.cache import cache_folder, whole_or_not


def unpacked(package: str, inside: str) -> Path:
    """A folder of a Debian package: that of the installed one, or in the cache, fetched if need be.

    Args:
        package: its name.
        inside: the folder, from the root.

    Raises:
        UserError: it cannot be had here, with what to do.
    """
    installed = Path("/", inside)
    if installed.is_dir():
        return installed
    folder = cache_folder(package)
    if not folder.is_dir():
        try:
            with tempfile.TemporaryDirectory() as place:
                run("apt-get", "download", package, folder=place)
                archives = [str(path) for path in Path(place).glob("*.deb")]
                run("dpkg-deb", "-x", *archives, place, folder=place)
                with whole_or_not(folder) as part:
                    shutil.copytree(Path(place, inside), part, dirs_exist_ok=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(
                f"Debian's package {package} could not be fetched: {error}. Where there is a network, run "
                f"'apt-get download {package}', unpack it with 'dpkg-deb -x' and put what is in its {inside} "
                f"into {folder}"
            ) from error
    return folder


def run(*command: str, folder: str | Path) -> str:
    """What a command prints.

    Raises:
        OSError: it is not there, or fails, with its last line.
    """
    if not shutil.which(command[0]):
        raise OSError(f"this system has no {command[0]}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise OSError(f"{' '.join(command[:2])} failed: {lines[-1]}")
    return done.stdout
