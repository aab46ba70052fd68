"""Text as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

HIDDEN = (0.16, 0.45, 0.60)
COLUMNS, LINES = 64, 20
_WIDTH, _HEIGHT, _LEFT, _TOP = 480, 320, 16, 6
# pixels across of a letter; DejaVu's type of one width takes 0.602 em
_LETTER, _EM = 7, 0.602


def draw_text(pieces: Sequence[str], document: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
    """Tokens in lines of type of one width, as large as all of it fits, hidden ones in white on colour.

    Args:
        pieces: what each token adds to the text, with the space before it.
        document: ``[N]`` number of each token's document; each begins a line.
        hidden: ``[N]``, bool, or 0 or more; 1 and above is full colour.

    Returns:
        float32 ``[3, H, 480]`` in [0, 1], H at most 320; what does not fit is left out.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    amount = torch.zeros(len(pieces)) if hidden is None else hidden.float().cpu()
    numbers = None if document is None else document.tolist()
    whole = [(text, token) for text, token, *_ in _laid_out(pieces, numbers, COLUMNS, LINES)]
    columns, lines = COLUMNS // 2, LINES // 2
    laid = [*_laid_out(pieces, numbers, columns, lines)]
    if [(text, token) for text, token, *_ in laid] != whole:  # too much for large letters
        columns, lines = COLUMNS, LINES
        laid = [*_laid_out(pieces, numbers, columns, lines)]
    across, down = _LETTER * COLUMNS // columns, (_HEIGHT - 2 * _TOP) / lines
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSansMono.ttf", across / _EM)
    used = max((line for _, _, line, _ in laid), default=0) + 1
    picture = Image.new("RGB", (_WIDTH, round(2 * _TOP + used * down)), "white")
    pen = ImageDraw.Draw(picture)
    for text, token, line, column in laid:
        share = min(float(amount[token]), 1.0)
        left, top = _LEFT + column * across, _TOP + line * down
        if share > 0 and text:
            box = (left, round(top + 1), left + len(text) * across - 1, round(top + down - 2))
            pen.rectangle(box, fill=tuple(round(255 * (1 - share * (1 - x))) for x in HIDDEN))
        for at, letter in enumerate(text):
            place = (left + at * across, top + down / 2)
            pen.text(place, letter, fill="white" if share > 0.5 else "black", font=font, anchor="lm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _laid_out(
    pieces: Sequence[str], document: Sequence[int] | None, columns: int, lines: int
) -> Iterator[tuple[str, int, int, int]]:
    """Each token's text with its number, line and column."""
    line = column = 0
    for token, piece in enumerate(pieces):
        new = document is not None and token > 0 and document[token] != document[token - 1]
        # a word stays together: its length is that of the pieces up to the next space
        word = piece + "".join(_rest(pieces, token + 1)) if piece[:1].isspace() else piece
        if new or column + min(len(word), columns) > columns:
            line, column = line + 1, 0
        text = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in piece)
        text = text[1:] if column == 0 and text.startswith(" ") else text
        gap = len(text) - len(text.lstrip(" "))
        text = text[: columns - column]
        if line >= lines:
            return
        yield text[gap:], token, line, column + gap
        column += len(text)


def _rest(pieces: Sequence[str], start: int) -> Iterator[str]:
    for piece in pieces[start : start + 16]:
        if piece[:1].isspace():
            return
        yield piece
