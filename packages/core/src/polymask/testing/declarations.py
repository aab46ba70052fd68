"""What every part declares must be true."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from polymask.parts import KINDS
from polymask.testing.subject import Subject
from polymask.testing.suite import check, require
from polymask.testing.tags import TAGS
from polymask.wiring import layer, nest, slots_of, trainer_options


@check()
def check_part_imports(subject: Subject) -> None:
    """The class that the declaration names can be imported; of a recipe, the function."""
    right = inspect.isfunction if subject.part.kind == "recipes" else inspect.isclass
    what = "function" if subject.part.kind == "recipes" else "class"
    require(right(subject.cls), f"{subject.part.target} is {subject.cls!r}, not a {what}")


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
    text = inspect.cleandoc(vars(subject.cls).get("__doc__", "") or _of_function(subject.cls))
    require(text, f"{subject.part.target} has no docstring")
    lines = [line.strip() for line in text.splitlines()]
    missing = [name for name in subject.parameters if not any(line.startswith(f"{name}:") for line in lines)]
    require(not missing, f"the docstring's Args leave out {', '.join(missing)}")


@check()
def check_part_presets_name_options(subject: Subject) -> None:
    """Its defaults and presets set options that exist, in slots filled by parts that exist."""
    groups = {"defaults": subject.part.defaults, **subject.part.presets}
    defaults = nest(subject.part.defaults)
    for group, options in groups.items():
        _confirm(subject, group, subject.cls, nest(options), defaults)


def _confirm(
    subject: Subject, group: str, cls: type, options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    slots, parameters = slots_of(cls), inspect.signature(cls).parameters
    training = trainer_options() if subject.part.kind == "systems" and cls is subject.cls else frozenset()
    for key, value in options.items():
        require(key in parameters or key in training, f"{group}: {cls.__name__} has no option {key!r}")
        if key in slots and isinstance(value, Mapping):
            below = defaults.get(key, {})
            name = value.get("name", below.get("name"))
            require(name, f"{group}: {key} gets options but no name")
            part = subject.registry.find(slots[key], str(name))
            inner = {k: v for k, v in value.items() if k != "name"}
            declared = layer(nest(part.defaults), below)
            _confirm(subject, f"{group}, {key}", subject.registry.load(part), inner, declared)


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
