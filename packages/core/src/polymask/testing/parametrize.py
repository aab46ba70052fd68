"""The suite under pytest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from polymask.errors import UserError
from polymask.parts import KINDS
from polymask.plugins.registry import Registry, default_registry
from polymask.testing.subject import Subject
from polymask.testing.suite import Check, Skip, checks_for, confirm_names


def parametrize_parts(
    *,
    kind: str | None = None,
    plugin: str | None = None,
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
    tokenizer: str | None = None,
    registry: Registry | None = None,
) -> Any:
    """Turn a test of one argument ``check`` into one test per part and check.

    All of it, for a plugin of one's own::

        @parametrize_parts(plugin="acme")
        def test_part(check):
            check()

    Args:
        kind: parts of this kind only.
        plugin: parts of this plugin only.
        expected_failures: for each full name of a part, the reasons why checks of it are known to
            fail, by name of the check. Such a test must fail: passing is an error.
        tokenizer: name of the tokenizer to make inputs with; by default one of each part's modality.
        registry: where the parts are; the installed plugins by default.

    Raises:
        UserError: no such kind or plugin, the plugin is broken, or an expected failure of a part
            or check that does not exist.
    """
    import pytest

    registry = registry or default_registry()
    if plugin is not None:
        record = next((p for p in registry.plugins if p.name == plugin and p.status == "ok"), None)
        if record is None:
            state = "; ".join(
                f"{p.source} is {p.status}: {p.error}" for p in registry.plugins if p.name == plugin
            )
            raise UserError(f"there is no working plugin {plugin!r}: {state or 'it is not installed'}")
    parts = [part for k in ([kind] if kind else KINDS) for part in registry.parts(k)]
    parts = [part for part in parts if plugin in (None, part.plugin)]
    if not parts:
        raise UserError(f"there is no part to check: kind={kind!r}, plugin={plugin!r}")
    known = dict(expected_failures or {})
    tests = []
    for part in parts:
        reasons = known.pop(part.full_name, {})
        checks = checks_for(part)
        confirm_names(reasons, checks, part)
        subject = Subject(part, registry, tokenizer=tokenizer)
        for check in checks:
            reason = reasons.get(check.name)
            marks = [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]
            run = functools.partial(_run, check, subject, pytest.skip)
            tests.append(pytest.param(run, id=f"{part.full_name}-{check.name}", marks=marks))
    if known:
        raise UserError(f"expected failures of parts that are not checked here: {', '.join(known)}")
    return pytest.mark.parametrize("check", tests)


def _run(check: Check, subject: Subject, skip: Callable[[str], Any]) -> None:
    __tracebackhide__ = True
    try:
        check.run(subject)
    except Skip as reason:
        skip(str(reason))
