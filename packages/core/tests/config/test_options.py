"""Options are read from source, or by inspection where there is none; both say the same."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from polymask import Part, UserError, default_registry
from polymask.config.options import UNSET, _static, description_of, inspect_options, options_of, type_name
from polymask.config.source import module_of
from polymask.parts import KINDS
from polymask.types import Count, Fact

if TYPE_CHECKING:
    from nowhere import Unknown


class Thing:
    """Does one thing.

    And does it
    well, with ``care``.

        polymask pretrain thing

    Not said.

    Args:
        a: the first,
            over two lines.
        b: with ``ticks`` and 50 %.
    """

    def __init__(
        self, *, a: int, b: Literal["x", "y"] = "x", c: Unknown = None, d=4, **more: Any
    ) -> None: ...


def test_options_of_a_class():
    options = inspect_options(Thing)
    assert list(options) == ["a", "b", "c", "d"]
    assert (options["a"].type, options["a"].default, options["a"].help) == (
        int,
        UNSET,
        "the first, over two lines.",
    )
    assert (options["b"].type_name, options["b"].default, options["b"].help) == (
        "x | y",
        "x",
        "with ticks and 50 %.",
    )


def test_one_annotation_for_type_checkers_does_not_lose_the_others():
    options = inspect_options(Thing)
    assert options["c"].type is Any and options["a"].type is int


def test_options_of_a_function():
    def function(one: float = 0.5) -> Unknown:
        """Sums up.

        Args:
            one: a number.
        """

    option = inspect_options(function)["one"]
    assert (option.type, option.default, option.help) == (float, 0.5, "a number.")


def short():
    """Short.

    Returns:
        nothing.
    """


def test_types_of_a_function_under_a_decorator_of_another_module():
    def generate(*, steps: Count = 3) -> None: ...

    found = inspect_options(torch.no_grad()(generate))["steps"]
    assert (found.type_name, found.default) == ("int", 3)


def test_description_ends_with_the_command_or_the_sections():
    said = "Does one thing.\n\nAnd does it well, with care.\n\n    polymask pretrain thing"
    assert described("Thing") == said
    assert described("short") == "Short."


def described(name):
    return description_of(
        Part(name="thing", target=f"{__name__}:{name}", summary="a thing", kind="maskings", plugin="t")
    )


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (int, "int"),
        (int | None, "int | null"),
        (Literal["a", "b"], "a | b"),
        (tuple[int, ...], "tuple[int, ...]"),
        (int | tuple[int, int], "int | tuple[int, int]"),
        (Any, "Any"),
        (Callable[..., int], "Callable[..., int]"),
        (Count, "int"),
        (Fact[Count | None], "int | null"),
    ],
)
def test_types_as_people_write_them(hint, name):
    assert type_name(hint) == name


MODULES = {
    "__init__": "raise RuntimeError('the package was imported')\n",
    "names": """
from typing import Any, Literal
Mode = Literal["slow", "fast"]
Sizes = tuple[int, ...]
DEPTH = 2 * 3
MODES = {"a": (1, -2)}
""",
    "base": """
from __future__ import annotations
import torch
from .names import DEPTH as LEVELS, Mode
from . import names
import polymask.types as kinds

raise RuntimeError("the module was imported")

class Base(torch.nn.Module):
    \"\"\"A base.

    Args:
        depth: how deep,
            in levels.
        mode: how fast.
    \"\"\"

    def __init__(self, *, depth: int = LEVELS, mode: Mode = "slow") -> None:
        super().__init__()
""",
    "parts": """
from __future__ import annotations
from typing import TYPE_CHECKING, Any, Literal
import os
import torch
from polymask.types import Count, Fact
from .base import Base
from .base import LEVELS as ALIAS
from .names import MODES, Sizes

if TYPE_CHECKING:
    from pathlib import Path
    from nowhere import Unknown
    from .names import Mode as M

RATE: float = 1e-3
raise RuntimeError("the module was imported")

class Child(Base):
    \"\"\"A child.\"\"\"

class Own(Base):
    \"\"\"Its own.

    Args:
        mode: the class says it.
    \"\"\"

    def __init__(
        self,
        *,
        mode: M = "fast",
        sizes: Sizes = (1, 2),
        depth: int | None = ALIAS,
        rate: float = RATE,
        lowest: float = -RATE / 2,
        table: dict[str, Any] = MODES,
        in_dim: Fact[int],
        count: Count = 3,
        where: Path | None = None,
        unknown: Unknown = None,
        threads: int = os.cpu_count(),
        length: int = len("abc"),
        dtype: torch.dtype = torch.float32,
        act: Literal["a", "b"] = "a",
        bare=1,
        masking: Any = None,
        **more: int,
    ) -> None:
        \"\"\"Builds it.

        Args:
            count: how many.
        \"\"\"

class Silent(Unfound):
    pass

def function(stage, /, *, rounds: Count = 2): ...

def reader(*, source: str): ...

class Prepares:
    def __init__(self, found, *, source: int = 1): ...
