"""Types of options that say more than a Python type does."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

T = TypeVar("T")

FACT = "fact"
"""Marks a type, see :data:`Fact`."""

Fact = Annotated[T, FACT]
"""An option that is filled from what the data or the tokenizer says of itself, unless somebody sets it.

``in_dim: Fact[int]`` takes the fact ``in_dim``. Options of other types are never filled, whatever their name.
"""


@dataclass(frozen=True)
class Of:
    """Marks the type of an option that is about another one: a source that sets the other anew drops it.

    Args:
        option: the other.
    """

    option: str


ModelArguments = Annotated[Mapping[str, Any] | None, Of("model")]
"""Arguments of what the option ``model`` names; those of a preset are not those of another model."""


PLACE = "place"
"""Marks a type, see :data:`Place`."""

Place = Annotated[str | None, PLACE]
"""A run, an export or a file, by its path, or what has a name of another form.

A path that does not begin at the root is kept as seen from the folder of the run, so that it is found from
any working directory, and where both are moved together.
"""


COUNTABLE = 10**12
"""The largest number of things; more is a slip of the pen that would overflow somewhere."""


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes.

    Args:
        low: the smallest.
        high: the largest.
        above: whether ``low`` itself is left out.
    """

    low: float
    high: float = math.inf
    above: bool = False

    def __str__(self) -> str:
        if self.high < COUNTABLE:
            return f"{self.low:g} to {self.high:g}"
        return f"above {self.low:g}" if self.above else f"{self.low:g} or more"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: float) -> float:
        """The number.

        Raises:
            ValueError: it is out of range; says the rule.
        """
        if not (self.low <= value <= self.high and math.isfinite(value)) or (
            self.above and value == self.low
        ):
            raise ValueError(f"{self.high:g} or less" if value > self.high == COUNTABLE else str(self))
        return value


Count = Annotated[int, Range(1, COUNTABLE)]
"""A number of things, 1 or more."""

Whole = Annotated[int, Range(0, COUNTABLE)]
"""A number of things that may be 0, or the id of one."""

Share = Annotated[float, Range(0, 1)]
"""A share or a probability, 0 to 1."""

Positive = Annotated[float, Range(0, above=True)]
"""A number above 0."""

NotNegative = Annotated[float, Range(0)]
"""A number that is 0 or more."""


def range_of(hint: Any) -> Range | None:
    """The numbers that a type takes, ``Count | None`` for example; None where it says nothing of them."""
    said = [meta for one in (hint, *typing.get_args(hint)) for meta in getattr(one, "__metadata__", ())]
    return next((meta for meta in said if isinstance(meta, Range)), None)
