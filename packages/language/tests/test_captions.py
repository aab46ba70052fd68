"""Captions as ids: framed, cut, numbered by word, found again by their characters."""

from __future__ import annotations

import pickle

import pytest
import torch

from polymask import Tokens, UserError
from polymask.data import collate
from polymask_language.captions import Captions
from polymask_language.tokenizers import TokenIds

TEXTS = ["a red ball", "a blue ball lies under the small green table", "ball", "a blue  hat, and ünïcode"]


def make(**options: int) -> Captions:
    return TokenIds.of_texts(TEXTS, 30 * TEXTS[:3], **{"vocab_size": 320, **options})


def test_a_text_comes_back_between_its_frames() -> None:
    captions = make()
    vocabulary = captions.vocabulary
    assert len(captions) == 4 and captions.cut == 0
    for index, text in enumerate(TEXTS):
        sample = captions[index]
        ids = sample["text"].tolist()
        assert (ids[0], ids[-1]) == (vocabulary.start_id, vocabulary.end_id)
        assert vocabulary.tokenizer.decode(ids).split() == text.split()
        word = sample["word"]
        assert word[0] == 0 and (word.diff() <= 1).all() and (word.diff() >= 0).all()
        assert word[1] == 1 and word[-1] == word[-2] + 1
    assert make()[0]["word"].max() == 4  # three words and two frames


def test_long_texts_lose_their_end_and_are_counted() -> None:
    captions = make(length=6)
    assert [len(captions[i]["text"]) for i in range(4)] == [5, 6, 3, 6] and captions.cut == 2
    assert captions[1]["text"][-1] == captions.vocabulary.end_id
    with pytest.raises(UserError, match="no room for words"):
        make(length=2)


def test_characters_are_found_again_as_tokens() -> None:
    captions = make()
    start = TEXTS[1].index("green")
    inside = captions.within(1, start, start + len("green"))
    ids = captions[1]["text"]
    assert inside.shape == ids.shape
    assert captions.vocabulary.tokenizer.decode(ids[inside].tolist()).strip() == "green"
    assert not captions.within(0, 100, 120).any()


def test_samples_reach_a_tokenizer_workers_and_pictures() -> None:
    captions = pickle.loads(pickle.dumps(make()))
    facts = {key: captions.facts[key] for key in ("vocabulary", "length", "mask_id", "pad_id", "special_ids")}
    tokenizer = TokenIds(**facts, tokenizer_file=captions.facts["tokenizer_file"])
    batch = collate([captions[i] for i in range(3)])
    tokens = tokenizer(batch)
    assert isinstance(tokens, Tokens) and tokens.valid is not None
    assert tokens.valid.sum(1).tolist() == [len(captions[i]["text"]) for i in range(3)]
    hidden = torch.zeros(tokens.shape, dtype=torch.bool)
    hidden[0, 2] = True
    assert tokens.ids is not None
    shown = tokenizer.compared(tokens, hidden, tokens.ids)
    assert len(shown) == 3 and "red" in shown[0]._repr_html_()
    weighted = tokenizer.weighted(tokens, hidden.float(), hidden)
    assert "mean weight 1" in weighted[0]._repr_html_()
    sample = captions[0]
    plain, coloured = (captions.render(sample, None, h) for h in (None, hidden[0, : len(sample["text"])]))
    assert plain.shape[0] == 3 and not torch.equal(plain, coloured)
