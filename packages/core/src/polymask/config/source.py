"""Classes, functions and values of a module, read from its source without importing it."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import operator
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LIGHT = ("typing", "collections.abc", "math", "pathlib", "polymask.types")
"""Modules that names are taken from by importing them."""

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.BitOr: operator.or_,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Unreadable(Exception):
    """An expression whose value takes more than reading."""


class Module:
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

    def find(self, name: str) -> tuple[Module, ast.AST] | None:
        """Where a name is defined, and as what, through imports."""
        found = self.names.get(name)
        if isinstance(found, tuple):
            origin = module_of(found[0])
            return origin.find(found[1]) if origin is not None and found[1] else None
        return None if found is None else (self, found)

    def value(self, name: str) -> Any:
        """What a name stands for.

        Raises:
            Unreadable: nobody can tell without importing.
        """
        found = self.names.get(name)
        if found is None and hasattr(builtins, name):
            return getattr(builtins, name)
        if isinstance(found, tuple) and found[0] in _LIGHT:
            module = importlib.import_module(found[0])
            return getattr(module, found[1]) if found[1] else module
        where = self.find(name)
        if where is None:
            raise Unreadable(name)
        place, node = where
        return Any if isinstance(node, ast.ClassDef | Function) else evaluate(node, place)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those in branches too: names for type checkers stand under an ``if``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])


@functools.cache
def module_of(name: str) -> Module | None:
    """A module's source, None where it has none that can be read."""
    path = path_of(name)
    return Module(name, path) if path is not None and path.suffix == ".py" else None


def path_of(name: str) -> Path | None:
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


def definition(target: str) -> tuple[Module, ast.ClassDef | Function] | None:
    """Where ``"package.module:Name"`` is defined, and as what."""
    name, _, attribute = target.partition(":")
    try:
        module = module_of(name)
        found = module.find(attribute) if module else None
    except Exception:  # a syntax error, names that import each other: who needs it imports it
        return None
    return found if found is not None and isinstance(found[1], ast.ClassDef | Function) else None  # type: ignore[return-value]


def constructor(node: ast.ClassDef, module: Module) -> tuple[Function, Module] | None:
    """The constructor of a class, its own or that of a base."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return member, module
    for base in node.bases:
        found = module.find(base.id) if isinstance(base, ast.Name) else None
        if found is not None and isinstance(found[1], ast.ClassDef):
            inherited = constructor(found[1], found[0])
            if inherited is not None:
                return inherited
    return None


def parameters(function: Function) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Name, annotation and default of each argument that can be given by name."""
    arguments = function.args
    missing = [None] * (len(arguments.args) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults][-len(arguments.args) :] if arguments.args else []
    for argument, default in zip(
        [*arguments.args, *arguments.kwonlyargs], [*defaults, *arguments.kw_defaults], strict=True
    ):
        yield argument.arg, argument.annotation, default


def evaluate(node: ast.AST, module: Module) -> Any:
    """The value of an expression of literals, types, and names that stand for such.

    Raises:
        Unreadable: it is another one.
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
    raise Unreadable(ast.unparse(node))
