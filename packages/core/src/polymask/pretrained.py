"""Models that another library loads: whole or refused, and without its own report."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator

from polymask.checkpoints import some
from polymask.errors import UserError

_HEADS = re.compile(
    r"(^|\.)(\w*head\w*|pooler|cls|classifier|decoder|lm_bias|mask_token|masked_spec_embed|predictions)(\.|$)"
)
"""Weights of models of transformers that no encoder is made of."""


@contextlib.contextmanager
def without_report() -> Iterator[None]:
    """No table on the terminal of what transformers leaves out of a model: what is missing is refused."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def require_whole(name: str, missing: Iterable[str]) -> None:
    """Refuse a model whose source lacks weights of an encoder, which its library draws at random then.

    Args:
        name: of the model.
        missing: names of the weights that its source lacks.
    """
    lost = [weight for weight in missing if not _HEADS.search(weight)]
    if lost:
        raise UserError(f"{name} lacks {len(lost)} weights of its encoder:{some(lost)}")
