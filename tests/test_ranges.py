"""Numbers that cannot be are refused by the types of options, in every part of every package."""

from __future__ import annotations

import re

import pytest

from polymask import UserError, build, default_registry
from polymask.config import options_of
from polymask.config.values import convert
from polymask.parts import KINDS

REFUSED = {
    0: "axes batch_size channels code_dim codes conv_dim decoder_dim decoder_heads dim groups head_dim heads "
    "in_dim kernel length limit mels neighbours patch_size per_class points predictor_dim predictor_heads "
    "rate steps vocab_size vocabulary window",
    -1: "attention decoder_depth depth features pad_id",
    -0.1: "drop_path layer_drop mlp_ratio test",
    1.1: "drop_path layer_drop test",
    float("nan"): "drop_path mlp_ratio test",
    10**20: "dim heads depth patch_size batch_size points",
}


@pytest.mark.parametrize("number", REFUSED)
def test_options_of_all_parts_have_ranges(number: float) -> None:
    names, found = REFUSED[number].split(), set()
    for part in (part for kind in KINDS for part in default_registry().parts(kind)):
        for name, option in options_of(part).items():
            if name not in names or (name == "depth" and option.type_name == "float"):
                continue
            value = (number,) if "tuple" in option.type_name else number
            with pytest.raises(ValueError):  # noqa: PT011  the rule, or the type where it says all
                convert(option.type, value)
            found.add(name)
    assert found == set(names)


@pytest.mark.parametrize(
    ("option", "value", "takes"),
    [
        ("decoder_heads", 0, "int 1 or more"),
        ("encoder.dim", 0, "int 1 or more"),
        ("tokenizer.patch_size", 0, "int 1 or more"),
        ("encoder.drop_path", -1.0, "float 0 to 1"),
    ],
)
def test_they_are_told(option: str, value: float, takes: str) -> None:
    with pytest.raises(UserError, match=f"^--{option} takes {takes}, got {value}$"):
        build("vision/mae", preset="tiny", **{option: value})


def test_lists_are_written_as_people_write_them() -> None:
    """Of every option that takes several values, with brackets or without."""
    found = set()
    for part in (part for kind in KINDS for part in default_registry().parts(kind)):
        for name, option in options_of(part).items():
            if not re.search("tuple|Sequence|list", option.type_name):
                continue
            for several in ([16, 24], [0.5, 0.25], ["a", "b"]):
                try:
                    wanted = convert(option.type, several)
                except ValueError:
                    continue
                listed = ",".join(map(str, several))
                for text in (listed, listed.replace(",", ", "), f"[{listed}]", f"({listed})"):
                    assert convert(option.type, text, text=True) == wanted, (part.full_name, name, text)
                found.add(name)
    assert found > {"size", "mean", "range", "features", "layers"}
