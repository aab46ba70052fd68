"""What a constructor or function takes, read from its signature and its docstring."""

from __future__ import annotations

import contextlib
import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from polymask.parts import Part
    from polymask.registry import Registry

UNSET = inspect.Parameter.empty
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Shapes|Example)s?:")


@dataclass(frozen=True)
class Option:
    """One parameter.

    Args:
        name: of the parameter.
        type: its annotation, evaluated; ``Any`` where there is none.
        default: its default, or ``UNSET``.
        help: its line in the docstring.
        shown: what stands for the type in help, where the type itself says little: ``"DIR"``.
    """

    name: str
    type: Any
    default: Any
    help: str
    shown: str = ""

    @property
    def type_name(self) -> str:
        """The type as people write it: ``int | null``, ``nearest | up``."""
        return self.shown or type_name(self.type)


def table(*options: Option) -> dict[str, Option]:
    """Options by name."""
    return {option.name: option for option in options}


def read_options(source: Callable[..., Any]) -> dict[str, Option]:
    """Named parameters of a class's constructor or of a function, by name."""
    signature = inspect.signature(source)
    hints = _hints(source)
    texts = _texts(source)
    return {
        name: Option(name, hints.get(name, Any), parameter.default, texts.get(name, ""))
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def part_options(part: Part, registry: Registry) -> list[dict[str, Option]]:
    """Options of a part by name: of its target and, if it has one, of what prepares the target's result.

    Defaults are those that the part declares, if it does, else those of the signatures.
    """
    from polymask.wiring import parameters_of

    parameters_of(part, registry)  # no name twice
    return [
        {
            name: replace(option, default=part.defaults.get(name, option.default))
            for name, option in read_options(source).items()
        }
        for source in registry.load_all(part)
    ]


def describe(source: object) -> str:
    """The first part of a docstring: up to its sections, or to the command it shows."""
    paragraphs = []
    for text in (inspect.getdoc(source) or "").split("\n\n"):
        if _SECTION.match(text):
            break
        example = text.startswith("    ")
        paragraphs.append(text if example else " ".join(text.split()))
        if example:
            break
    return "\n\n".join(paragraphs).replace("``", "")


def type_name(hint: Any) -> str:
    """A type as people write it."""
    arguments = typing.get_args(hint)
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


def _hints(source: Callable[..., Any]) -> dict[str, Any]:
    target: Any = source.__init__ if isinstance(source, type) else source  # type: ignore[misc]
    hints: dict[str, Any] = {}
    for name, annotation in getattr(target, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        # One that is imported for type checkers only cannot be evaluated; the others can.
        with contextlib.suppress(NameError):
            hints |= typing.get_type_hints(one, target.__globals__)
    return hints


def _texts(source: Callable[..., Any]) -> dict[str, str]:
    import docstring_parser

    docs = [source.__doc__]
    if isinstance(source, type):
        docs.append(source.__init__.__doc__)  # type: ignore[misc]
    found = [p for doc in docs if doc for p in docstring_parser.parse(inspect.cleandoc(doc)).params]
    return {p.arg_name: " ".join((p.description or "").replace("``", "").split()) for p in found}
