from __future__ import annotations

import pytest

from polymask.cli.parse import parse
from polymask.errors import UserError


@pytest.mark.parametrize(
    ("argv", "words", "values", "flags"),
    [
        (["mae", "--a", "1", "--b=2"], ["mae"], {"a": "1", "b": "2"}, set()),
        (["--a", "-1", "--b=", "--c=x=y"], [], {"a": "-1", "b": "", "c": "x=y"}, set()),
        (["--a", "--b", "1"], [], {"b": "1"}, {"a"}),
        (["--json", "mae", "--a"], ["mae"], {}, {"json", "a"}),
        (["--a", "1", "--a", "2"], [], {"a": "2"}, set()),
        (["-o", "x.png", "-h"], [], {"out": "x.png"}, {"help"}),
        (["--a", "-o", "x.png"], [], {"out": "x.png"}, {"a"}),
        (["--a.b.c", "[1, 2]"], [], {"a.b.c": "[1, 2]"}, set()),
    ],
)
def test_words_values_and_flags(argv, words, values, flags):
    command = parse(argv, flags=("json",), short={"-o": "out"})
    assert (command.words, command.values, command.flags) == (words, values, flags)


def test_take_and_flag_remove_what_they_return():
    command = parse(["--a", "1", "--b"], flags=())
    assert command.take("a") == "1" and command.take("a") is None
    assert command.flag("b") is True and command.flag("b") is False


def test_an_option_that_lacks_its_value_and_a_flag_that_got_one():
    command = parse(["--json=1", "--out"], flags=("json",))
    with pytest.raises(UserError, match="--out needs a value"):
        command.take("out")
    with pytest.raises(UserError, match="--json takes no value"):
        command.flag("json")
