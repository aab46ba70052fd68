"""Files on this disk, and wherever fsspec reaches (http, s3, gs, ...), read by ranges of bytes.

What is far may fail for a moment. A sample must not be taken for broken then, as another would stand in for
it and the run be another one: reading is tried again, and at last ends the run, which can be resumed.
"""

from __future__ import annotations

import glob
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from polymask.data.findings import FRESH
from polymask.data.reading import exhausted
from polymask.errors import UserError

AT_ONCE = 32
"""Reads that wait for a far place side by side."""

TRIES = 5
WAIT = 0.5
"""Seconds before the second try; twice as many before each further one."""

BLOCK = 1 << 22
"""Bytes that are read at once where a far file is read from front to back."""

_TELLS = {"etag", "lastmodified", "mtime", "modified", "created", "updated", "generation", "blobid"}
_TELLS |= {"md5hash", "contentmd5", "crc32c", "digest", "versionid", "checksum"}
"""What file systems call something that changes with the content of a file, without ``-`` and ``_``."""

T = TypeVar("T")


class About(NamedTuple):
    """A file.

    Args:
        size: in bytes.
        identity: differs where the content does; None where nothing tells.
    """

    size: int
    identity: str | None


def is_far(path: str) -> bool:
    """Whether a path is an address that fsspec knows."""
    return "://" in path


def shown(path: str) -> str:
    """An address without its query, which may hold a signature."""
    return path.partition("?")[0] if is_far(path) else path


def find(pattern: str, suffix: str) -> list[str]:
    """Files that a pattern with wildcards names, sorted; of a folder those with a suffix.

    Whether an address without wildcards is there is not asked.
    """
    if is_far(pattern):
        system, place = _system(pattern)
        if "*" not in place:
            if shown(place).endswith(suffix) or not _tried(pattern, lambda: system.isdir(place)):
                return [pattern]
            pattern = f"{pattern.rstrip('/')}/*{suffix}"
            system, place = _system(pattern)
        before = "".join(pattern.rpartition("::")[:2])
        found = _tried(pattern, lambda: system.glob(place))
        return [before + system.unstrip_protocol(path) for path in sorted(found)]
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), f"*{suffix}")
    if os.path.isfile(pattern):
        return [pattern]
    # reading a pipe or a device would not end
    return [path for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]


def about(paths: Iterable[str]) -> Iterator[tuple[str, About]]:
    """Size and identity of files, one by one, as there may be many.

    Raises:
        UserError: one is not there.
    """
    paths = iter(paths)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while some := list(islice(paths, 4 * AT_ONCE)):
            yield from zip(some, pool.map(_about, some), strict=True)


def _about(path: str) -> About:
    if not is_far(path):
        now, file = time.time_ns(), os.stat(path)
        fresh = max(file.st_mtime_ns, file.st_ctime_ns) > now - FRESH
        told = f"{file.st_mtime_ns} {file.st_ctime_ns} {file.st_ino}"
        return About(file.st_size, None if fresh else told)
    system, place = _system(path)
    info = _tried(path, lambda: system.info(place))
    if not isinstance(info.get("size"), int):
        raise UserError(f"{shown(path)} does not tell its size, so that it cannot be read at random: copy it")
    tells = {
        key: str(value)
        for key, value in info.items()
        if value is not None and key.lower().replace("-", "").replace("_", "") in _TELLS
    }
    return About(info["size"], str(sorted(tells.items())) if tells else None)


def read(path: str, start: int, size: int) -> bytes:
    """Some bytes of a file.

    Raises:
        OSError: a file on this disk cannot be read.
        UserError: a far one cannot, after some tries.
    """
    if not is_far(path):
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(size)
    system, place = _system(path)

    def once() -> bytes:
        found: bytes = system.cat_file(place, start=start, end=start + size)
        if len(found) > size:
            raise UserError(
                f"{shown(path)}: its server gives whole files only, no ranges of bytes, so that samples "
                "cannot be read at random: copy the files first"
            )
        if len(found) < size:
            raise EOFError(f"{len(found):,} bytes from {start:,} on, not {size:,}")
        return found

    return _tried(path, once)


def read_many(wanted: Iterable[tuple[str, int, int]]) -> list[bytes]:
    """Several ranges, ``(path, start, size)``, side by side."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda one: read(*one), wanted))


def opened(path: str, size: int) -> io.BufferedIOBase:
    """A file of known size to read from front to back."""
    return io.BufferedReader(_Ranges(path, size), BLOCK) if is_far(path) else open(path, "rb")


class _Ranges(io.RawIOBase):
    def __init__(self, path: str, size: int) -> None:
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(min(len(buffer), self._size - self._at), 0)
        buffer[:count] = read(self._path, self._at, count) if count else b""
        self._at += count
        return count


def _system(path: str) -> tuple[Any, str]:
    """The file system of an address, which fsspec keeps, and the path there.

    Raises:
        UserError: there is none, or its package is not here.
    """
    try:
        found: tuple[Any, str] = url_to_fs(path)
    except (ImportError, ValueError) as error:
        protocol = path.rpartition("::")[2].partition("://")[0]
        raise UserError(f"{protocol}:// addresses cannot be read here: {error}") from error
    return found


def _tried(path: str, action: Callable[[], T]) -> T:
    """What an action gives that may fail for a moment.

    Raises:
        UserError: the file is not there, or it fails every time.
    """
    for number in range(TRIES):
        time.sleep(WAIT * 2 ** (number - 1) if number else 0)
        try:
            return action()
        except UserError:
            raise
        # each file system has errors of its own
        except Exception as error:
            if exhausted(error):
                raise
            # that of http says of whatever fails that there is no such file
            last = error.__cause__ or error if isinstance(error, FileNotFoundError) else error
            if isinstance(last, FileNotFoundError) or getattr(last, "status", None) in (404, 410):
                raise UserError(f"there is no file {shown(path)}") from error
    raise UserError(
        f"{shown(path)} cannot be read, in {TRIES} tries: {type(last).__name__}: {last}. A run can be "
        "resumed when it answers again"
    ) from last
