"""The options of a part, read from its source: nothing is imported, so that help is there at once.

A constructor's keyword-only signature is its configuration. Its parameters, their types and defaults, and
what the docstring says of each are read from the syntax tree of the module. Names in annotations and defaults
are followed through assignments and imports; what cannot be followed is of type ``Any``. A part without a
source file (of a notebook, of a test) is imported and inspected instead.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import inspect
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from polymask.errors import UserError
from polymask.parts import Part, slot_kind
from polymask.types import FACT

UNSET = inspect.Parameter.empty
"""The default of an option without a default, or with one that only its module knows."""

_LIGHT = ("typing", "collections.abc", "math", "pathlib", "polymask.types")
"""Modules that names are taken from by importing them."""

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Shapes|Example)s?:")
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.BitOr: operator.or_,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


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

    @property
    def slot(self) -> str | None:
        """Kind of the part that it takes, or None."""
        return slot_kind(self.name)

    @property
    def fact(self) -> bool:
        """Whether it is filled from facts, see :data:`polymask.types.Fact`."""
        return FACT in getattr(self.type, "__metadata__", ())

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
        UserError: the part cannot be found, or both have an option of one name.
    """
    found = _static(part.target)
    options = dict(inspect_options(part.load()) if found is None else found)
    if part.prepare:
        group = f"data, prepared by {part.prepare.partition(':')[2]}"
        for name, option in (_static(part.prepare) or inspect_options(part.load_all()[1])).items():
            if name in options:
                both = f"{part.target} and {part.prepare}"
                raise UserError(f"{part.full_name}: {both} both have an option {name!r}; rename one")
            options[name] = replace(option, group=group)
    return options


def description_of(part: Part) -> str:
    """The first part of a system's module docstring, or of another part's own docstring, as plain text."""
    found = _definition(part.target)
    if found is None:
        loaded: Any = part.load()
        text = inspect.getdoc(sys.modules[loaded.__module__] if part.kind == "systems" else loaded)
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
    """Options of a class or function by its source; None where no source defines it."""
    definition = _definition(target)
    if definition is None:
        return None
    module, node = definition
    texts = arguments_in(ast.get_docstring(node) or "")
    found = _constructor(node, module) if isinstance(node, ast.ClassDef) else (node, module)
    if found is None:
        return {}
    function, module = found
    texts = arguments_in(ast.get_docstring(function) or "") | texts
    return {
        name: Option(name, _type(annotation, module), _default(default, module), texts.get(name, ""))
        for name, annotation, default in _parameters(function)
        if (name, isinstance(node, ast.ClassDef)) != ("self", True)
    }


