"""Numbers that change over a run go from one value to another within their window."""

from __future__ import annotations

from typing import Any

import pytest

from polymask import Step, UserError
from polymask.schedules import CURVES, Schedule


@pytest.mark.parametrize("curve", CURVES)
def test_it_stays_before_its_window_rises_in_it_and_stays_after_it(curve: Any) -> None:
    schedule = Schedule(0.1, 1.0, curve, (0.0625, 0.875))
    found = [schedule(Step(k, 1600)) for k in range(1601)]
    assert all(value == 0.1 for value in found[:101])
    assert all(value == pytest.approx(1.0) for value in found[1400:])
    assert found == sorted(found)
    assert curve == "step" or 0.1 < found[750] < 1.0


def test_values_of_climb() -> None:
    """At 1, 10 and 50 % of the window, from its formulas."""
    at = [Step(round(100 + 1300 * p), 1600) for p in (0.01, 0.1, 0.5)]
    log = [Schedule(0.1, 1.0, "log", (0.0625, 0.875))(step) for step in at]
    linear = [Schedule(0.1, 1.0, "linear", (0.0625, 0.875))(step) for step in at]
    assert log == pytest.approx([0.586, 0.793, 0.938], abs=2e-3)
    assert linear == pytest.approx([0.109, 0.19, 0.55], abs=1e-6)


@pytest.mark.parametrize("options", [{"curve": "round"}, {"window": (0.5, 0.5)}, {"window": (-0.1, 1.0)}])
def test_what_is_no_pace_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="choose one of|two shares"):
        Schedule(0.0, 1.0, **options)
