from __future__ import annotations

import dataclasses
import json

import pytest

from polymask.parts import KINDS
from polymask.plugins.registry import default_registry


def test_every_part_has_one_line_under_its_kind(polymask):
    lines = polymask("list").out.splitlines()
    registry = default_registry()
    for kind in KINDS:
        parts = registry.parts(kind)
        if parts:
            start = lines.index(kind) + 1
            assert [line.split()[0] for line in lines[start : start + len(parts)]] == [
                p.full_name for p in parts
            ]


@pytest.mark.parametrize("kind", ["systems", "system"])
def test_of_one_kind(polymask, kind):
    out = polymask("list", kind).out
    assert "toy/mean" in out and "Mean of the toy" in out and "image" in out
    assert "core/random" not in out and "systems" not in out


def test_as_json(polymask):
    found = json.loads(polymask("list", "systems", "--json").out)
    mean = next(part for part in found if part["name"] == "toy/mean")
    assert mean == {
        "name": "toy/mean",
        "kind": "systems",
        "modality": "image",
        "summary": "Mean of the toy",
        "paper": "Nobody 2026",
        "tags": [],
    }


def test_lines_are_cut_for_a_terminal_only(polymask, monkeypatch):
    whole = polymask("list").out
    monkeypatch.setenv("COLUMNS", "40")
    assert polymask("list").out == whole
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    from polymask.cli.terminal import columns

    assert columns([("a", "b" * 60)]) == ["a  " + "b" * 36 + "…"]


def test_plugins_say_why_one_is_broken(polymask, broken):
    out = polymask("plugins").out
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert rows["plugin"] == ["plugin", "distribution", "version", "status", "parts"]
    assert rows["core"][1] == "polymask" and rows["core"][3] == "ok"
    assert rows["bad"][-2:] == ["broken", "0"]
    assert "RuntimeError: out of order" in out and "Traceback" not in out
    assert "Traceback" in polymask("plugins", "--verbose").out
    assert dataclasses.asdict(broken) in json.loads(polymask("plugins", "--json").out)
