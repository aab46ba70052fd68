"""Where what was computed or downloaded is kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder of our own in the user's cache (``$XDG_CACHE_HOME``, or ``~/.cache``); it may not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "polymask" / name


@contextlib.contextmanager
def whole_or_not(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes ``folder`` if all goes well; if somebody else was faster, theirs stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield part
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
