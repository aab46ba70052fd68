"""Words as the pieces they are written with: keys to find them by, and how often they occur."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask import UserError

_ODD_1, _ODD_2 = -7046029254386353131, -4658895280553007687


def word_keys(ids: Tensor, word: Tensor, words: int) -> Tensor:
    """A 64-bit key of each word: the same for the same pieces in the same order, whatever row they are in.

    Args:
        ids: int64 ``[B, N]``.
        word: int64 ``[B, N]``, the number of the word in its row that each token is a piece of, rising
            along the row; negative for tokens of none.
        words: how many words a row has at most.

    Returns:
        int64 ``[B, words]``; 0 where a row has no such word.
    """
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    begins = torch.ones_like(word, dtype=torch.bool)
    begins[:, 1:] = word[:, 1:] != word[:, :-1]
    within = place - torch.where(begins, place, 0).cummax(dim=1).values
    mixed = (ids + 1) * _ODD_1 + within * _ODD_2
    mixed = (mixed ^ ((mixed >> 29) & 0x7FFFFFFFF)) * _ODD_2
    keys = torch.zeros(len(ids), words + 1, dtype=torch.int64, device=ids.device)
    # integers, so that sums are the same in any order
    return keys.scatter_add(1, torch.where(word < 0, words, word), mixed)[:, :words]


def count_words(ids: Tensor, word: Tensor, document: Tensor, vocabulary: int, longest: int = 8) -> Any:
    """How often ids and words occur in a corpus, and in how many documents.

    Args:
        ids: int64 ``[n]``, the tokens of all documents one after another.
        word: int64 ``[n]``, number of each token's word in the corpus, from 0, rising.
        document: int64 ``[n]``, number of each token's document, from 0, rising.
        vocabulary: how many ids there are.
        longest: words of more pieces are left out.

    Returns:
        A dict of arrays: ``counts`` ``[vocabulary]`` of ids; for W different words ``pieces``
        ``[W, longest]``, padded with -1, ``frequency`` and ``documents`` (in how many) ``[W]``.
    """
    counts = torch.bincount(ids, minlength=vocabulary)
    total = int(word[-1]) + 1 if len(word) else 0
    keys = word_keys(ids[None], word[None], total)[0]
    size = torch.bincount(word, minlength=total)
    first = size.cumsum(0) - size
    _, which, frequency = torch.unique(keys, return_inverse=True, return_counts=True)
    distinct = len(frequency)
    pairs = torch.unique(document[first] * distinct + which)
    documents = torch.bincount(pairs % max(distinct, 1), minlength=distinct)
    example = torch.empty(distinct, dtype=torch.int64).scatter_(0, which, torch.arange(total))
    at = first[example][:, None] + torch.arange(longest)
    inside = torch.arange(longest) < size[example][:, None]
    pieces = torch.where(inside, ids[at.clamp(max=max(len(ids) - 1, 0))], -1) if distinct else at
    fits = size[example] <= longest
    found = {"pieces": pieces[fits], "frequency": frequency[fits], "documents": documents[fits]}
    return {"counts": counts.numpy(), **{name: value.numpy() for name, value in found.items()}}


def load_statistics(file: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """What a data set counted, see :func:`count_words`, and ``length``, the words of each document.

    Raises:
        UserError: there is no such file.
    """
    try:
        with np.load(file, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError) as error:
        raise UserError(f"no statistics of a corpus in {file}: {error}") from error
