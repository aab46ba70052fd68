"""Beside all other packages every part still builds; each package checks all else of its own parts."""

from __future__ import annotations

import pytest

from polymask import Part, default_registry
from polymask.parts import KINDS
from polymask.testing import check_part, checks_for

PARTS = [part for kind in KINDS for part in default_registry().parts(kind)]
ASKED = ("check_part_presets_name_options", "check_part_builds")
"""Checks whose answer depends on which other parts there are."""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.full_name)
def test_part_builds_beside_all_others(part: Part) -> None:
    only = [check.name for check in checks_for(part) if check.name in ASKED]
    assert [result.outcome for result in check_part(part, only=only)] == ["passed"] * len(only)
