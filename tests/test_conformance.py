"""Every part of every installed package keeps its promises."""

from __future__ import annotations

from collections.abc import Callable

from polymask.testing import parametrize_parts


@parametrize_parts()
def test_part(check: Callable[[], None]) -> None:
    check()
