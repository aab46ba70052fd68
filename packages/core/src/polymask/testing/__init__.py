"""The conformance suite: what every part must do, ours and anybody's.

A check is a small function ``check_<kind>_<property>``; which ones a part gets follows from its
kind and its tags (``TAGS``), and each is documented where it is defined. Three ways to run them::

    polymask check acme/stripes

    from polymask.testing import check_part
    for result in check_part("acme/stripes"):
        print(result.outcome, result.check, result.message)

    from polymask.testing import parametrize_parts

    @parametrize_parts(plugin="acme")
    def test_part(check):
        check()

A part is built at the preset ``"tiny"`` of its declaration where it has one: options with which it builds in
milliseconds. Its input is what a tokenizer of its
modality gives as ``example``.
"""

# Importing these modules enlists their checks; the order is that of the results.
from polymask.testing import (  # isort: skip
    declarations as _declarations,  # noqa: F401
    maskings as _maskings,  # noqa: F401
    objectives as _objectives,  # noqa: F401
    tokenizers as _tokenizers,  # noqa: F401
    encoders as _encoders,  # noqa: F401
    targets as _targets,  # noqa: F401
    systems as _systems,  # noqa: F401
    outputs as _outputs,  # noqa: F401
    generation as _generation,  # noqa: F401
    explanation as _explanation,  # noqa: F401
    datasets as _datasets,  # noqa: F401
    stages as _stages,  # noqa: F401
)
from polymask.testing.parametrize import parametrize_parts
from polymask.testing.suite import CHECKS, Check, CheckFailed, CheckResult, check_part, checks_for
from polymask.testing.tags import TAGS

__all__ = [
    "CHECKS",
    "TAGS",
    "Check",
    "CheckFailed",
    "CheckResult",
    "check_part",
    "checks_for",
    "parametrize_parts",
]
