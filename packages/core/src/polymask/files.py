"""Files of a run: each is written whole or not at all, and a damaged one is named."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from polymask.errors import UserError


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write, which takes the place of ``path`` once it is whole and on the disk.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with partial.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Have a rename on the disk; not every file system lets a folder be opened for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; numbers must be finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    """Write a YAML file whole or not at all."""
    import yaml  # type: ignore[import-untyped]

    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def load_yaml(text: str, name: str = "text") -> Any:
    """A value in YAML, in which no key stands twice and nothing holds itself.

    Args:
        text: what to read.
        name: where it stands, for messages.

    Raises:
        yaml.YAMLError: it is something else; says the line.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, ())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_node(node: Any, above: tuple[Any, ...]) -> None:
    import yaml

    if node in above:
        raise yaml.MarkedYAMLError(problem="a value holds itself", problem_mark=node.start_mark)
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    keys: set[str] = set()
    for key, _ in pairs:
        name = str(key.value)
        if name in keys:
            raise yaml.MarkedYAMLError(problem=f"{name!r} is given twice", problem_mark=key.start_mark)
        keys.add(name)
    inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
    for each in inner:
        _check_node(each, (*above, node))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of options.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    import yaml

    try:
        found = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a configuration: it must map options to values, as config.yaml does")
    return found
