"""The hooks a plugin may implement: one per kind of part, each returning declarations.

A plugin is a module named by an entry point in the group ``polymask``. It implements any of
these functions with ``@hookimpl`` and returns :class:`polymask.Part` declarations: strings, no
heavy import. Hooks run when names are resolved, never inside a training step.

A plugin may set ``POLYMASK_API = "1"`` (major) or ``"1.0"`` (at least this minor) to say which
version of this page it was written against; see :data:`API`.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from polymask.parts import Part

API = (1, 1)
"""Version of this page: the first number changes when a hook is removed or changes meaning."""

GROUP = "polymask"
"""Entry-point group that plugins are found in."""

hookspec = pluggy.HookspecMarker("polymask")
hookimpl = pluggy.HookimplMarker("polymask")


@hookspec
def polymask_register_maskings() -> Iterable[Part]:
    """Parts that draw a :class:`polymask.Mask` from a :class:`polymask.Request`."""
    raise NotImplementedError


@hookspec
def polymask_register_objectives() -> Iterable[Part]:
    """Parts that score a prediction: ``(prediction, target, mask) -> scalar``."""
    raise NotImplementedError


@hookspec
def polymask_register_tokenizers() -> Iterable[Part]:
    """Parts that cut an input into :class:`polymask.Tokens`."""
    raise NotImplementedError


@hookspec
def polymask_register_encoders() -> Iterable[Part]:
    """Parts that encode the tokens they are given, and never see a mask."""
    raise NotImplementedError


@hookspec
def polymask_register_targets() -> Iterable[Part]:
    """Parts that compute, without gradient, what is to be predicted or a score per site."""
    raise NotImplementedError


@hookspec
def polymask_register_systems() -> Iterable[Part]:
    """Parts that are a whole published system, one file each."""
    raise NotImplementedError


@hookspec
def polymask_register_datasets() -> Iterable[Part]:
    """Parts that read data, chosen with ``--data name:argument``."""
    raise NotImplementedError


@hookspec
def polymask_register_evaluations() -> Iterable[Part]:
    """Parts that measure what a finished run is good for, beside the probes: ``(run) -> scores``."""
    raise NotImplementedError


@hookspec
def polymask_register_recipes() -> Iterable[Part]:
    """Functions ``(stage, /, *, options)`` that train in several stages, see :mod:`polymask.recipes`."""
    raise NotImplementedError
