"""Files of a run: each is written whole or not at all, by one process at a time; a damaged one is named."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from polymask.errors import UserError

try:
    import fcntl
except ImportError:  # there are no such locks on Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_OLD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?)")
"""What YAML 1.1 takes for a number in base 8 or 60, and nobody else does: 010, 1:30."""

_MOST_AGAIN = 10_000
"""Values of a YAML file that aliases may repeat; a few lines of them can stand for more than memory holds."""

PARTIAL = ".partial"
"""Suffix of files that are being written."""

LOCK = ".lock"
"""In a folder that a process writes; says which process. One that was killed leaves it behind, not locked."""

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that you may write to"),
    errno.EMFILE: "let a process have more open files (ulimit -n), or give fewer --workers",
    errno.ENOENT: "was its folder moved or deleted?",
}


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Around whatever writes to a path.

    Raises:
        UserError: it cannot be written, in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "choose another place")
        raise UserError(f"{path} cannot be written: {error.strerror or error}; {advice}") from error


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write, which takes the place of ``path`` once it is whole and on the disk.

    Raises:
        UserError: it cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open(mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        _sync_folder(path.parent)


def require_writable(folder: Path) -> None:
    """See that a folder can be written, before what is to be written into it is computed.

    Raises:
        UserError: it cannot be.
    """
    with writing(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        tempfile.TemporaryFile(dir=there).close()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that writes a folder, which is made if need be; the end of a process frees it.

    Raises:
        UserError: another process writes it, with its number and host; or nobody can.
    """
    path, made = folder / LOCK, not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(path)
    try:
        with writing(folder):
            if hasattr(os, "register_at_fork"):  # workers outlive a process that is killed; so would its lock
                os.register_at_fork(after_in_child=file.close)
            # of a process that was killed; below checkpoints too, not in others' runs that lie in the folder
            for left in (*folder.glob(f".*{PARTIAL}"), *folder.glob(f"checkpoints/.*{PARTIAL}")):
                left.unlink(missing_ok=True)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            if made:
                folder.rmdir()  # which only an empty one allows: nothing was done
        with contextlib.suppress(OSError):  # a full disk, whose words were not written
            file.close()


def contents(folder: Path) -> list[str]:
    """Names of what lies in a folder, if it is there, without what a process that was killed left behind."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name != LOCK and not name.endswith(PARTIAL)]


def _lock(path: Path) -> IO[str]:
    """A locked file, which is the one that lies there."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.seek(0)
                holder = file.read() or "another process"
                file.close()
                raise UserError(
                    f"{path.parent} is in use by {holder}: wait for its end, stop it, or give another --out"
                ) from error
            # a file system without locks: nothing is known
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its holder has just removed it


def _sync_folder(folder: Path) -> None:
    """Have a rename on the disk; not every file system lets a folder be opened for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; numbers must be finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    """Write a YAML file whole or not at all."""
    import yaml  # type: ignore[import-untyped]

    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def read_json(
    path: Path,
    decode: Callable[[Any], T],
    advice: str = "put back a copy, or delete it to have it computed again",
) -> T:
    """What a JSON file of ours says.

    Args:
        path: of the file.
        decode: makes what is wanted of its content.
        advice: what to do about a damaged one.

    Raises:
        UserError: it cannot be read, or says something else.
    """
    try:
        return decode(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {advice}") from error


def load_yaml(text: str, name: str = "text") -> Any:
    """A value in YAML, in which no key stands twice, nothing holds itself and aliases stand for little.

    Args:
        text: what to read.
        name: where it stands, for messages.

    Raises:
        yaml.YAMLError: it is something else; says the line.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, (), {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_node(node: Any, above: tuple[Any, ...], sizes: dict[Any, int]) -> int:
    """Check a node and what is below it, once; returns how many values it stands for, aliases written out."""
    import yaml

    if isinstance(node, yaml.ScalarNode) and node.style is None and _OLD_NUMBER.fullmatch(node.value):
        node.tag = "tag:yaml.org,2002:str"
    if node in above:
        raise yaml.MarkedYAMLError(problem="a value holds itself", problem_mark=node.start_mark)
    if node in sizes:
        return sizes[node]
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    keys: set[str] = set()
    for key, _ in pairs:
        name = str(key.value)
        if name in keys:
            raise yaml.MarkedYAMLError(problem=f"{name!r} is given twice", problem_mark=key.start_mark)
        keys.add(name)
    inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
    size = 1 + sum(_check_node(each, (*above, node), sizes) for each in inner)
    if size > len(sizes) + _MOST_AGAIN:
        problem = f"its aliases stand for {size:,} values: write fewer of them"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    sizes[node] = size
    return size


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of options.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    import yaml

    try:
        found = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a configuration: it must map options to values, as config.yaml does")
    return found