""",
}


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """``part("Own")`` names a class of a package whose import fails."""
    folder = tmp_path_factory.mktemp("source")
    package = folder / "polymask_source_only"
    package.mkdir()
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    yield lambda name, **more: Part(
        name="x", target=f"polymask_source_only.parts:{name}", summary="x", plugin="t", **more
    )
    sys.path.remove(str(folder))


def test_nothing_is_imported(part):
    assert list(options_of(part("Own")))[:2] == ["mode", "sizes"]
    assert description_of(part("Own", kind="maskings")) == "Its own."
    assert not [name for name in sys.modules if name.startswith("polymask_source_only")]


def test_a_constructor_that_is_inherited(part):
    options = options_of(part("Child"))
    assert list(options) == ["depth", "mode"]
    assert (options["depth"].type, options["depth"].default) == (int, 6)
    assert options["mode"].type_name == "slow | fast"
    assert options_of(part("Silent")) == {}


@pytest.mark.parametrize(
    ("name", "type_name", "default"),
    [
        ("mode", "slow | fast", "fast"),  # an alias under TYPE_CHECKING, of an alias
        ("sizes", "tuple[int, ...]", (1, 2)),
        ("depth", "int | null", 6),  # a constant of another module, by another name, through a third
        ("rate", "float", 1e-3),
        ("lowest", "float", -5e-4),
        ("table", "dict[str, Any]", {"a": (1, -2)}),
        ("in_dim", "int", UNSET),
        ("count", "int", 3),
        ("where", "Path | null", None),
        ("unknown", "Any", None),
        ("threads", "int", UNSET),  # what only the module knows
        ("length", "int", UNSET),  # nothing is called
        ("dtype", "Any", UNSET),
        ("act", "a | b", "a"),
        ("bare", "Any", 1),
        ("masking", "Any", None),
    ],
)
def test_types_and_defaults_are_followed(part, name, type_name, default):
    option = options_of(part("Own"))[name]
    assert (option.type_name, option.default) == (type_name, default)


def test_what_an_option_is(part):
    options = options_of(part("Own"))
    assert "more" not in options and "self" not in options
    assert options["in_dim"].fact and not options["count"].fact
    assert options["masking"].slot == "maskings" and options["mode"].slot is None
    assert options["count"].help == "how many." and options["mode"].help == "the class says it."
    assert options_of(part("Child"))["depth"].help == ""
    assert options["where"].type == Path | None
    assert [*options_of(part("function", kind="recipes"))] == ["rounds"]  # its stage is no option


def test_what_is_defined_nowhere_is_imported_and_said(part):
    with pytest.raises(
        UserError, match=r"t/x cannot be imported from .*parts:Nowhere.* was imported; get it"
    ):
        options_of(part("Nowhere", needs="get it"))
    gone = Part(name="x", target="polymask_nowhere.at:All", summary="x", plugin="t")
    with pytest.raises(UserError, match="t/x cannot be imported from polymask_nowhere.at:All"):
        options_of(gone)


STRANGE = {
    "number": ("Thing = 7", "is 7, whose options cannot be read: TypeError"),
    "syntax": ("def (:", "SyntaxError"),
    "not-utf8": (b"Thing = '\xff'\n", "SyntaxError"),
    "exits": ("import sys\nThing = sys.exit(0)", "SystemExit: 0"),
    "ends-otherwise": ("class Stop(BaseException): pass\nraise Stop('enough')", "Stop: enough"),
    "imports-itself": ("from polymask_strange import Thing", "ImportError"),
    "signature": (
        "class Meta(type):\n    @property\n    def __signature__(cls): raise KeyError('no')\n"
        "Thing = Meta('Thing', (), {})",
        "whose options cannot be read: KeyError: 'no'",
    ),
    "annotation": ("class Thing:\n    def __init__(self, *, a: 'int |' = [1][7 if 0 else 0]): ...", ""),
    "name-of-its-base": ("from polymask.maskings import Random as Thing\nclass Thing(Thing): ...", ""),
}


@pytest.mark.parametrize("case", STRANGE)
def test_what_cannot_be_read_is_imported_or_refused_by_name(tmp_path, monkeypatch, case):
    text, said = STRANGE[case]
    (tmp_path / "polymask_strange.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "polymask_strange", raising=False)
    module_of.cache_clear(), _static.cache_clear()
    part = Part(name="x", target="polymask_strange:Thing", summary="x", plugin="t", kind="maskings")
    if said:
        with pytest.raises(UserError, match=f"^t/x.*{re.escape(said)}"):
            options_of(part)
    else:
        assert options_of(part)
        assert isinstance(description_of(part), str)


def test_two_options_of_one_name_are_refused(part):
    both = part("reader", kind="datasets", prepare="polymask_source_only.parts:Prepares")
    with pytest.raises(UserError, match="both have an option 'source'; rename one"):
        options_of(both)


def test_classes_made_by_hand_are_inspected(monkeypatch):
    class Made:
        def __init__(self, *, n: Count = 2, dims: Sequence[int] = (1,)) -> None: ...

    monkeypatch.setitem(globals(), "Made", Made)
    options = options_of(Part(name="x", target=f"{__name__}:Made", summary="x"))
    assert (options["n"].type, options["n"].default) == (Count, 2)
    assert options["dims"].type_name == "Sequence[int]"


@pytest.mark.parametrize("kind", KINDS)
def test_reading_and_inspecting_agree(kind):
    """For every installed part: names, types and whatever defaults can be read."""
    for part in default_registry().parts(kind):
        if part.plugin != "core" or part.prepare:
            continue
        real = inspect_options(part.load())
        for name, option in options_of(part).items():
            assert option.slot or option.type == real[name].type, f"{part.full_name} {name}"
            assert option.default in (UNSET, real[name].default), f"{part.full_name} {name}"
        assert [name for name in real if name != "stage"] == list(options_of(part)), part.full_name


def test_options_of_core_need_no_torch():
    code = (
        "import sys; from polymask import default_registry as r; from polymask.config import options_of as o;"
        "from polymask.parts import KINDS;"
        "parts = [p for k in KINDS for p in r().parts(k) if p.plugin == 'core']; assert len(parts) > 15;"
        "[o(p) for p in parts]; assert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
