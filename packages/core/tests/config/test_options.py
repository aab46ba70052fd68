from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest
from polymask.cli.options import UNSET, describe, read_options, type_name

if TYPE_CHECKING:
    from nowhere import Unknown


class Thing:
    """Does one thing.

    And does it
    well, with ``care``.

        polymask pretrain thing

    Not said.

    Args:
        a: the first,
            over two lines.
        b: with ``ticks`` and 50 %.
    """

    def __init__(
        self, *, a: int, b: Literal["x", "y"] = "x", c: Unknown = None, d=4, **more: Any
    ) -> None: ...


def test_options_of_a_class():
    options = read_options(Thing)
    assert list(options) == ["a", "b", "c", "d"]
    assert (options["a"].type, options["a"].default, options["a"].help) == (
        int,
        UNSET,
        "the first, over two lines.",
    )
    assert (options["b"].type_name, options["b"].default, options["b"].help) == (
        "x | y",
        "x",
        "with ticks and 50 %.",
    )


def test_one_annotation_for_type_checkers_does_not_lose_the_others():
    options = read_options(Thing)
    assert options["c"].type is Any and options["a"].type is int


def test_options_of_a_function():
    def function(one: float = 0.5) -> Unknown:
        """Sums up.

        Args:
            one: a number.
        """

    option = read_options(function)["one"]
    assert (option.type, option.default, option.help) == (float, 0.5, "a number.")


def test_description_ends_with_the_command_or_the_sections():
    assert describe(Thing) == (
        "Does one thing.\n\nAnd does it well, with care.\n\n    polymask pretrain thing"
    )

    def short():
        """Short.

        Returns:
            nothing.
        """

    assert describe(short) == "Short."


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (int, "int"),
        (int | None, "int | null"),
        (Literal["a", "b"], "a | b"),
        (tuple[int, ...], "tuple[int, ...]"),
        (int | tuple[int, int], "int | tuple[int, int]"),
        (Any, "Any"),
        (Callable[..., int], "Callable[..., int]"),
    ],
)
def test_types_as_people_write_them(hint, name):
    assert type_name(hint) == name
