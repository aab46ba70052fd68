"""What a person looks at: a run's page, a masking's picture, a comparison's table.

Nothing here is imported before it is used: drawing and templates are heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymask.report.page import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    if name == "write_report":
        from polymask.report.page import write_report

        return write_report
    raise AttributeError(f"module 'polymask.report' has no attribute {name!r}")
