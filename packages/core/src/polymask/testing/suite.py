"""What a check is, which ones a part gets, and how they are run."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from polymask.errors import UserError
from polymask.parts import KINDS, Part
from polymask.plugins.registry import Registry, default_registry
from polymask.testing.subject import Subject, seeded

Outcome = Literal["passed", "failed", "skipped", "expected"]
Body = Callable[[Subject], None]


class CheckFailed(AssertionError):
    """A part does not have the property that a check is about."""


class Skip(Exception):
    """A check has nothing to say about a part; carries the reason."""


def require(condition: object, message: str) -> None:
    """Fail the running check unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


@dataclass(frozen=True)
class Check:
    """One property, and the parts it is asked of.

    Args:
        body: raises :class:`CheckFailed` where a part lacks the property.
        kinds: kinds of parts it is about.
        when: asked only of parts with this tag; the empty string asks it of all.
        unless: tags that declare the property absent on purpose.
    """

    body: Body
    kinds: tuple[str, ...]
    when: str = ""
    unless: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the function, ``check_<kind>_<property>``."""
        return self.body.__name__

    @property
    def summary(self) -> str:
        """First line of its documentation: the property, as a sentence."""
        return (self.body.__doc__ or "").strip().partition("\n")[0]

    def concerns(self, part: Part) -> bool:
        """Whether it is asked of a part at all."""
        return part.kind in self.kinds and (not self.when or self.when in part.tags)

    def run(self, subject: Subject) -> None:
        """Raise what the part does wrong; leave global random generators as they were.

        Raises:
            CheckFailed: the property is absent.
            Skip: there is nothing to ask.
        """
        if absent := subject.absent:
            raise Skip(f"is made of parts of {absent}, which is not here")
        excuses = [tag for tag in self.unless if tag in subject.part.tags]
        if excuses:
            raise Skip(f"tagged {excuses[0]!r}")
        with seeded(0):
            self.body(subject)


CHECKS: list[Check] = []
"""Every check, in the order they run."""


def check(*kinds: str, when: str = "", unless: Iterable[str] = ()) -> Callable[[Body], Body]:
    """Enlist a function as a check of parts of these kinds; arguments as :class:`Check`."""

    def enlist(body: Body) -> Body:
        CHECKS.append(Check(body, kinds or KINDS, when, tuple(unless)))
        return body

    return enlist


@dataclass(frozen=True)
class CheckResult:
    """How one check of one part ended.

    Attributes:
        part: full name of the part.
        check: name of the check.
        outcome: ``"passed"``, ``"failed"``, ``"skipped"`` or ``"expected"`` (a known failure).
        message: what was found, or why it was skipped or expected; empty when passed.
        summary: the property, as a sentence.
    """

    part: str
    check: str
    outcome: Outcome
    message: str = ""
    summary: str = ""

    @property
    def ok(self) -> bool:
        """Whether the part may stay as it is."""
        return self.outcome != "failed"


def checks_for(part: Part) -> list[Check]:
    """The checks that a part of this kind and these tags gets."""
    return [check for check in CHECKS if check.concerns(part)]


def check_part(
    part: str | Part | type,
    *,
    kind: str | None = None,
    tags: Iterable[str] = (),
    registry: Registry | None = None,
    tokenizer: str | None = None,
    options: Mapping[str, Any] | None = None,
    only: Iterable[str] = (),
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Run every check that concerns a part.

    Args:
        part: name of the part, its declaration as a registry gives it, or a class that no plugin
            declares yet (then with ``kind`` and ``tags``).
        kind: kind of the part, for a class and where parts of several kinds have the name.
        tags: tags of a class.
        registry: where to look names up; the installed plugins by default.
        tokenizer: name of the tokenizer to make inputs with; by default one of the part's
            modality, and a stand-in where there is none.
        options: constructor options of the part, over its preset ``"tiny"``.
        only: names of the checks to run; all by default.
        expected_failures: reasons by name of the checks that are known to fail. One that passes
            all the same is reported as failed, so that the list stays true.

    Raises:
        UserError: unknown part, or a check that the part does not get.
    """
    registry = registry or default_registry()
    if isinstance(part, type):
        found = _declare(part, kind, tags)
    else:
        found = registry.locate(part, kind) if isinstance(part, str) else part
    known, only, checks = expected_failures or {}, [*only], checks_for(found)
    confirm_names([*known, *only], checks, found)
    subject = Subject(found, registry, options, tokenizer)
    return [_result(each, subject, known.get(each.name)) for each in checks if not only or each.name in only]


def _declare(cls: type, kind: str | None, tags: Iterable[str]) -> Part:
    if kind not in KINDS:
        raise UserError(
            f"what kind of part is {cls.__name__}? kind={kind!r}; the kinds are {', '.join(KINDS)}"
        )
    target = f"{cls.__module__}:{cls.__name__}"
    name = re.sub(r"[^a-z0-9]+", "-", cls.__name__.lower()).strip("-")
    return Part(name=name, target=target, summary=name, tags=frozenset(tags), plugin="class", kind=kind)


def confirm_names(known: Iterable[str], checks: list[Check], part: Part) -> None:
    """Raise a UserError where a name is not one of the checks of a part."""
    names = [check.name for check in checks]
    for name in known:
        if name not in names:
            raise UserError(f"{part.full_name} gets no check called {name!r}; it gets {', '.join(names)}")


def _result(check: Check, subject: Subject, reason: str | None) -> CheckResult:
    outcome, message = _outcome(check, subject)
    if reason is not None:
        expected = outcome == "failed"
        message = reason if expected else f"expected to fail ({reason}), but it {outcome}"
        outcome = "expected" if expected else "failed"
    return CheckResult(subject.part.full_name, check.name, outcome, message, check.summary)


def _outcome(check: Check, subject: Subject) -> tuple[Outcome, str]:
    try:
        check.run(subject)
    except Skip as skip:
        return "skipped", str(skip)
    except CheckFailed as failure:
        return "failed", str(failure)
    except KeyboardInterrupt:
        raise
    # Whatever a stranger's part raises is a finding about it, not the end of the suite.
    except BaseException as error:
        return "failed", f"{type(error).__name__}: {error}{_place(error, subject.part)}"
    return "passed", ""


def _place(error: BaseException, part: Part) -> str:
    """File and line of the error, in the package of the part if that is where it came through."""
    package = part.target.partition(":")[0].partition(".")[0]
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [each for each in frames if each[0].f_globals.get("__name__", "").partition(".")[0] == package]
    frame, line = (own or frames)[-1]
    return f" ({frame.f_code.co_filename}:{line})"
