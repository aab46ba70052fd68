"""Where downloads are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder of our own in the user's cache (``$XDG_CACHE_HOME``, or ``~/.cache``); it may not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "polymask" / name
