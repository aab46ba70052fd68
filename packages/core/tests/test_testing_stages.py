"""The checks of recipes and of evaluations catch what lacks the property."""

from __future__ import annotations

from typing import Any

import pytest

from polymask import Part, Registry, hookimpl
from polymask.testing import check_part


class Good:
    """Measures nothing.

    Args:
        scale: factor.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, run: Any) -> list[Any]:
        return []


class WantsMore(Good):
    """Wants to be told more than the run."""

    def __call__(self, run: Any, data: Any) -> list[Any]:  # type: ignore[override]
        return []


def good(stage: Any, /, *, rounds: int = 2) -> None:
    """Does nothing.

    Args:
        rounds: how often.
    """


def by_name(stage: Any, *, rounds: int = 2) -> None:
    """Takes its stage by name, which would make an option of it.

    Args:
        stage: trains one.
        rounds: how often.
    """


def results(kind: str, made: Any) -> dict[str, str]:
    registry = Registry(environ={}, entries=[])
    hook = f"polymask_register_{kind}"
    part = Part(name="thing", target=f"{__name__}:{made.__name__}", summary="for a test")
    plugin = type("plugin", (), {hook: staticmethod(hookimpl(lambda: [part], specname=hook))})
    assert registry.add("here", plugin).error == ""
    found = check_part("here/thing", kind=kind, registry=registry)
    return {result.check: result.message for result in found if result.outcome == "failed"}


@pytest.mark.parametrize(
    ("kind", "made", "check"),
    [
        ("evaluations", WantsMore, "check_evaluation_takes_a_run"),
        ("recipes", by_name, "check_recipe_takes_its_stage_first"),
        ("recipes", Good, "check_part_imports"),
        ("evaluations", good, "check_part_imports"),
    ],
)
def test_a_check_catches(kind: str, made: Any, check: str) -> None:
    assert check in results(kind, made)


@pytest.mark.parametrize(("kind", "made"), [("evaluations", Good), ("recipes", good)])
def test_good_ones_pass(kind: str, made: Any) -> None:
    assert results(kind, made) == {}
