"""Vocabularies are trained on text or loaded, completed, and kept whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from polymask import UserError
from polymask.data.cache import cache_folder, whole_or_not
from polymask_language.vocabulary import SPECIAL, Vocabulary, hash_of, train, vocabulary_of

TEXTS = ["The quick brown fox isn't lazy.", "Uncharacteristically, the dogs are."] * 20


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_text_comes_back_from_its_ids_and_words_are_known(kind: str) -> None:
    vocabulary = vocabulary_of(kind, TEXTS, size=400)
    assert vocabulary.special_ids == (0, 1, 2, 3, 4)
    assert (vocabulary.pad_id, vocabulary.start_id, vocabulary.end_id, vocabulary.mask_id) == (0, 2, 3, 4)
    assert [vocabulary.tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL)
    encoding = vocabulary.encode(["the dogs aren't quick ."])[0]
    assert not set(encoding.ids) & {0, 2, 3, 4}
    text = "".join(vocabulary.pieces(encoding.ids))
    assert "".join(text.split()) == "thedogsaren'tquick."
    assert text.startswith(" the dogs aren")
    assert len(set(encoding.word_ids)) >= 5
    assert max(encoding.ids) < vocabulary.size <= 400
    assert vocabulary.spell(torch.tensor([[*vocabulary.encode(["fox"])[0].ids, -1]])) == ["fox"]


def test_the_same_text_gives_the_same_vocabulary_and_it_is_trained_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = train("bpe", TEXTS, size=350, lower=True)
    assert first.to_str() == train("bpe", TEXTS[::-1], size=350, lower=True).to_str()
    kept = vocabulary_of("bpe", TEXTS, size=350)
    monkeypatch.setattr("polymask_language.vocabulary.train", None)
    assert vocabulary_of("bpe", TEXTS, size=350) == kept
    with pytest.raises(TypeError):
        vocabulary_of("bpe", [*TEXTS, "more"], size=350)
    with pytest.raises(TypeError):
        vocabulary_of("bpe", TEXTS, size=350, lower=False)


def test_transformers_reads_the_file_and_adds_the_same_special_tokens() -> None:
    vocabulary = vocabulary_of("bpe", TEXTS, size=400)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(vocabulary.file), mask_token="[MASK]")
    ours = [vocabulary.start_id, *vocabulary.encode(["the fox"])[0].ids, vocabulary.end_id]
    assert theirs("the fox")["input_ids"] == ours
    assert theirs.mask_token_id == vocabulary.mask_id


def test_a_loaded_vocabulary_gets_the_tokens_it_lacks(tmp_path: Path) -> None:
    plain = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "<|endoftext|>": 2}, []))
    plain.add_special_tokens(["<|endoftext|>"])
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    plain.save(str(tmp_path / "tokenizer.json"))
    for given in (str(tmp_path), str(tmp_path / "tokenizer.json")):
        vocabulary = vocabulary_of(given, [])
        assert (vocabulary.start_id, vocabulary.end_id) == (None, 2)
        assert {vocabulary.mask_id, vocabulary.pad_id} == {3, 4}
        assert vocabulary.special_ids == (2, 3, 4) and vocabulary.size == 5
        assert vocabulary.file != tmp_path / "tokenizer.json"
    names = {"unk_token": "<unk>", "mask_token": "<mask>", "pad_token": "<pad>"}
    saved = PreTrainedTokenizerFast(tokenizer_object=train("bpe", TEXTS, size=300, lower=True), **names)
    saved.save_pretrained(tmp_path / "hub")
    assert vocabulary_of(str(tmp_path / "hub"), []).mask_id == 4


def test_what_is_no_vocabulary_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tokenizer.json").write_text("{}")
    for what in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="no vocabulary"):
            vocabulary_of(what, TEXTS)
    with pytest.raises(UserError, match="too small"):
        vocabulary_of("bpe", TEXTS, size=20)


def test_a_cache_is_filled_whole_or_not_at_all() -> None:
    folder = cache_folder("test") / "whole"

    def fail() -> None:
        with whole_or_not(folder) as part:
            (part / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not folder.exists() and list(folder.parent.iterdir()) == []
    for text in ("first", "second"):
        with whole_or_not(folder) as part:
            (part / "file").write_text(text)
    assert (folder / "file").read_text() == "first"
    assert [p.name for p in folder.parent.iterdir()] == ["whole"]


def test_hashes_tell_where_strings_end() -> None:
    assert hash_of(["ab", "c"]) != hash_of(["a", "bc"])
    assert hash_of(["a", "b"]) != hash_of(["b", "a"])
    assert isinstance(Vocabulary(Path("x")).file, Path)
