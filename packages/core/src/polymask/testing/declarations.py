"""What every part declares must be true."""

from __future__ import annotations

import inspect

from polymask.config import resolve_part
from polymask.config.layers import TRAINING
from polymask.config.resolve import DATA
from polymask.parts import KINDS
from polymask.testing.subject import Subject
from polymask.testing.suite import check, require
from polymask.testing.tags import TAGS


@check()
def check_part_imports(subject: Subject) -> None:
    """The class that the declaration names can be imported; of a recipe and of a reader, the function.

    A data set made of another one may be either.
    """
    cls, *prepare = subject.part.load_all()
    function = subject.part.kind == "recipes" or bool(prepare)
    function |= "data" in subject.parameters and inspect.isfunction(cls)
    right = inspect.isfunction if function else inspect.isclass
    what = "function" if function else "class"
    require(right(cls), f"{subject.part.target} is {cls!r}, not a {what}")
    for one in prepare:
        require(inspect.isclass(one), f"{subject.part.prepare} is {one!r}, not a class")


@check()
def check_part_options_are_named(subject: Subject) -> None:
    """The constructor takes its options by name only, each with a default or a fact in its place."""
    for name, parameter in subject.parameters.items():
        require(
            parameter.kind is inspect.Parameter.KEYWORD_ONLY,
            f"option {name!r} is {parameter.kind.description}: put a * before it",
        )


@check()
def check_part_documents_its_options(subject: Subject) -> None:
    """Its documentation says what it is and what each option means (``--help`` prints both)."""
    for source in subject.part.load_all():
        text = inspect.cleandoc(vars(source).get("__doc__", "") or _of_function(source))
        require(text, f"{source.__module__}:{source.__name__} has no docstring")
        lines = [line.strip() for line in text.splitlines()]
        own = [name for name in inspect.signature(source).parameters if name in subject.parameters]
        missing = [name for name in own if not any(line.startswith(f"{name}:") for line in lines)]
        require(not missing, f"the docstring's Args leave out {', '.join(missing)}")


@check()
def check_part_presets_name_options(subject: Subject) -> None:
    """Its defaults and presets set options that exist, to values of their types."""
    for preset in (None, *subject.part.presets):
        extra = {**TRAINING, "data": DATA} if subject.part.kind == "systems" else {}
        found = resolve_part(subject.part, registry=subject.registry, preset=preset, extra=extra)
        wrong = [line for line in found.wrong if " needs a " not in line]
        require(not wrong, f"{f'preset {preset!r}' if preset else 'defaults'}: {wrong and wrong[0]}")


@check()
def check_part_tags_are_known(subject: Subject) -> None:
    """Its tags are those of its kind; a misspelt one would change nothing, silently."""
    known = TAGS[subject.part.kind]
    unknown = sorted(subject.part.tags - known.keys())
    require(
        not unknown, f"unknown tags {', '.join(unknown)}; those of {subject.part.kind} are {', '.join(known)}"
    )


def _of_function(source: object) -> str:
    return (inspect.isfunction(source) and source.__doc__) or ""


@check(*(kind for kind in KINDS if kind not in ("datasets", "recipes")))
def check_part_builds(subject: Subject) -> None:
    """It can be built from its defaults and facts about the input."""
    subject.make()
