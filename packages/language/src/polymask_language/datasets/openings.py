"""Openings of chess as plans: the family is the task, moves are steps, boards are what is seen."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from polymask import UserError
from polymask.data import Splits
from polymask.data.cache import cache_folder
from polymask.data.debian import unpacked
from polymask.types import Count, Share
from polymask_language.datasets.plans import Plans, splits_of

PACKAGE, INSIDE, FILE = "scid-data", "usr/share/scid/data", "scid.eco"
_LINE = re.compile(r'^[A-E]\d\d\S*\s+"([^"]*)"\s+([^*]*)\*', re.MULTILINE)
_NUMBER = re.compile(r"\d+\.+")


def openings(
    *, source: str | None = None, horizon: Count = 3, least: Count = 30, test: Share = 0.3
) -> Splits[Plans]:
    """Named lines of chess openings: the last moves of each are the plan, the name's family is the task.

    Some 10,000 lines that people have named, of Scid's classification (Debian's ``scid-data``, GPL-2),
    installed or fetched once with ``apt-get download`` (8 MB, no root needed). What is seen are the boards
    before and after the plan, 768 numbers each: which piece stands on which square. Boards are computed by
    the package ``chess``, which comes with the extra ``plans``.

    Args:
        source: the file ``scid.eco`` (``openings:FILE``).
        horizon: moves of a plan, of both sides.
        least: lines that a family must have.
        test: share of the lines of each family to hold out.

    Raises:
        UserError: there is no such file, nothing in it, or ``chess`` is not installed.
    """
    path = Path(source).expanduser() if source is not None else _fetched()
    try:
        import chess

        text = path.read_text(encoding="latin-1")
    except (ImportError, OSError) as error:
        raise UserError(f"openings: {error}; boards need pip install 'polymask-language[plans]'") from error
    lines = [(name.partition(":")[0], _NUMBER.sub(" ", moves).split()) for name, moves in _LINE.findall(text)]
    lines = [(family, moves) for family, moves in lines if len(moves) >= horizon]
    counts, skipped = Counter(family for family, _ in lines), list[tuple[str, str]]()
    tasks, plans, seen, names = [], [], [], []
    for family, moves in lines:
        if counts[family] < least:
            continue
        board, before = chess.Board(), None
        try:
            for k, move in enumerate(moves):
                if k == len(moves) - horizon:
                    before = _planes(board)
                board.push_san(move)
        except ValueError as error:
            skipped.append((" ".join(moves), str(error)))
            continue
        tasks.append(family)
        plans.append(moves[-horizon:])
        seen.append([before, _planes(board)])
        names.append(" ".join(moves))
    if not tasks:
        raise UserError(f"openings: no family in {path} has {least} lines of {horizon} moves or more")
    return splits_of(tasks, plans, np.array(seen), names, test, skipped)


def example_source(folder: Path) -> str:
    """A few lines of two families."""
    path = folder / FILE
    starts = {"Open": "1.e4 e5 2.Nf3 Nc6", "Closed": "1.d4 d5 2.c4 e6"}
    ends = ("3.{} a6", "3.{} a5", "3.{} h6", "3.{} h5", "3.{} b6")
    rows = [
        f'A00 "{family}: line" {start} {end.format(move)} *'
        for family, start in starts.items()
        for end in ends
        for move in ("a3", "a4", "h3", "h4", "b3", "g3", "Nc3")
    ]
    path.write_text("\n".join(rows))
    return str(path)


def _fetched() -> Path:
    folder = unpacked(
        INSIDE,
        PACKAGE,
        cache=cache_folder("openings"),
        complete=lambda folder: (folder / FILE).is_file(),
        advice=f"Or give the file: openings:{FILE}.",
    )
    return folder / FILE


def _planes(board: Any) -> np.ndarray:
    """Which piece stands where, ``[768]``."""
    planes = np.zeros((12, 64), dtype=np.float32)
    for square, piece in board.piece_map().items():
        planes[piece.piece_type - 1 + 6 * (not piece.color), square] = 1
    return planes.flatten()
