"""The suite itself: which checks a part gets, how they end, and what it is told under pytest."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from polymask import Mask, Part, Registry, Request, UserError, hookimpl
from polymask.parts import KINDS
from polymask.testing import CHECKS, check_part, checks_for, parametrize_parts
from polymask.testing.subject import StandIn, Subject, seeded
from polymask.testing.suite import Check, Skip, confirm_names
from polymask.types import Fact

# ------------------------------------------------------------------ declarations


class Good:
    """Hides sites at random.

    Args:
        ratio: share of sites to hide.
    """

    def __init__(self, *, ratio: float = 0.75) -> None:
        self.ratio = ratio

    def __call__(self, request: Request) -> Mask:
        count = round(request.sites * self.ratio)
        return Mask(request.step.noise(request.ids, request.sites).argsort(1).argsort(1) < count)


class Positional:
    """Takes options in order.

    Args:
        ratio: share.
    """

    def __init__(self, ratio: float = 0.5) -> None:
        self.ratio = ratio


class Catchall:
    """Takes anything.

    Args:
        options: whatever.
    """

    def __init__(self, **options: Any) -> None:
        pass


class Undocumented:
    def __init__(self, *, ratio: float = 0.5) -> None:
        self.ratio = ratio


class HalfDocumented:
    """Has two options, one of which is here: ratio.

    Args:
        ratio: share.
    """

    def __init__(self, *, ratio: float = 0.5, cell: int = 1) -> None:
        self.ratio, self.cell = ratio, cell


TINY = {"tiny": {"ratio": 0.5}}
STALE = {"presets": {"small": {"rate": 0.5}}}


class NeedsMore(Good):
    def __init__(self, *, ratio: float) -> None:
        super().__init__(ratio=ratio)


class Wraps:
    """Another masking.

    Args:
        masking: which.
    """

    def __init__(self, *, masking: Any) -> None:
        self.masking = masking


def function() -> None:
    """Not a class."""


Plugins = Callable[..., Registry]


def declare(*parts: Part, name: str = "acme", kind: str = "maskings") -> Registry:
    registry = Registry(environ={}, entries=[])
    hook = f"polymask_register_{kind}"
    record = registry.add(
        name, SimpleNamespace(__name__=name, **{hook: hookimpl(lambda: parts, specname=hook)})
    )
    assert record.status == "ok", record.error
    return registry


def part(cls: Any, name: str = "thing", **fields: Any) -> Part:
    return Part(name=name, target=f"{__name__}:{cls.__name__}", summary="for a test", **fields)


def outcome(check: str, declared: Part) -> tuple[str, str]:
    (result,) = check_part("acme/thing", registry=declare(declared, part(Good, "good")), only=[check])
    return result.outcome, result.message


BAD: list[tuple[str, Any, dict[str, Any], str]] = [
    ("check_part_imports", function, {}, "not a class"),
    ("check_part_options_are_named", Positional, {}, "option 'ratio' is positional or keyword"),
    ("check_part_options_are_named", Catchall, {}, "option 'options' is variadic keyword"),
    ("check_part_documents_its_options", Undocumented, {}, "has no docstring"),
    ("check_part_documents_its_options", HalfDocumented, {}, "leave out cell"),
    ("check_part_presets_name_options", Good, STALE, "preset 'small': acme/thing has no option --rate"),
    (
        "check_part_presets_name_options",
        Good,
        {"defaults": {"rate": 1}},
        "defaults: acme/thing has no option --rate (from the defaults of acme/thing)\ndid you mean --ratio?",
    ),
    (
        "check_part_presets_name_options",
        Good,
        {"presets": {"a": {"rate": 1}}},
        "preset 'a': acme/thing has no option --rate (from the preset 'a')\ndid you mean --ratio?",
    ),
    (
        "check_part_presets_name_options",
        Wraps,
        {"defaults": {"masking": "acme/gone"}},
        "no masking is called",
    ),
    (
        "check_part_presets_name_options",
        Wraps,
        {"defaults": {"masking": "acme/good", "masking.rate": 1}},
        "defaults: acme/good, the masking, has no option --masking.rate (from the defaults of acme/thing)",
    ),
    (
        "check_part_presets_name_options",
        Wraps,
        {"defaults": {"masking": "acme/good"}, "presets": {"a": {"masking.ratio": "half"}}},
        "preset 'a': --masking.ratio takes float, got 'half'",
    ),
    (
        "check_part_presets_name_options",
        Wraps,
        {"defaults": {"masking": "acme/thing"}},
        "acme/thing holds itself without end: --masking.masking",
    ),
    (
        "check_part_presets_name_options",
        Wraps,
        {"defaults": {"masking.ratio": 1}},
        "defaults: which masking? give --masking NAME beside --masking.ratio",
    ),
    (
        "check_part_presets_name_options",
        Wraps,
        {"presets": {"a": {"masking.ratio": 1}}},
        "preset 'a': which masking? give --masking NAME beside --masking.ratio",
    ),
    ("check_part_tags_are_known", Good, {"tags": {"shared", "unifrom"}}, "unknown tags unifrom"),
    ("check_part_builds", NeedsMore, {}, "missing 1 required keyword-only argument: 'ratio'"),
]


@pytest.mark.parametrize(("check", "bad", "fields", "message"), BAD)
def test_a_check_catches(check: str, bad: Any, fields: dict[str, Any], message: str) -> None:
    ended, found = outcome(check, part(bad, **fields))
    assert ended == "failed"
    assert message in found


def test_every_check_of_declarations_is_tried() -> None:
    assert {c.name for c in CHECKS if c.name.startswith("check_part_")} == {check for check, *_ in BAD}


@pytest.mark.parametrize("check", sorted({check for check, *_ in BAD}))
def test_a_good_declaration_passes(check: str) -> None:
    assert outcome(check, part(Good)) == ("passed", "")


# ------------------------------------------------------------------------ checks


def test_names_say_the_kind_and_documentation_the_property() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for check in CHECKS:
        stem = "part" if len(check.kinds) > 1 else check.kinds[0].removesuffix("s")
        assert check.name.startswith(f"check_{stem}_")
        assert check.summary.endswith(".") or check.summary.endswith("``")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_checks_of_its_own(kind: str) -> None:
    assert [check for check in CHECKS if check.kinds == (kind,)]


def test_tags_choose_checks() -> None:
    plain, scored = (
        Part(name="a", target="a:A", summary="a", kind="maskings", tags=t) for t in ((), {"score"})
    )
    more = {c.name for c in checks_for(scored)} - {c.name for c in checks_for(plain)}
    assert more == {"check_masking_follows_the_score", "check_masking_asks_for_its_score"}


def run(body: Callable[[Subject], None], *tags: str, **conditions: Any) -> Any:
    made = part(Good, tags=tags)
    registry = declare(made)
    check = Check(body, ("maskings",), **conditions)
    CHECKS.append(check)
    try:
        return check_part("acme/thing", registry=registry, only=[check.name])[0]
    finally:
        CHECKS.remove(check)


def test_whatever_a_part_raises_is_a_finding() -> None:
    def check_masking_exits(subject: Subject) -> None:
        raise SystemExit("stopped by the part")

    result = run(check_masking_exits)
    assert (result.outcome, result.ok) == ("failed", False)
    assert result.message.startswith("SystemExit: stopped by the part (")


class Stumbles(Good):
    """Raises inside of torch."""

    def __call__(self, request: Request) -> Mask:
        return torch.nn.functional.embedding(request.ids, "not a tensor")  # type: ignore[arg-type, return-value]


def test_an_error_says_where_in_the_part_it_was_raised() -> None:
    ended, said = outcome("check_masking_shape", part(Stumbles))
    line = inspect.getsourcelines(Stumbles.__call__)[1] + 1
    assert ended == "failed" and said.endswith(f" ({__file__}:{line})")


def test_a_skip_has_a_reason() -> None:
    def check_masking_skips(subject: Subject) -> None:
        raise Skip("nothing to see")

    result = run(check_masking_skips)
    assert (result.outcome, result.message, result.ok) == ("skipped", "nothing to see", True)


def test_a_check_leaves_global_generators_and_starts_from_the_same() -> None:
    drawn = []

    def check_masking_draws(subject: Subject) -> None:
        drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))

    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    run(check_masking_draws)
    random.random(), np.random.rand(), torch.rand(())
    run(check_masking_draws)
    random.setstate(before[0])
    assert drawn[0] == drawn[1]
    torch.set_rng_state(before[2])


def test_seeded_puts_generators_back_after_an_error() -> None:
    before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()
    with pytest.raises(KeyError), seeded(3):
        raise KeyError
    assert random.getstate() == before[0]
    assert repr(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


# ---------------------------------------------------------------------- subjects


def test_a_part_is_built_at_its_preset_tiny_under_the_given_options() -> None:
    made = part(Good, presets=TINY)
    registry = declare(made)
    declared = registry.parts("maskings")[0]
    assert Subject(declared, registry).make().ratio == 0.5
    assert Subject(declared, registry, {"ratio": 0.25}).make().ratio == 0.25
    assert Subject(declared, registry, {"ratio": 0.25}).make(ratio=0.9).ratio == 0.9


def test_parts_in_slots_are_tiny_too_unless_told_otherwise() -> None:
    inner, outer = part(Good, "inner", presets=TINY), part(Wraps, "outer", defaults={"masking": "acme/inner"})
    registry = declare(inner, outer)
    made = Subject(registry.find("maskings", "outer"), registry)
    assert made.make().masking.ratio == 0.5
    assert made.make(**{"masking.ratio": 0.1}).masking.ratio == 0.1


def test_weights_come_from_the_seed() -> None:
    made = part(Weighted)
    registry = declare(made, kind="encoders")
    subject = Subject(registry.parts("encoders")[0], registry)
    one, same, other = (subject.make(seed).weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


class Weighted(nn.Linear):
    """A matrix.

    Args:
        in_dim: from the tokenizer.
    """

    def __init__(self, *, in_dim: Fact[int]) -> None:
        super().__init__(in_dim, 3)


class Smells(StandIn):
    """Tokens of another modality, 5 numbers each."""

    key = "smell"

    def __init__(self) -> None:
        super().__init__(grid=(7,), in_dim=5)


def test_input_comes_from_a_tokenizer_of_the_modality() -> None:
    registry = declare(part(Smells, modality="smell"), kind="tokenizers")
    hook = "polymask_register_encoders"
    parts = [part(Weighted, name, modality=name) for name in ("smell", "any", "touch")]
    registry.add("b", SimpleNamespace(__name__="b", **{hook: hookimpl(lambda: parts, specname=hook)}))
    widths = {p.name: Subject(p, registry).make().in_features for p in registry.parts("encoders")}
    assert widths == {"smell": 5, "any": 12, "touch": 12}
    named = Subject(registry.find("encoders", "any"), registry, tokenizer="acme/thing")
    assert named.tokens(2).values.shape == (2, 7, 5)


# ------------------------------------------------------------------------ results


def test_expected_failures_are_strict() -> None:
    registry = declare(part(Undocumented))
    checks = ["check_part_documents_its_options", "check_part_imports"]
    known = dict.fromkeys(checks, "known since May")
    results = check_part("thing", registry=registry, only=checks, expected_failures=known)
    assert [(r.outcome, r.ok) for r in results] == [("failed", False), ("expected", True)]
    assert results[0].message == "expected to fail (known since May), but it passed"
    assert results[1].message == "known since May"


@pytest.mark.parametrize("argument", ["only", "expected_failures"])
def test_a_check_the_part_does_not_get_is_an_error(argument: str) -> None:
    with pytest.raises(
        UserError, match="acme/thing gets no check called 'check_target_shape'; it gets check_part"
    ):
        check_part("thing", registry=declare(part(Good)), **{argument: {"check_target_shape": ""}})


def test_an_unknown_part_is_an_error() -> None:
    with pytest.raises(UserError, match="did you mean acme/thing"):
        check_part("acme/thong", registry=declare(part(Good)))


def test_a_class_needs_a_kind() -> None:
    with pytest.raises(UserError, match="what kind of part is Good"):
        check_part(Good)


# ------------------------------------------------------------------- under pytest


def cases(mark: Any) -> dict[str, Any]:
    return {case.id: case for case in mark.args[1]}


def test_parametrize_makes_a_test_per_part_and_check() -> None:
    registry = declare(part(Good, "a"), part(Good, "b"))
    made = cases(parametrize_parts(registry=registry))
    assert set(made) == {
        f"acme/{n}-{c.name}" for n in "ab" for c in checks_for(registry.parts("maskings")[0])
    }
    made["acme/a-check_part_imports"].values[0]()
    with pytest.raises(AssertionError, match="Mask.visible is None"):
        made["acme/b-check_masking_hides_as_much_in_every_sample"].values[0]()
    with pytest.raises(pytest.skip.Exception, match="goes by no score"):
        made["acme/a-check_masking_stops_gradient"].values[0]()


def test_parametrize_narrows_down() -> None:
    registry = declare(part(Good))
    hook = "polymask_register_targets"
    targets = [part(Good)]
    registry.add("b", SimpleNamespace(__name__="b", **{hook: hookimpl(lambda: targets, specname=hook)}))
    assert {i.split("-")[0] for i in cases(parametrize_parts(registry=registry, plugin="b"))} == {"b/thing"}
    assert {i.split("-")[0] for i in cases(parametrize_parts(registry=registry, kind="maskings"))} == {
        "acme/thing"
    }


def test_parametrize_marks_expected_failures_strictly() -> None:
    known = {"acme/thing": {"check_part_imports": "moved to another house"}}
    case = cases(parametrize_parts(registry=declare(part(Good)), expected_failures=known))[
        "acme/thing-check_part_imports"
    ]
    (mark,) = case.marks
    assert (mark.name, mark.kwargs) == ("xfail", {"strict": True, "reason": "moved to another house"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plugin": "nobody"}, "no working plugin 'nobody': it is not installed"),
        ({"kind": "masking"}, "no kind of part called 'masking'"),
        ({"kind": "targets"}, "there is no part to check: kind='targets'"),
        ({"expected_failures": {"acme/gone": {}}}, "not checked here: acme/gone"),
        ({"expected_failures": {"acme/thing": {"check_x": ""}}}, "gets no check called 'check_x'"),
    ],
)
def test_parametrize_refuses_what_would_test_nothing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parametrize_parts(registry=declare(part(Good)), **arguments)


def test_parametrize_says_why_a_plugin_is_broken() -> None:
    registry = Registry(environ={}, entries=[])
    registry.add("sad", SimpleNamespace(__name__="sad", POLYMASK_API="99"))
    with pytest.raises(
        UserError, match="no working plugin 'sad'.*broken: ImportError: written for plugin API 99"
    ):
        parametrize_parts(registry=registry, plugin="sad")


@pytest.mark.slow
def test_the_suite_needs_no_pytest() -> None:
    script = "import sys; sys.modules['pytest'] = None; import polymask.testing as t; print(len(t.CHECKS))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(CHECKS)


def names(checks: Iterable[Check]) -> list[str]:
    return [check.name for check in checks]


def test_confirm_names_accepts_what_exists() -> None:
    made = declare(part(Good)).parts("maskings")[0]
    confirm_names(names(checks_for(made)), checks_for(made), made)


def test_a_part_made_of_parts_of_an_absent_plugin_of_ours_is_skipped() -> None:
    registry = Registry(environ={}, entries=[])
    part = Part(
        name="both",
        target="polymask.maskings:Scheduled",
        summary="x",
        defaults={"masking": "language/words", "option": "vision/no-slot"},
    ).of("core", "maskings")
    (result,) = check_part(part, registry=registry, only=["check_masking_shape"])
    assert (result.outcome, result.message) == ("skipped", "is made of parts of language, which is not here")
