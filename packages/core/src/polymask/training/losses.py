"""What training takes as the losses of a system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

COLUMNS = frozenset(
    {
        *("step", "lr", "grad_norm", "seconds", "samples_per_second", "data_wait", "padding", "idle"),
        *("feature_std", "feature_rank", "kNN", "linear"),
    }
)
"""Columns of ``metrics.csv`` that are not the system's, nor the sum of its losses."""


def wrong_losses(terms: Any) -> str:
    """What is wrong with what ``forward`` returned, in words; empty where nothing is."""
    if not isinstance(terms, Mapping) or not terms:
        return f"forward returned {type(terms).__name__}, not losses by name"
    for term, loss in terms.items():
        if not isinstance(loss, Tensor) or loss.shape != () or loss.is_complex():
            kind = "complex " if isinstance(loss, Tensor) and loss.is_complex() else ""
            what = f"{kind}of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            return f"the loss {term!r} is {what}, not a scalar tensor"
        if term in COLUMNS or (term == "loss" and len(terms) > 1):
            return f"metrics.csv has a column {term!r} of its own: give this loss another name"
        if wrong := wrong_name(term):
            return f"a loss is called {term!r}: {wrong}"
    if torch.is_grad_enabled() and not any(loss.requires_grad for loss in terms.values()):
        return "no loss has a gradient: nothing would be learned"
    return ""


def wrong_monitored(found: Any, losses: Iterable[str]) -> str:
    """What is wrong with what ``monitor`` returned beside those losses, in words."""
    if not isinstance(found, Mapping):
        return f"monitor returned {type(found).__name__}, not tensors by name"
    taken = COLUMNS | {"loss", *losses}
    for name, value in found.items():
        if wrong := wrong_name(name):
            return f"monitor calls something {name!r}: {wrong}"
        if not isinstance(value, Tensor) or value.dim() == 1:
            what = (
                f"of shape {list(value.shape)}" if isinstance(value, Tensor) else f"as {type(value).__name__}"
            )
            return f"monitor returned {name!r} {what}: give a scalar tensor, or features [B, D] or [B, N, D]"
        for column in (f"{name}_{what}" for what in ("std", "rank", "gauge")):
            if column in taken:
                return f"metrics.csv has a column {column!r} already: let monitor give {name!r} another name"
    return ""


def wrong_name(name: Any) -> str:
    """What keeps a name from being a column of a CSV file that is read line by line."""
    one_line = isinstance(name, str) and name and name.isprintable()
    return "" if one_line else "give it a name of one line of text"
