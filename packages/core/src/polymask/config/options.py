"""The options of a part, read from its source: nothing is imported, so that help is there at once.

A constructor's keyword-only signature is its configuration. Its parameters, their types and defaults, and
what the docstring says of each are read from the syntax tree of the module. Names in annotations and defaults
are followed through assignments and imports; what cannot be followed is of type ``Any``. A part without a
source file (of a notebook, of a test) is imported and inspected instead.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from polymask.config.source import Module, constructor, definition, evaluate, parameters
from polymask.errors import UserError
from polymask.parts import Part, slot_kind
from polymask.types import FACT, PLACE, Of

UNSET = inspect.Parameter.empty
"""The default of an option without a default, or with one that only its module knows."""

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Shapes|Example)s?:")


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        name: of the parameter.
        type: its annotation, evaluated; ``Any`` where there is none.
        default: its default, or ``UNSET``.
        help: its line in the docstring.
        shown: what stands for the type in help, where the type itself says little: ``"DIR"``.
        group: title of the group it is listed under in help; that of its part where empty.
    """

    name: str
    type: Any = Any
    default: Any = UNSET
    help: str = ""
    shown: str = ""
    group: str = ""

    @functools.cached_property
    def slot(self) -> str | None:
        """Kind of the part that it takes, or None."""
        return slot_kind(self.name)

    @functools.cached_property
    def fact(self) -> bool:
        """Whether it is filled from facts, see :data:`polymask.types.Fact`."""
        return FACT in getattr(self.type, "__metadata__", ())

    @functools.cached_property
    def place(self) -> bool:
        """Whether it may be a path, see :data:`polymask.types.Place`."""
        return PLACE in getattr(self.type, "__metadata__", ())

    @functools.cached_property
    def of(self) -> str | None:
        """The option that it is about, see :class:`polymask.types.Of`."""
        said = getattr(self.type, "__metadata__", ())
        return next((meta.option for meta in said if isinstance(meta, Of)), None)

    @property
    def type_name(self) -> str:
        """The type as people write it: ``int | null``, ``nearest | up``."""
        return self.shown or type_name(self.type)


Options = Mapping[str, Option]


def table(*options: Option) -> dict[str, Option]:
    """Options by name."""
    return {option.name: option for option in options}


def type_name(hint: Any) -> str:
    """A type as people write it."""
    arguments = typing.get_args(hint)
    if hasattr(hint, "__metadata__"):
        return type_name(hint.__origin__)
    if typing.get_origin(hint) is Literal:
        return " | ".join(str(value) for value in arguments)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " | ".join(type_name(part) for part in arguments)
    if hint is type(None):
        return "null"
    if arguments:
        inner = ", ".join("..." if part is Ellipsis else type_name(part) for part in arguments)
        return f"{type_name(typing.get_origin(hint))}[{inner}]"
    return str(getattr(hint, "__name__", hint))


# ------------------------------------------------------------------------------ of parts


def options_of(part: Part) -> dict[str, Option]:
    """The options of a part by name, in the order of its signature; those of its preparation behind.

    Raises:
        UserError: the part cannot be imported or its options read, or both have an option of one name.
    """
    options = dict(_of_target(part, 0))
    if part.prepare:
        group = f"data, prepared by {part.prepare.partition(':')[2]}"
        for name, option in _of_target(part, 1).items():
            if name in options:
                both = f"{part.target} and {part.prepare}"
                raise UserError(f"{part.full_name}: {both} both have an option {name!r}; rename one")
            options[name] = replace(option, group=group)
    return options


def without_facts(part: Part, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were set of a part but for those that facts fill, which other data says anew."""
    known = options_of(part)
    return {name: value for name, value in options.items() if name not in known or not known[name].fact}


def _of_target(part: Part, index: int) -> Options:
    """Options of what a part names first, or of what prepares it: by its source, else by importing it."""
    target = (part.target, part.prepare)[index]
    found = _static(target)
    if found is not None:
        return found
    source = part.load_all()[index]
    try:
        return inspect_options(source)
    except Exception as error:
        raise UserError(
            f"{part.full_name}: {target} is {source!r}, whose options cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def description_of(part: Part) -> str:
    """The first part of a system's module docstring, or of another part's own docstring, as plain text."""
    found = definition(part.target)
    if found is None:
        loaded: Any = part.load()
        module = sys.modules.get(getattr(loaded, "__module__", ""))
        text = inspect.getdoc(module if part.kind == "systems" and module else loaded)
    else:
        text = ast.get_docstring(found[0].tree if part.kind == "systems" else found[1])
    paragraphs = []
    for paragraph in (text or "").split("\n\n"):
        if _SECTION.match(paragraph):
            break
        example = paragraph.startswith("    ")
        paragraphs.append(paragraph if example else " ".join(paragraph.split()))
        if example:
            break
    return "\n\n".join(paragraphs).replace("``", "")


@functools.cache
def _static(target: str) -> dict[str, Option] | None:
    """Options of a class or function by its source; None where no source defines it or it says too little."""
    defined = definition(target)
    if defined is None:
        return None
    module, node = defined
    texts = arguments_in(ast.get_docstring(node) or "")
    try:
        found = constructor(node, module) if isinstance(node, ast.ClassDef) else (node, module)
    except Exception:  # a class of the name of its base
        return None
    if found is None:
        return {}
    function, module = found
    texts = arguments_in(ast.get_docstring(function) or "") | texts
    return {
        name: Option(
            name, _value(annotation, module, Any), _value(default, module, UNSET), texts.get(name, "")
        )
        for name, annotation, default in parameters(function)
        if (name, isinstance(node, ast.ClassDef)) != ("self", True)
    }


def _value(node: ast.expr | None, module: Module, otherwise: Any) -> Any:
    try:
        return otherwise if node is None else evaluate(node, module)
    except Exception:  # whatever evaluation raises: what cannot be told is told by nobody
        return otherwise


def inspect_options(source: Callable[..., Any]) -> dict[str, Option]:
    """The same of a class or function that is imported already."""
    target: Any = source.__init__ if isinstance(source, type) else source  # type: ignore[misc]
    texts = arguments_in(inspect.getdoc(target) or "") | arguments_in(inspect.getdoc(source) or "")
    hints: dict[str, Any] = {}
    names = getattr(inspect.unwrap(target), "__globals__", {})  # those of torch, under its decorators
    for name, annotation in getattr(target, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(one, names, include_extras=True)
        except Exception:  # of a name imported for type checkers only, or no annotation at all
            continue
    return {
        name: Option(name, hints.get(name, Any), parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(source).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def generation_options(generate: Callable[..., Any]) -> dict[str, Option]:
    """Options of a system's own of its method ``generate``."""
    given = ("batch", "step", "mask")
    return {name: option for name, option in inspect_options(generate).items() if name not in given}


def arguments_in(docstring: str) -> dict[str, str]:
    """What the section ``Args`` of a docstring says of each argument."""
    found: dict[str, str] = {}
    lines = inspect.cleandoc(docstring).splitlines()
    if "Args:" not in lines:
        return found
    name = ""
    for line in lines[lines.index("Args:") + 1 :]:
        indent = len(line) - len(line.lstrip())
        if line and not indent:
            break
        if indent == 4 and (match := re.match(r" {4}\*{0,2}(\w+)(?: \([^)]*\))?: ?(.*)", line)):
            name = match[1]
            found[name] = match[2]
        elif name and line:
            found[name] += f" {line.strip()}"
    return {name: " ".join(text.replace("``", "").split()) for name, text in found.items()}
