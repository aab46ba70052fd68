"""The parts of this package keep their promises with nothing but core beside them."""

from __future__ import annotations

from collections.abc import Callable

from polymask.testing import parametrize_parts


@parametrize_parts(plugin="pointcloud")
def test_part(check: Callable[[], None]) -> None:
    check()
