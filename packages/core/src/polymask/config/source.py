"""Classes, functions and values of a module, read from its source without importing it."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LIGHT = ("typing", "collections.abc", "math", "pathlib", "polymask.types")
"""Modules that names are taken from by importing them."""

_READABLE = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.Dict, ast.Subscript, ast.Load),
    *(ast.UnaryOp, ast.USub, ast.BinOp, ast.BitOr, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow),
)
"""What an expression may be made of: literals, types, names, and arithmetic with them; nothing is called."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Unreadable(Exception):
    """An expression whose value takes more than reading."""


class Module:
    """The syntax tree of a module, with what its names stand for; by name: ``module["DEPTH"]``."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.names: dict[str, ast.AST | tuple[str, str]] = {}
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        statements: list[ast.stmt] = list(self.tree.body)
        for node in statements:
            match node:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.names[node.name] = node
                case ast.ImportFrom():
                    above = package[: len(package) - node.level + 1] if node.level else []
                    origin = ".".join([*above, *([node.module] if node.module else [])])
                    for alias in node.names:
                        self.names[alias.asname or alias.name] = origin, alias.name
                case ast.Import():
                    for alias in node.names:
                        if alias.asname or "." not in alias.name:
                            self.names[alias.asname or alias.name] = alias.name, ""
                case ast.Assign(targets=targets):
                    for target in targets:
                        if isinstance(target, ast.Name):
                            self.names[target.id] = node.value
                case ast.AnnAssign(target=ast.Name(id=named), value=ast.AST() as value):
                    self.names[named] = value
                case ast.If() | ast.Try():  # names for type checkers stand under an if
                    statements += [*node.body, *node.orelse]

    def find(self, name: str) -> tuple[Module, ast.AST] | None:
        """Where a name is defined, and as what, through imports."""
        found = self.names.get(name)
        if isinstance(found, tuple):
            origin = module_of(found[0])
            return origin.find(found[1]) if origin is not None and found[1] else None
        return None if found is None else (self, found)

    def __getitem__(self, name: str) -> Any:
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
    for inner in ast.walk(node):
        if not isinstance(inner, _READABLE):
            raise Unreadable(ast.unparse(node))
    code = compile(ast.Expression(node), module.name, "eval")  # type: ignore[arg-type]
    return eval(code, {"__builtins__": {}}, module)  # type: ignore[arg-type]
