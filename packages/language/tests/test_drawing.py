"""Text as a picture: its letters are as large as all of it fits."""

from __future__ import annotations

import pytest
import torch

from polymask_language.drawing import HIDDEN, draw_text


def width_of(pieces: list[str]) -> int:
    """Pixels across that the first token, hidden, is painted on."""
    picture = draw_text(pieces, hidden=torch.arange(len(pieces)) == 0)
    painted = ((picture - torch.tensor(HIDDEN)[:, None, None]).abs() < 0.01).all(0)
    columns = painted.any(0).nonzero()
    return int(columns[-1] - columns[0]) + 1


@pytest.mark.parametrize("more", [[" word"] * 100, [" " + "x" * 40]], ids=["many words", "a long word"])
def test_a_short_text_has_letters_of_twice_the_size(more: list[str]) -> None:
    small, large = width_of(["hidden", *more]), width_of(["hidden", " word"])
    assert abs(large - 2 * small) <= 2 and abs(small - 6 * 7) <= 1
