"""Variants of a comparison: the configuration of each, which differ in what is compared alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymask.config import RunConfig, Source
from polymask.config.layers import flatten
from polymask.errors import UserError


def configurations(
    config: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    may_differ: Sequence[str],
) -> dict[str, RunConfig]:
    """The whole configuration of each variant, once they are known to be comparable.

    Raises:
        UserError: they are not, or one cannot be.
    """
    if not variants or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(
            f"a comparison needs variants, got {len(variants)}, and one seed or more, all different, got "
            f"{', '.join(map(str, seeds)) or 'none'}"
        )
    if len(variants) == len(seeds) == 1:
        raise UserError("a comparison needs two variants or more, or two seeds of one")
    whole: dict[str, RunConfig] = {}
    budgets: dict[str, dict[str, Any]] = {}
    for label, change in variants.items():
        if not (change.get("system") or config.get("system")):
            raise UserError(f"variant {label!r} names no system")
        whole[label] = RunConfig.resolve(config, Source(f"variant {label!r}", change), {"seed": seeds[0]})
        training, data = whole[label].training, whole[label].data
        budgets[label] = {
            key: getattr(training, key) for key in ("steps", "epochs", "batch_size", "batch_tokens")
        }
        budgets[label] |= flatten({"data": data.plain() if data else None})
    first = next(iter(budgets))
    for label, budget in budgets.items():
        other = budgets[first]
        differ = [key for key in {**other, **budget} if other.get(key) != budget.get(key)]
        differ = [key for key in differ if key.partition(".")[0] not in may_differ]
        if differ:
            found = "; ".join(f"{key}: {other.get(key)} and {budget.get(key)}" for key in differ)
            raise UserError(
                f"{first} and {label} would not have the same data and budget ({found}): "
                f"give {', '.join('--' + key for key in differ)} for all variants"
            )
    return whole