def inspect_options(source: Callable[..., Any]) -> dict[str, Option]:
    """The same of a class or function that is imported already."""
    target: Any = source.__init__ if isinstance(source, type) else source  # type: ignore[misc]
    texts = arguments_in(inspect.getdoc(target) or "") | arguments_in(inspect.getdoc(source) or "")
    hints: dict[str, Any] = {}
    for name, annotation in getattr(target, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(one, getattr(target, "__globals__", {}), include_extras=True)
        except NameError:  # imported for type checkers only
            continue
    return {
        name: Option(name, hints.get(name, Any), parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(source).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


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


# ------------------------------------------------------------------------------ of source


class _Unreadable(Exception):
    """An expression whose value takes more than reading."""


class _Module:
    """The syntax tree of a module, with what its names stand for."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.package = name, path.name == "__init__.py"
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.names: dict[str, ast.AST | tuple[str, str]] = {}
        for node in _statements(self.tree.body):
            if isinstance(node, ast.ClassDef | Function):
                self.names[node.name] = node
            elif isinstance(node, ast.ImportFrom):
                origin = self._absolute(node)
                self.names |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                self.names |= {
                    a.asname or a.name: (a.name, "") for a in node.names if a.asname or "." not in a.name
                }
            elif isinstance(node, ast.Assign):
                self.names |= {t.id: node.value for t in node.targets if isinstance(t, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
                self.names[node.target.id] = node.value

    def _absolute(self, node: ast.ImportFrom) -> str:
        parents = self.name.split(".")[: None if self.package else -1]
        base = parents[: len(parents) - (node.level - 1)] if node.level else []
        return ".".join([*base, *([node.module] if node.module else [])])

    def find(self, name: str) -> tuple[_Module, ast.AST] | None:
        """Where a name is defined, and as what, through imports."""
        found = self.names.get(name)
        if isinstance(found, tuple):
            origin = _module(found[0])
            return origin.find(found[1]) if origin is not None and found[1] else None
        return None if found is None else (self, found)

    def value(self, name: str) -> Any:
        """What a name stands for.

        Raises:
            _Unreadable: nobody can tell without importing.
        """
        found = self.names.get(name)
        if found is None and hasattr(builtins, name):
            return getattr(builtins, name)
        if isinstance(found, tuple) and found[0] in _LIGHT:
            module = importlib.import_module(found[0])
            return getattr(module, found[1]) if found[1] else module
        where = self.find(name)
        if where is None:
            raise _Unreadable(name)
        place, node = where
        return Any if isinstance(node, ast.ClassDef | Function) else evaluate(node, place)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those in branches too: names for type checkers stand under an ``if``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])


@functools.cache
def _module(name: str) -> _Module | None:
    """A module's source, None where it has none that can be read."""
    path = _path(name)
    return _Module(name, path) if path is not None and path.suffix == ".py" else None


def _path(name: str) -> Path | None:
    """The file of a module. Asked of Python for the outermost package alone: more would import packages."""
    if (loaded := sys.modules.get(name)) is not None:
        file = getattr(loaded, "__file__", None)
        return Path(file) if file else None
    top, *inner = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not inner:
        return Path(spec.origin) if spec is not None and spec.origin else None
    for place in spec.submodule_search_locations or ():
        for path in (Path(place, *inner, "__init__.py"), Path(place, *inner).with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _definition(target: str) -> tuple[_Module, ast.ClassDef | Function] | None:
    """Where ``"package.module:Name"`` is defined, and as what."""
    name, _, attribute = target.partition(":")
    module = _module(name)
    found = module.find(attribute) if module else None
    return found if found is not None and isinstance(found[1], ast.ClassDef | Function) else None  # type: ignore[return-value]


def _constructor(node: ast.ClassDef, module: _Module) -> tuple[Function, _Module] | None:
    """The constructor of a class, its own or that of a base."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return member, module
    for base in node.bases:
        found = module.find(base.id) if isinstance(base, ast.Name) else None
        if found is not None and isinstance(found[1], ast.ClassDef):
            inherited = _constructor(found[1], found[0])
            if inherited is not None:
                return inherited
    return None


def _parameters(function: Function) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Name, annotation and default of each argument that can be given by name."""
    arguments = function.args
    missing = [None] * (len(arguments.args) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults][-len(arguments.args) :] if arguments.args else []
    for argument, default in zip(
        [*arguments.args, *arguments.kwonlyargs], [*defaults, *arguments.kw_defaults], strict=True
    ):
        yield argument.arg, argument.annotation, default


def _type(node: ast.expr | None, module: _Module) -> Any:
    try:
        return Any if node is None else evaluate(node, module)
    except (_Unreadable, TypeError):
        return Any


def _default(node: ast.expr | None, module: _Module) -> Any:
    try:
        return UNSET if node is None else evaluate(node, module)
    except _Unreadable:
        return UNSET


def evaluate(node: ast.AST, module: _Module) -> Any:
    """The value of an expression of literals, types, and names that stand for such.

    Raises:
        _Unreadable: it is another one.
    """
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return module.value(node.id)
        case ast.Attribute():
            return getattr(evaluate(node.value, module), node.attr)
        case ast.Tuple():
            return tuple(evaluate(item, module) for item in node.elts)
        case ast.List():
            return [evaluate(item, module) for item in node.elts]
        case ast.Dict() if all(node.keys):
            return {
                evaluate(k, module): evaluate(v, module)
                for k, v in zip(node.keys, node.values, strict=True)
                if k
            }
        case ast.UnaryOp(op=ast.USub()):
            return -evaluate(node.operand, module)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](evaluate(node.left, module), evaluate(node.right, module))
        case ast.Subscript():
            return evaluate(node.value, module)[evaluate(node.slice, module)]
    raise _Unreadable(ast.unparse(node))
