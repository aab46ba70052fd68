"""Data that packages of npm carry."""

from __future__ import annotations

import base64
import hashlib
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from polymask.data.cache import whole_or_not
from polymask.data.debian import run
from polymask.errors import UserError


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
    if cache.is_dir():
        return cache
    try:
        with tempfile.TemporaryDirectory() as place, whole_or_not(cache) as part:
            run("npm", "pack", f"{package}@{version}", "--silent", folder=place)
            archive = next(Path(place).glob("*.tgz"))
            kind, _, digest = integrity.partition("-")
            if hashlib.new(kind, archive.read_bytes()).digest() != base64.b64decode(digest):
                raise OSError(f"{archive.name} is not the file that was published: its hash differs")
            with tarfile.open(archive) as files:
                for member in files:
                    member.name = member.name.partition("/")[2]
                    if member.isfile() and wanted(member.name):
                        files.extract(member, part, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"npm's {package} could not be fetched: {error}\nWhere there is a network, run 'npm pack "
            f"{package}@{version}', unpack it and put what is in its folder 'package' into {cache}. "
            f"{advice}".rstrip()
        ) from error
    return cache
