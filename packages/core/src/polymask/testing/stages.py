"""Checks of recipes and of evaluations: what can be seen of them without training anything."""

from __future__ import annotations

import inspect

from polymask.testing.subject import Subject
from polymask.testing.suite import check, require


@check("recipes")
def check_recipe_takes_its_stage_first(subject: Subject) -> None:
    """Its one argument by position is what trains a stage; all else are options."""
    kinds = [parameter.kind for parameter in inspect.signature(subject.cls).parameters.values()]
    first = inspect.Parameter.POSITIONAL_ONLY
    require(
        kinds.count(first) == 1,
        f"{subject.part.target} is to take its stage by position, and nothing else: (stage, /, *, ...)",
    )


@check("evaluations")
def check_evaluation_takes_a_run(subject: Subject) -> None:
    """Once built from its options, it is called with a run alone."""
    made = subject.make()
    require(callable(made), f"{subject.part.target} cannot be called with a run")
    try:
        inspect.signature(made).bind(None)
    except TypeError as error:
        require(False, f"{subject.part.target} is to be called with a run alone: {error}")
