"""What training takes as the losses of a system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def wrong_losses(terms: Any) -> str:
    """What is wrong with what ``forward`` returned, in words; empty where nothing is."""
    if not isinstance(terms, Mapping) or not terms:
        return f"forward returned {type(terms).__name__}, not losses by name"
    for term, loss in terms.items():
        if not isinstance(loss, Tensor) or loss.shape != () or loss.is_complex():
            kind = "complex " if isinstance(loss, Tensor) and loss.is_complex() else ""
            what = f"{kind}of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            return f"the loss {term!r} is {what}, not a scalar tensor"
    if torch.is_grad_enabled() and not any(loss.requires_grad for loss in terms.values()):
        return "no loss has a gradient: nothing would be learned"
    return ""
