"""Words are hidden whole, in number as the ratio says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, Step, UserError
from polymask_language.maskings import Words


def ask(masking: Words, word: Tensor, valid: Tensor | None = None, step: int = 0) -> Mask:
    b, n = word.shape
    place = torch.arange(n).expand(b, n)
    position = torch.stack([place, word, torch.zeros_like(word)], dim=-1).float()
    return masking(Request(torch.arange(b) * 3 + 1, n, Step(step, 10, 5), valid=valid, position=position))


def reference(word: list[int], keys: dict[int, int], count: int) -> list[bool]:
    """The rule, word by word."""
    size = {w: word.count(w) for w in word}
    hidden: set[int] = set()
    for w in sorted(size, key=lambda w: keys[w]):
        if sum(size[x] for x in hidden) + size[w] <= count:
            hidden.add(w)
    return [w in hidden for w in word]


def test_it_does_what_bert_does_word_by_word() -> None:
    generator = torch.Generator().manual_seed(0)
    word = (torch.rand(200, 48, generator=generator) < 0.6).long().cumsum(1)
    mask = ask(Words(ratio=0.3), word, step=4)
    bits = Step(4, 10, 5).bits(torch.arange(200) * 3 + 1, 48) & torch.iinfo(torch.int64).max
    for row in range(200):
        words = word[row].tolist()
        keys = {w: int(bits[row, words.index(w)]) for w in words}
        assert mask.hidden[row].tolist() == reference(words, keys, 14)


def test_no_word_is_hidden_in_part_and_none_beyond_the_count() -> None:
    word = (torch.rand(300, 64, generator=torch.Generator().manual_seed(1)) < 0.5).long().cumsum(1)
    valid = torch.arange(64) < torch.randint(20, 65, (300, 1), generator=torch.Generator().manual_seed(2))
    # a word whose end lies in the padding ends where the padding begins
    mask = ask(Words(ratio=0.15, most=6), word, valid)
    for row in range(300):
        for w in word[row].unique().tolist():
            pieces = mask.hidden[row][(word[row] == w) & valid[row]]
            assert pieces.all() or not pieces.any()
    counts = mask.hidden.sum(1)
    allowed = (valid.sum(1) * 0.15 + 0.5).floor().clamp(1, 6)
    assert ((counts <= allowed) | (counts > 6)).all() and (counts > 0).all()
    assert not (mask.hidden & ~valid).any()


def test_a_word_longer_than_the_count_is_hidden_where_there_is_no_other() -> None:
    word = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]).expand(50, -1)
    counts = ask(Words(ratio=0.1), word).hidden.sum(1)
    assert counts.tolist() == [5] * 50
    nothing_else = ask(Words(ratio=0.1), torch.zeros(3, 10, dtype=torch.int64))
    assert not nothing_else.hidden.any()


def test_every_word_is_hidden_equally_often() -> None:
    word = torch.arange(20).expand(4000, -1)
    rate = ask(Words(ratio=0.25), word).hidden.float().mean(0)
    assert (rate - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_systems_that_do_not_tell_words_are_refused() -> None:
    request = Request(torch.arange(2), 8, Step(), position=torch.zeros(2, 8, 1))
    with pytest.raises(UserError, match="does not tell which tokens make one"):
        Words()(request)
    with pytest.raises(UserError, match="between 0 and 1"):
        Words(ratio=1.0)
