from __future__ import annotations

import itertools

import pytest
from polymask.cli.layers import resolve, settle, system_setup
from polymask.cli.scan import scan

from polymask.errors import UserError
from polymask.registry import default_registry


def config(*argv):
    setup, head = system_setup(scan(["toy/mean", "--data", "shapes", *argv], flags=()), default_registry())
    return {**head, **setup.config()}


def refusal(*argv):
    with pytest.raises(UserError) as caught:
        config(*argv)
    return str(caught.value)


@pytest.mark.parametrize(
    ("argv", "keys", "value"),
    [
        (("--gain", "2"), ["gain"], 2.0),
        (("--gain", "1e-3"), ["gain"], 1e-3),
        (("--bias", "false"), ["bias"], False),
        (("--encoder.depths", "[1,2,3]"), ["encoder", "depths"], [1, 2, 3]),
        (("--tokenizer.size", "[4, 8]"), ["tokenizer", "size"], [4, 8]),
        (("--encoder.depths", "[1, 1]"), ["encoder", "depths"], [1, 1]),  # as help shows the default
        (("--steps", "null"), ["steps"], None),
        (("--betas", "[0.9, 0.99]"), ["betas"], [0.9, 0.99]),
        (("--data.source", "bars"), ["data"], {"name": "toy/shapes", "source": "bars"}),
        (("--data", "shapes:bars"), ["data"], {"name": "toy/shapes", "source": "bars"}),
        (("--score", "none"), ["score"], None),
        (("--score", "raw"), ["score"], {"name": "toy/raw"}),
        (("--devices", "2"), ["devices"], 2),
        (("--devices", "auto"), ["devices"], "auto"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_values_get_the_types_of_their_options(argv, keys, value):
    found = config(*argv)
    for key in keys:
        found = found[key]
    assert found == value and type(found) is type(value)


def test_only_what_was_set_is_configured():
    declared = {
        "tokenizer": {"name": "toy/cells"},
        "encoder": {"name": "toy/net"},
        "target": {"name": "toy/raw", "scale": 2.0},
        "masking": {"name": "core/random"},
        "objective": {"name": "core/mse"},
    }
    expected = {"system": "toy/mean", "preset": None, "data": {"name": "toy/shapes"}, **declared}
    assert config() == expected
    assert config("--gain", "3") == {**expected, "gain": 3.0}


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("--masking.ratio", "abc"), ("--masking.ratio takes float, got 'abc'",)),
        (("--encoder.act", "gelu"), ("--encoder.act takes relu | tanh, got 'gelu'",)),
        (("--encoder.depths", "[1,x]"), ("--encoder.depths takes tuple[int, ...]",)),
        (("--steps", "1.5"), ("--steps takes int | null, got '1.5'",)),
        (("--masking.ratio",), ("--masking.ratio takes float", "without a value")),
        (("--masking.rati", "1"), ("no option --masking.rati", "--masking.ratio", "command line")),
        (("--stps", "1"), ("no option --stps", "--steps")),
        (("--masking.zzz", "1"), ("no option --masking.zzz", "--masking.cell")),
        (("--dim", "4"), ("no option --dim", "--encoder.dim")),
        (("--masking", "core/span", "--masking.cell", "2"), ("no option --masking.cell", "--masking.ratio")),
        (("--score.scale", "2"), ("which score?", "--score NAME", "--score.scale")),
        (("--masking", "nonsense"), ("'nonsense'", "core/random")),
        (("--data", "nonsense"), ("'nonsense'", "toy/shapes")),
        (("--preset", "huge"), ("'huge'", "small")),
        (("surplus",), ("'surplus'", "--name value")),
    ],
    ids=lambda x: " ".join(x),
)
def test_what_does_not_fit_is_refused_with_the_nearest(argv, parts):
    message = refusal(*argv)
    for part in parts:
        assert part in message, message


def test_a_wrong_option_says_where_it_was_set(tmp_path):
    file = tmp_path / "more.yaml"
    file.write_text("gian: 2\n")
    with pytest.raises(UserError, match=r"--gian .*more.yaml[^$]*--gain"):
        system_setup(scan(["mean", "--data", "shapes"], flags=()), default_registry(), file)[0].config()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "cannot read"),
        ("- 1\n", "not a configuration"),
        (None, "No such file"),
        ("data: [shapes]\n", "give a name"),
        ("data: null\n", "give a name"),
        ("masking: {1: 2}\n", "--masking.1"),
        ("masking: [core/random]\n", "--masking takes NAME"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, part):
    file = tmp_path / "more.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=part):
        system_setup(scan(["mean"], flags=()), default_registry(), file)[0].config()


def test_a_system_that_cannot_be_imported_says_what_to_install():
    with pytest.raises(UserError, match="pip install nowhere"):
        system_setup(scan(["gone"], flags=()), default_registry())


def test_settle_is_the_same_for_all_spellings():
    registry = default_registry()
    spellings = [
        {"masking": "random", "masking.ratio": 0.5, "data": "shapes:bars"},
        {"masking.ratio": 0.5, "masking.name": "core/random", "data.source": "bars", "data.name": "shapes"},
        {"masking": {"name": "random", "ratio": 0.5}, "data": {"name": "toy/shapes", "source": "bars"}},
    ]
    for one, other in itertools.pairwise(settle(s, registry) for s in spellings):
        assert one == other


def test_resolve_writes_defaults_out_and_leaves_facts_out():
    given = config("--masking", "scheduled", "--masking.masking.cell", "2")
    built = {
        "name": "toy/mean",
        "tokenizer": {"name": "toy/cells", "size": (4, 4)},
        "encoder": {"name": "toy/net", "in_dim": 1},
        "target": {"name": "toy/raw", "in_dim": 1, "scale": 2.0},
    }
    resolved = resolve(given, built, default_registry())
    assert resolved["tokenizer"] == {"name": "toy/cells", "patch": 1}
    assert resolved["encoder"] == {"name": "toy/net", "dim": 4, "act": "relu", "depths": [1, 1]}
    assert resolved["target"] == {"name": "toy/raw", "scale": 2.0}
    inner = resolved["masking"]["masking"]
    assert inner == {"name": "core/random", "ratio": 0.75, "cell": 2, "rounding": "nearest"}
    assert resolved["gain"] == 1.0 and resolved["score"] is None and resolved["batch_size"] == 256
    assert resolved["data"]["n"] == 32 and resolved["data"]["size"] == [4, 4]
