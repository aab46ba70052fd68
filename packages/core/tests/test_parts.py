"""A declaration is checked where it is made."""

from __future__ import annotations

from typing import Any

import pytest

from polymask import Part
from polymask.parts import KINDS, SLOTS, slot_kind

GOOD: dict[str, Any] = {"name": "stripes", "target": "acme.maskings:Stripes", "summary": "lines"}


@pytest.mark.parametrize("name", ["mae", "l1", "data2vec2", "smooth-l1", "r-amt", "3d"])
def test_names_that_are_allowed(name: str) -> None:
    assert Part(**{**GOOD, "name": name}).name == name


@pytest.mark.parametrize("name", ["MAE", "a_b", "-a", "a-", "a--b", "a/b", "a b", "ä", "a\n"])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters and digits"):
        Part(**{**GOOD, "name": name})


@pytest.mark.parametrize(
    "target", ["acme.Stripes", "acme:", ":Stripes", "acme:a.b", "acme:Stripes()", "a b:C"]
)
def test_targets_that_are_not(target: str) -> None:
    with pytest.raises(ValueError, match="is not 'package.module:Class'"):
        Part(**{**GOOD, "target": target})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "Part '': name must be a non-empty string"),
        ({"summary": None}, "'stripes': summary must be a non-empty string"),
        ({"target": object}, "'stripes': target must be a non-empty string"),
        ({"tags": "score"}, "tags is one value, 'score'; give a set"),
        ({"modality": ["image", "text"]}, r"'stripes': modality must be a string, got \['image', 'text'\]"),
        ({"modality": None}, "'stripes': modality must be a string, got None"),
        ({"defaults": ["ratio"]}, "defaults must map option names"),
        ({"presets": 3}, "presets must map names to options"),
        ({"presets": {"tiny": 3}}, "preset 'tiny' must map option names"),
        ({"presets": {"tiny": {1: 3}}}, "preset 'tiny' must map option names"),
        (
            {"presets": {"tiny": {"masking": {"ratio": object}}}},
            "preset 'tiny', masking, ratio: give numbers",
        ),
        (
            {"defaults": {"sizes": [1, {2}, b""]}},
            "defaults, sizes: give numbers, text, lists or mappings, got b",
        ),
        ({"tags": 7}, "tags is one value, 7; give a set"),
        ({"tags": [7]}, "tags must be strings"),
        ({"paper": 7}, "paper must be a string, got 7"),
        ({"needs": None}, "needs must be a string, got None"),
    ],
)
def test_wrong_types(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Part(**{**GOOD, **change})


@pytest.mark.parametrize("field", ["summary", "paper", "needs"])
@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "a\tb"])
def test_what_is_listed_is_one_line(field: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"'stripes': {field} must be one line of text"):
        Part(**{**GOOD, field: text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a" * 65}, "^Part 'a{65}': name has 65 letters; 64 are the most$"),
        ({"name": "a" * 5000}, "^Part 'a{79}: name has 5,000 letters; 64 are the most$"),
        ({"summary": "a" * 201}, "^Part 'stripes': summary has 201 letters; 200 are the most$"),
        ({"needs": "a" * 3_000_000}, "needs has 3,000,000 letters; 1000 are the most$"),
        (
            {"defaults": {"mean": float("nan")}},
            "'stripes': defaults, mean: give numbers, without nan, got nan",
        ),
        ({"presets": {"tiny": {"masking": {"ratio": [1, float("nan")]}}}}, "preset 'tiny', masking: give"),
    ],
)
def test_what_no_list_can_show(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Part(**{**GOOD, **change})


def test_the_longest_there_are() -> None:
    assert Part(**{**GOOD, "name": "a" * 64, "summary": "a" * 200, "defaults": {"high": float("inf")}})


@pytest.mark.parametrize("modality", ["", "image+", "image + text", "image,text", "Image"])
def test_modalities_that_are_not(modality: str) -> None:
    with pytest.raises(ValueError, match=r"'stripes': modality .* is not like 'image', 'image\+text'"):
        Part(**GOOD, modality=modality)


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        ("image", "image", True),
        ("image", "text", False),
        ("image", "image+text", True),
        ("audio+image", "image+text", True),
        ("audio+points", "image+text", False),
        ("any", "image+text", True),
        ("any", "any", True),
        ("mage", "image+text", False),
    ],
)
def test_parts_fit_where_their_modalities_meet(one: str, other: str, fits: bool) -> None:
    assert Part(**GOOD, modality=one).fits(other) is fits
    assert Part(**GOOD, modality=other).fits(one) is fits


def test_fields_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        Part("stripes", "acme.maskings:Stripes", "lines")  # type: ignore[misc]


def test_a_declaration_cannot_be_changed_through_what_it_was_made_from() -> None:
    defaults: dict[str, Any] = {"ratio": 0.5}
    presets = {"small": {"ratio": 0.6}}
    part = Part(**GOOD, defaults=defaults, presets=presets, tags=frozenset({"score"}))
    defaults["ratio"] = presets["small"]["ratio"] = 0.9
    assert part.defaults["ratio"] == 0.5
    assert part.presets["small"]["ratio"] == 0.6
    with pytest.raises(TypeError):
        part.defaults["ratio"] = 0.9  # type: ignore[index]


@pytest.mark.parametrize(
    ("parameter", "kind"),
    [
        ("masking", "maskings"),
        ("second_masking", "maskings"),
        ("image_tokenizer", "tokenizers"),
        ("score", "targets"),
        ("ratio", None),
        ("maskings", None),
        ("masking_ratio", None),
    ],
)
def test_slots_are_known_by_the_end_of_a_parameter_name(parameter: str, kind: str | None) -> None:
    assert slot_kind(parameter) == kind


def test_every_slot_takes_a_kind_that_exists() -> None:
    assert set(SLOTS.values()) <= set(KINDS)


def test_what_prepares_is_named_like_a_target() -> None:
    assert Part(**GOOD).prepare == ""
    assert Part(**GOOD, prepare="acme.data:Images").prepare == "acme.data:Images"
    with pytest.raises(ValueError, match="prepare 'acme.Images' is not 'package.module:Class'"):
        Part(**GOOD, prepare="acme.Images")
    with pytest.raises(TypeError, match="prepare must be a string"):
        Part(**GOOD, prepare=object)
