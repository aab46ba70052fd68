"""A reader and what prepares its result: options of both, each passed to its own."""

from __future__ import annotations

from types import ModuleType

import pytest

from polymask import Part, Registry, UserError, hookimpl
from polymask.config import built_from, options_of, resolve_part
from polymask.data import open_data
from polymask.testing import check_part


def reader(*, source: str, count: int = 3) -> dict[str, object]:
    """A reader.

    Args:
        source: what is read.
        count: how often.
    """
    return {"source": source, "count": count}


class Prepared:
    """Prepares what was read.

    Args:
        found: by a reader.
        size: of it.
        limit: of samples.
    """

    def __init__(self, found: dict[str, object], /, *, size: int = 8, limit: int | None = None) -> None:
        self.found, self.size, self.limit = found, size, limit


class Twice:
    """Prepares by an option that the reader has."""

    def __init__(self, found: dict[str, object], /, *, count: int = 1) -> None:
        pass


@pytest.fixture
def registry() -> Registry:
    module = ModuleType("acme")

    @hookimpl
    def polymask_register_datasets() -> list[Part]:
        target = f"{__name__}:reader"
        common = {"target": target, "summary": "one"}
        return [
            Part(name="good", prepare=f"{__name__}:Prepared", defaults={"size": 4}, **common),
            Part(name="twice", prepare=f"{__name__}:Twice", **common),
            Part(name="missing", prepare=f"{__name__}:Nothing", **common),
        ]

    module.polymask_register_datasets = polymask_register_datasets  # type: ignore[attr-defined]
    registry = Registry(entries=[])
    assert registry.add("acme", module).status == "ok"
    return registry


def test_each_gets_its_own_options(registry: Registry) -> None:
    data = open_data("good:here", registry, count=5, limit=2)
    assert isinstance(data, Prepared)
    assert data.found == {"source": "here", "count": 5}
    assert (data.size, data.limit) == (4, 2)
    assert open_data("good:here", registry, size=6).size == 6  # type: ignore[attr-defined]
    assert built_from(data) == {"name": "acme/good", "source": "here", "count": 5, "size": 4, "limit": 2}
    with pytest.raises(UserError, match="acme/good has no option --sise .*\ndid you mean --size"):
        open_data("good:here", registry, sise=6)


def test_an_option_of_both_is_refused(registry: Registry) -> None:
    part = registry.find("datasets", "twice")
    message = "acme/twice: .*:reader and .*:Twice both have an option 'count'; rename one"
    with pytest.raises(UserError, match=message):
        open_data("twice:here", registry)
    with pytest.raises(UserError, match=message):
        options_of(part)
    with pytest.raises(UserError, match="acme/missing cannot be imported from .*:Nothing"):
        options_of(registry.find("datasets", "missing"))


def test_defaults_that_a_part_declares_are_those_shown(registry: Registry) -> None:
    tree = resolve_part(registry.find("datasets", "good"), registry=registry).tree
    groups = [(name, option.group) for name, option in tree.known.items()]
    prepared = "data, prepared by Prepared"
    assert groups == [("source", ""), ("count", ""), ("size", prepared), ("limit", prepared)]
    assert (tree.options["size"], tree.known["size"].help) == (4, "of it.")


def test_a_part_of_two_keeps_its_declaration(registry: Registry) -> None:
    only = ["check_part_imports", "check_part_documents_its_options", "check_part_presets_name_options"]
    results = check_part("acme/good", kind="datasets", registry=registry, only=only)
    assert [result.outcome for result in results] == ["passed"] * 3
    (result,) = check_part("acme/twice", kind="datasets", registry=registry, only=only[1:2])
    assert "leave out count" in result.message


@pytest.mark.parametrize("spec", ["good", "good:"])
def test_data_without_a_source_is_none_of_the_working_folder(registry: Registry, spec: str) -> None:
    with pytest.raises(UserError, match="acme/good needs a source, good:SOURCE; it reads one"):
        open_data(spec, registry)
