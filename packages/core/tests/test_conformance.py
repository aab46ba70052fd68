"""Core's parts keep their promises with nothing but core installed."""

from __future__ import annotations

from collections.abc import Callable

from polymask.testing import parametrize_parts


@parametrize_parts(plugin="core")
def test_part(check: Callable[[], None]) -> None:
    check()
