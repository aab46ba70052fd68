"""The hooks are a promise to other people's plugins: this page changes on purpose or not at all."""

from __future__ import annotations

import inspect
from types import ModuleType, SimpleNamespace

import pytest

from polymask import Part, Registry, hookimpl
from polymask.parts import KINDS
from polymask.plugins import hookspecs

SURFACE = {
    "polymask_register_datasets": [],
    "polymask_register_encoders": [],
    "polymask_register_evaluations": [],
    "polymask_register_maskings": [],
    "polymask_register_objectives": [],
    "polymask_register_recipes": [],
    "polymask_register_systems": [],
    "polymask_register_targets": [],
    "polymask_register_tokenizers": [],
}
"""Names of the hooks and of their arguments. A removal or a change here needs a new API number."""

HOOKS = {n: f for n, f in vars(hookspecs).items() if n.startswith("polymask_")}


def test_the_surface_is_the_promised_one() -> None:
    assert {name: list(inspect.signature(hook).parameters) for name, hook in HOOKS.items()} == SURFACE
    assert hookspecs.API == (1, 1)


def test_there_is_one_hook_per_kind() -> None:
    assert set(HOOKS) == {f"polymask_register_{kind}" for kind in KINDS}


@pytest.mark.parametrize("hook", sorted(HOOKS))
def test_every_hook_is_documented_and_has_a_test_of_its_name(hook: str) -> None:
    assert inspect.getdoc(HOOKS[hook])
    assert f"test_{hook}" in globals()


def registered(hook: str, kind: str) -> None:
    """What one hook declares is found under its kind, with the plugin's name, and nowhere else."""
    declared = Part(name="thing", target="acme.things:Thing", summary="for a test", tags=frozenset({"t"}))
    plugin = SimpleNamespace(__name__="acme", **{hook: hookimpl(lambda: [declared], specname=hook)})
    registry = Registry(environ={}, entries=[])
    record = registry.add("acme", plugin)
    assert (record.status, record.parts, record.error) == ("ok", 1, "")
    found = registry.find(kind, "thing")
    assert (found.plugin, found.kind, found.full_name, found.tags) == ("acme", kind, "acme/thing", {"t"})
    assert [k for k in KINDS if registry.parts(k)] == [kind]


def test_polymask_register_maskings() -> None:
    registered("polymask_register_maskings", "maskings")


def test_polymask_register_objectives() -> None:
    registered("polymask_register_objectives", "objectives")


def test_polymask_register_tokenizers() -> None:
    registered("polymask_register_tokenizers", "tokenizers")


def test_polymask_register_encoders() -> None:
    registered("polymask_register_encoders", "encoders")


def test_polymask_register_targets() -> None:
    registered("polymask_register_targets", "targets")


def test_polymask_register_systems() -> None:
    registered("polymask_register_systems", "systems")


def test_polymask_register_datasets() -> None:
    registered("polymask_register_datasets", "datasets")


def test_polymask_register_evaluations() -> None:
    registered("polymask_register_evaluations", "evaluations")


def test_polymask_register_recipes() -> None:
    registered("polymask_register_recipes", "recipes")


def test_a_hook_may_be_a_generator_and_a_plugin_may_have_no_hook() -> None:
    plugin, empty = ModuleType("acme"), ModuleType("empty")

    @hookimpl
    def polymask_register_maskings():  # type: ignore[no-untyped-def]
        yield Part(name="a", target="acme:A", summary="a")
        yield Part(name="b", target="acme:B", summary="b")

    plugin.polymask_register_maskings = polymask_register_maskings  # type: ignore[attr-defined]
    registry = Registry(environ={}, entries=[])
    assert registry.add("acme", plugin).parts == 2
    assert registry.add("empty", empty).status == "ok"
