"""Archives that the tool of a package index fetches."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from polymask.data.cache import whole_or_not
from polymask.data.debian import run
from polymask.errors import UserError


def unpacked(
    name: str,
    command: tuple[str, ...],
    quiet: str,
    digest: tuple[str, bytes],
    extract: Callable[[Path, Path], None],
    *,
    cache: Path,
    by_hand: str,
    advice: str,
) -> Path:
    """Files of an archive, in the cache, fetched if need be.

    Args:
        name: of the package, for messages.
        command: what fetches it into the folder that it runs in.
        quiet: the option of ``command`` that silences it.
        digest: algorithm and digest of the archive.
        extract: unpacks what is wanted of the archive into a folder.
        cache: where to keep the files.
        by_hand: what to do after ``command`` where there is a network, before "into" the cache.
        advice: what else can be done where nothing can be fetched.

    Raises:
        UserError: it cannot be had here, with what to do.
    """
    if cache.is_dir():
        return cache
    algorithm, expected = digest
    try:
        with tempfile.TemporaryDirectory() as place, whole_or_not(cache) as part:
            run(*command, quiet, folder=place)
            archive = next(Path(place).iterdir())
            if hashlib.new(algorithm, archive.read_bytes()).digest() != expected:
                raise OSError(f"{archive.name} is not the file that was published: its hash differs")
            extract(archive, part)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{name} could not be fetched: {error}\nWhere there is a network, run '{' '.join(command)}', "
            f"{by_hand} into {cache}. {advice}".rstrip()
        ) from error
    return cache
