"""StopIteration of a part, by which loops take what they read to be at its end."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from polymask.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def ends_nothing(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function that calls parts raise :class:`UserError` where one of them raises StopIteration."""

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except StopIteration as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{where.filename}, line {where.lineno}, in {where.name}: StopIteration, by which training "
                "would end as if all were done: give next() there a default, or let it raise another error"
            ) from error

    return told
