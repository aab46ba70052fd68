"""Ids pass through as they are; documents have places of their own; special tokens are never hidden."""

from __future__ import annotations

import pytest
import torch

from polymask import Request, Step, UserError
from polymask.maskings import Color, Random, Span, TopScore
from polymask.nn.corruption import maskable
from polymask.protocols import Masking
from polymask_language.tokenizers import TokenIds, documents, draw

SPECIAL = (0, 1, 2, 3, 4)


def test_ids_are_values_and_padding_is_no_token() -> None:
    tokenizer = TokenIds(vocabulary=50, length=8)
    ids = torch.tensor([[2, 9, 8, 7, 3], [2, 6, 3, 0, 0]])
    tokens = tokenizer({"text": ids, "text_length": torch.tensor([5, 3])})
    assert tokens.ids is not None and tokens.valid is not None
    assert torch.equal(tokens.values[..., 0], ids) and torch.equal(tokens.ids, ids)
    assert tokens.valid.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert tokens.position[..., 0].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert documents(tokens.position) is None
    assert torch.equal(tokenizer.inverse(tokens.values), ids)


def test_packed_documents_begin_at_0_and_are_told_apart_whatever_is_left_of_them() -> None:
    document = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    tokens = TokenIds(vocabulary=50, length=8)({"text": torch.full((2, 6), 9), "document": document})
    assert tokens.position[..., 0].tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]
    found = documents(tokens.position[:, [1, 4, 5]])
    assert found is not None and found.tolist() == [[0, 1, 2], [1, 1, 1]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="a vocabulary of 3 has no ids"):
        TokenIds(vocabulary=3)
    tokenizer = TokenIds(vocabulary=50, length=4)
    with pytest.raises(ValueError, match=r"up to 4\], got torch.int64 \[1, 5\]"):
        tokenizer({"text": torch.zeros(1, 5, dtype=torch.int64)})
    with pytest.raises(ValueError, match="expected ids int64"):
        tokenizer({"text": torch.zeros(1, 3)})


@pytest.mark.parametrize("masking", [Random(ratio=0.4), Span(ratio=0.4, length=3), Color(ratio=0.4)])
def test_core_maskings_hide_their_share_of_content_and_no_special_token(masking: Masking) -> None:
    tokenizer = TokenIds(vocabulary=60, length=40)
    batch = {**tokenizer.example(64, seed=3), "id": torch.arange(64) * 7}
    batch["text"][:, 0], batch["text"][:, 9] = 2, 3  # at the start and amid
    tokens = tokenizer(batch)
    mask = draw(masking, tokens, batch, Step(5, 10, 1), SPECIAL)
    content = maskable(tokens, SPECIAL)
    assert tokens.valid is not None and not content[:, [0, 9]].any()
    assert not (mask.hidden & ~content).any()
    assert mask.valid is not None and torch.equal(mask.valid, content)
    wanted = (content.sum(1) * 0.4 + 0.5).floor()
    assert torch.equal(mask.hidden.sum(1).float(), wanted)


def test_scores_and_further_limits_reach_the_masking() -> None:
    tokenizer = TokenIds(vocabulary=60, length=12)
    ids = torch.arange(5, 17)[None].expand(3, -1)
    batch = {"text": ids, "id": torch.arange(3)}
    tokens = tokenizer(batch)
    allowed = torch.arange(12)[None].expand(3, -1) >= 6
    score = ids.float()
    mask = draw(TopScore(ratio=0.5), tokens, batch, Step(), SPECIAL, score=score, allowed=allowed)
    assert mask.hidden.tolist() == [[False] * 9 + [True] * 3] * 3


def test_maskings_learn_place_word_and_document() -> None:
    seen: list[Request] = []

    def spy(request: Request):  # type: ignore[no-untyped-def]
        seen.append(request)
        return Random(ratio=0.5)(request)

    batch = {
        "text": torch.full((1, 5), 9),
        "word": torch.tensor([[0, 1, 1, 2, 3]]),
        "document": torch.tensor([[0, 0, 0, 1, 1]]),
    }
    draw(spy, TokenIds(vocabulary=50, length=8)(batch), batch, Step(), SPECIAL)
    assert seen[0].position is not None
    assert seen[0].position[0].T.tolist() == [[0, 1, 2, 0, 1], [0, 1, 1, 2, 3], [0, 0, 0, 1, 1]]
