"""What a person looks at: a run's page, a masking's picture, a comparison's table.

Nothing here is imported before it is used: drawing and templates are heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymask.report.page import write_report
    from polymask.report.runs import write_index

__all__ = ["write_index", "write_report"]

_HOME = {"write_index": "runs", "write_report": "page"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"polymask.report.{_HOME[name]}"), name)
    raise AttributeError(f"module 'polymask.report' has no attribute {name!r}")
