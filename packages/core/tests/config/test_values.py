"""Values get the types of their options; what does not fit is refused, with the nearest that does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import pytest

from polymask import Registry, RunConfig
from polymask.cli.parse import parse
from polymask.cli.verbs.pretrain import require_data, sources_of
from polymask.config import Option, Source, TrainOptions, build, resolve_part, resolve_system
from polymask.config.layers import TRAINING
from polymask.config.options import table
from polymask.config.values import convert
from polymask.errors import UserError
from polymask.types import Count, Fact, NotNegative, Positive, Share


@pytest.fixture
def config(toys):
    """Options that a command line comes to."""

    def of(*argv, file=None, system="toy/mean"):
        command = parse([system, "--data", "shapes", *argv], flags=())
        return resolve_system(*sources_of(command, file), registry=toys).require().plain(defaults=False)

    return of


@pytest.mark.parametrize(
    ("argv", "keys", "value"),
    [
        (("--gain", "2"), ["gain"], 2.0),
        (("--gain", "1e-3"), ["gain"], 1e-3),
        (("--bias", "false"), ["bias"], False),
        (("--encoder.depths", "[1,2,3]"), ["encoder", "depths"], [1, 2, 3]),
        (("--encoder.depths", "1,2,3"), ["encoder", "depths"], [1, 2, 3]),
        (("--encoder.depths", "(1, 2)"), ["encoder", "depths"], [1, 2]),
        (("--encoder.depths", "4"), ["encoder", "depths"], [4]),
        (("--betas", "0.9,0.99"), ["betas"], [0.9, 0.99]),
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
def test_values_get_the_types_of_their_options(config, argv, keys, value):
    found = config(*argv)
    for key in keys:
        found = found[key]
    assert found == value and type(found) is type(value)


def test_only_what_was_set_is_configured(config):
    declared = {
        "tokenizer": {"name": "toy/cells"},
        "encoder": {"name": "toy/net"},
        "target": {"name": "toy/raw", "scale": 2.0},
        "masking": {"name": "core/random"},
        "objective": {"name": "core/mse"},
    }
    expected = {"name": "toy/mean", "data": {"name": "toy/shapes"}, **declared}
    assert config() == expected
    assert config("--gain", "3") == {**expected, "gain": 3.0}


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("--masking.ratio", "abc"), ("--masking.ratio takes float, got 'abc'",)),
        (("--encoder.act", "gelu"), ("--encoder.act takes relu | tanh, got 'gelu'",)),
        (("--encoder.depths", "[1,x]"), ("--encoder.depths takes tuple[int, ...]",)),
        (("--encoder.depths", "1,b"), ("takes tuple[int, ...], got '1,b'",)),
        (("--gain", "1,2"), ("takes float, got '1,2'",)),
        (("--masking.ratio", "0,5"), ("--masking.ratio takes float, got '0,5'",)),
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
def test_what_does_not_fit_is_refused_with_the_nearest(config, argv, parts):
    with pytest.raises(UserError) as caught:
        config(*argv)
    for part in parts:
        assert part in str(caught.value)


def test_a_wrong_option_and_a_wrong_value_say_where_they_were_set(config, toys, tmp_path):
    file = tmp_path / "more.yaml"
    file.write_text("gian: 2\n")
    with pytest.raises(UserError, match=r"--gian \(from the file .*more.yaml\)[^$]*--gain"):
        config(file=file)
    file.write_text("gain: much\nmasking: {ratio: 0.4, cell: 2}\n")
    with pytest.raises(UserError, match=r"--gain takes float, got 'much' \(from the file .*more.yaml\)"):
        config(file=file)
    with pytest.raises(UserError, match=r"--gain takes float, got 'more'$"):
        config("--gain", "more")
    with pytest.raises(
        UserError,
        match=r"^toy/net has no option --dims \(from the arguments\)\ndid you mean --dim or --in_dim\?",
    ):
        build("net", "encoders", registry=toys, dims=3)
    with pytest.raises(UserError, match=r"^--dim takes int, got 'x'$"):
        build("net", "encoders", registry=toys, dim="x")


def test_origins_of_values(toys, tmp_path):
    file = tmp_path / "more.yaml"
    file.write_text("gain: 3\nmasking: {ratio: 0.5}\nencoder.act: tanh\n")
    argv = ["mean", "--preset", "small", "--data", "shapes", "--gain", "2", "--masking.cell", "2"]
    tree = resolve_system(*sources_of(parse(argv, flags=()), file), registry=toys).require()
    assert tree.origins["gain"] == "command line" and tree.origins["steps"] == "preset 'small'"
    masking, encoder, target = (tree.options[slot] for slot in ("masking", "encoder", "target"))
    assert masking.origins == {"ratio": f"file {file}", "cell": "command line"}
    assert encoder.origins == {"act": f"file {file}", "dim": "preset 'small'"}
    assert target.origins == {"scale": "defaults of toy/mean"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "cannot read"),
        (
            "gain: 1\nmasking: {ratio: 0.5, ratio: 0.6}\n",
            r"'ratio' is given twice\n  in .*more.yaml.*, line 2",
        ),
        ("gain: 1\ngain: 1\n", r"'gain' is given twice\n  in .*, line 2"),
        ("gain: 1\nmasking: &a\n  masking: *a\n", r"a value holds itself\n  in .*, line 2"),
        ("gain: &a [*a]\n", "a value holds itself"),
        (
            "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 8)}]\n" for i in range(6)),
            r"its aliases stand for 12,873 values: write fewer of them\n  in .*more.yaml.*line 5",
        ),
        (
            "masking.ratio: 0.5\nmasking: {name: core/random, ratio: 0.6}\n",
            r"more.yaml: masking.ratio is given twice, under 'masking.ratio' and under 'masking': keep one",
        ),
        ("masking: random\nmasking.name: block\n", "masking.name is given twice"),
        ("data: {x.y: 1, x: {y: 2}}\n", "data.x.y is given twice"),
        pytest.param("[" * 5000, "cannot read", id="deep"),
        ("- 1\n", "not a configuration"),
        (None, "No such file"),
        ("data: [shapes]\n", r"--data takes NAME\[:SOURCE\], got \['shapes'\]"),
        ("data: null\n", "which data"),
        ("masking: {1: 2}\n", r"--masking\.1"),
        ("masking: [core/random]\n", "--masking takes NAME, got"),
        ("masking: 3\n", "--masking takes NAME, got 3"),
        ("masking: {name: [core/random]}\n", "no masking is called"),
    ],
)
def test_files_that_are_no_configuration(toys, tmp_path, text, part):
    file = tmp_path / "more.yaml"
    if text is not None:
        file.write_text(text)

    def read():
        resolved = resolve_system(*sources_of(parse(["mean"], flags=()), file), registry=toys)
        resolved.require()
        require_data(resolved, toys)

    with pytest.raises(UserError, match=part):
        read()


def test_a_system_that_cannot_be_imported_says_what_to_install(config):
    with pytest.raises(UserError, match="pip install nowhere"):
        config(system="gone")


def test_all_spellings_mean_the_same(toys):
    spellings = [
        {"masking": "random", "masking.ratio": 0.5, "data": "shapes:bars"},
        {"masking.ratio": 0.5, "masking.name": "core/random", "data.source": "bars", "data.name": "shapes"},
        {"masking": {"name": "random", "ratio": 0.5}, "data": {"name": "toy/shapes", "source": "bars"}},
    ]
    found = [RunConfig.resolve({"system": "mean", **s}, registry=toys) for s in spellings]
    for one, other in itertools.pairwise(found):
        assert one == other
    assert found[0].plain()["masking"]["ratio"] == 0.5 and found[0].plain()["data"]["source"] == "bars"


def test_a_configuration_writes_defaults_out_and_leaves_facts_out(toys):
    given = {"system": "mean", "data": "shapes", "masking": "scheduled", "masking.masking.cell": 2}
    config = RunConfig.resolve(given, registry=toys)
    resolved = config.plain()
    assert resolved["tokenizer"] == {"name": "toy/cells", "patch": 1}
    assert resolved["encoder"] == {"name": "toy/net", "dim": 4, "act": "relu", "depths": [1, 1]}
    assert resolved["target"] == {"name": "toy/raw", "scale": 2.0}
    inner = resolved["masking"]["masking"]
    assert inner == {"name": "core/random", "ratio": 0.75, "cell": 2, "rounding": "nearest"}
    assert resolved["gain"] == 1.0 and resolved["score"] is None and resolved["batch_size"] == 256
    assert resolved["data"]["n"] == 32 and resolved["data"]["size"] == [4, 4]
    assert RunConfig.resolve(resolved, registry=toys).plain() == resolved
    assert config.system.build({"size": (4, 4)}).encoder.proj.in_features == 1


RANGES = table(
    Option("count", Count, 1),
    Option("limit", Count | None, None),
    Option("share", Share, 0.5),
    Option("positive", Positive, 1.0),
    Option("least", NotNegative, 0.0),
)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("count", "0", "--count takes int 1 or more, got '0'"),
        ("count", "-3", "--count takes int 1 or more, got '-3'"),
        ("count", "1.5", "--count takes int, got '1.5'"),
        ("count", "100000000000000000000", r"--count takes int 1e\+12 or less, got '1000"),
        ("limit", "0", r"--limit takes int \| null 1 or more, got '0'"),
        ("share", "1.5", "--share takes float 0 to 1, got '1.5'"),
        ("share", ".nan", "--share takes float 0 to 1, got '.nan'"),
        ("positive", "0", "--positive takes float above 0, got '0'"),
        ("positive", ".inf", "--positive takes float above 0, got '.inf'"),
        ("least", "-0.1", "--least takes float 0 or more, got '-0.1'"),
        ("count", "true", "--count takes int, got 'true'"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_rule(name, text, said):
    given = Source("command line", {name: text}, text=True)
    resolved = resolve_part(None, given, registry=Registry(entries=[]), extra=RANGES, name="ranges")
    with pytest.raises(UserError, match=said):
        resolved.require()


def test_numbers_in_range_are_taken():
    given = {"count": 1, "limit": None, "share": 1.0, "positive": 1e-9, "least": 0}
    found = resolve_part(None, Source("x", given), registry=Registry(entries=[]), extra=RANGES, name="r")
    assert found.require().options == given


def test_ranges_hold_in_python_too():
    given = Source("arguments", {"count": 0})
    resolved = resolve_part(None, given, registry=Registry(entries=[]), extra=RANGES, name="ranges")
    with pytest.raises(UserError, match="^--count takes int 1 or more, got 0$"):
        resolved.require()


def test_training_options_keep_their_messages(config):
    with pytest.raises(UserError, match="^steps=0: give a number 1 or more$"):
        TrainOptions(steps=0)
    with pytest.raises(UserError, match="^--steps takes int | null, got '1.5'"):
        config("--steps", "1.5")
    assert TRAINING["betas"].type_name == "tuple[float, float]"


@pytest.mark.parametrize(
    ("hint", "value", "text", "found"),
    [
        (tuple[int, ...], [1, 2], False, (1, 2)),
        (int | tuple[int, ...], "[3, 5]", True, (3, 5)),
        (float, 2, False, 2.0),
        (str, "1e3", True, "1e3"),
        (str, Path("a/b"), False, "a/b"),
        (str | None, "null", True, None),
        (Literal["32", "16"], "32", True, "32"),
        (int | str, "2", True, 2),
        (Fact[tuple[int, int]], [4, 4], False, (4, 4)),
        (dict[str, Any], "{a: [1]}", True, {"a": [1]}),
        (Any, "1", True, 1),
        (bool, "true", True, True),
    ],
)
def test_a_value_as_its_type_has_it(hint, value, text, found):
    converted = convert(hint, value, text)
    assert converted == found and type(converted) is type(found)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, True),
        (float, "true"),
        (dict[str, int], "{a: 1, a: 2}"),
        (list[Any], "&a [*a]"),
        (int, "x"),
        (tuple[int, int], [1]),
    ],
)
def test_a_value_of_another_type_is_refused(hint, value):
    with pytest.raises(ValueError):  # noqa: PT011  the rule is empty: the type says it all
        convert(hint, value, text=isinstance(value, str))


def test_a_leading_zero_is_no_octal_and_a_colon_no_minute():
    assert convert(int, "010", text=True) == 10
    with pytest.raises(ValueError, match="^$"):
        convert(int, "1:30", text=True)
    assert convert(str, "1:30", text=True) == "1:30"
