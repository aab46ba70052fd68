from __future__ import annotations

import json

import pytest

from polymask.parts import KINDS
from polymask.plugins.registry import default_registry


def test_a_system(polymask):
    out = " ".join(polymask("show", "toy/mean").out.split())
    for text in (
        "toy/mean system, image",
        "Mean of the toy",
        "Nobody 2026",
        "A plugin of the smallest parts that a command line can set up and train.",
        "--target toy/raw scale=2.0 what to predict",
        "--score none evidence per token",
        "--gain float 1.0 factor of the loss; in 100 % of cases 1.",
        "small masking.ratio 0.4, encoder.dim 8",
        "target: polymask_cli_toy:Mean",
    ):
        assert text in out, text


def test_as_json(polymask):
    found = json.loads(polymask("show", "net", "--json").out)
    assert found["name"] == "toy/net" and found["mechanism"] == "One linear layer."
    options = {option["name"]: option for option in found["options"]}
    assert options["depths"] == {
        "name": "depths",
        "type": "tuple[int, ...]",
        "required": False,
        "fact": False,
        "default": [1, 1],
        "help": "nothing, but a tuple.",
    }
    raw = json.loads(polymask("show", "raw", "--json").out)
    told = raw["options"][0]
    assert (told["name"], told["fact"], told["required"], told["default"]) == ("in_dim", True, False, None)


def test_where_a_value_comes_from(polymask):
    out = " ".join(polymask("show", "raw").out.split())
    assert "--in_dim int from the data numbers per token" in out and "--scale float 1.0 factor" in out
    assert "--n int required how many" in " ".join(polymask("show", "asking").out.split())
    assert json.loads(polymask("show", "asking", "--json").out)["options"][0]["required"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_part(polymask, kind):
    for part in default_registry().parts(kind):
        if part.plugin in ("core", "toy") and part.name != "gone":
            done = polymask("show", part.full_name, "--kind", kind)
            assert done.status == 0 and part.full_name in done.out, done.err


def test_what_cannot_be_imported_says_what_to_install(polymask):
    done = polymask("show", "gone")
    assert done.status == 2 and "pip install nowhere" in done.err


def test_width_of_the_terminal_is_kept(polymask, monkeypatch):
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        out = polymask("show", "toy/mean").out
        assert max(len(line) for line in out.splitlines()) <= width
