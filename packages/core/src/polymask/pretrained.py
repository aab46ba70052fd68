"""Models that another library loads: whole or refused, and without its own report."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from polymask.checkpoints import some
from polymask.errors import UserError

_HEADS = re.compile(
    r"(^|\.)(\w*head\w*|pooler|cls|classifier|decoder|lm_bias|mask_token|masked_spec_embed|predictions)(\.|$)"
)
"""Weights of models of transformers that no encoder is made of."""


def from_pretrained(kind: Any, name: str, **options: Any) -> tuple[Any, list[str]]:
    """A model of transformers, without its table on the terminal, and which weights its source lacks.

    Args:
        kind: class of transformers, or one of its auto classes.
        name: on the Hugging Face hub, or path of a folder.
        options: of ``from_pretrained``.
    """
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model, loading = kind.from_pretrained(name, **options, output_loading_info=True)
    finally:
        logger.setLevel(before)
    return model, list(loading["missing_keys"])


def require_whole(name: str, missing: Iterable[str]) -> None:
    """Refuse a model whose source lacks weights of an encoder, which its library draws at random then.

    Args:
        name: of the model.
        missing: names of the weights that its source lacks.
    """
    lost = [weight for weight in missing if not _HEADS.search(weight)]
    if lost:
        raise UserError(f"{name} lacks {len(lost)} weights of its encoder:{some(lost)}")
