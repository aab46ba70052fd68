"""Prompts and responses: both kinds of files, what is cut, what decides, and what is padded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from polymask import UserError, build
from polymask.data import collate, open_data
from polymask_language.datasets.exchanges import ExchangeDataset
from polymask_language.datasets.responses import responses
from polymask_language.datasets.sentiment import PLEASANT, UNPLEASANT, sentiment, spans_of
from polymask_language.pairs import stack


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def pair(i: int) -> dict[str, str]:
    return {"prompt": f"ask {i}", "chosen": f"yes it is number {i}", "rejected": f"no not {i} at all never"}


def test_a_file_holds_pairs_or_plain_responses(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a", "no json", pair(1), {"prompt": "p", "response": "r"}, {**pair(2), "chosen": ""}
    )
    found = responses(source=source)
    assert (found.prompts, found.responses) == (["ask 1"], ["yes it is number 1"])
    assert found.rejected == ["no not 1 at all never"]
    assert [name for name, _ in found.skipped] == ["line 1", "line 3", "line 4"]
    assert "not prompt, chosen, rejected" in found.skipped[1][1] and "empty" in found.skipped[2][1]
    found = responses(source=write(tmp_path / "b", {"prompt": "", "response": "r", "more": 1}))
    assert (found.prompts, found.responses, found.rejected) == ([""], ["r"], None)
    with pytest.raises(UserError, match="no responses in the file.*line 1: fields text"):
        ExchangeDataset(responses(source=write(tmp_path / "c", {"text": "t"})))


def opened(tmp_path: Path, **options: object) -> ExchangeDataset:
    source = write(tmp_path / "pairs.jsonl", *map(pair, range(40)))
    return ExchangeDataset(responses(source=source), vocab_size=300, test=0.25, **options)  # type: ignore[arg-type]


def test_a_sample_is_one_prompt_before_each_response(tmp_path: Path) -> None:
    data = opened(tmp_path)
    assert (len(data.split("train")), len(data.split("test"))) == (30, 10)
    spell = data.vocabulary.tokenizer.decode
    prompts = set()
    for name in ("train", "test"):
        samples = data.split(name)  # type: ignore[arg-type]
        for i, length in enumerate(data.lengths(name).tolist()):  # type: ignore[arg-type]
            sample = pickle.loads(pickle.dumps(samples))[i]
            text, response = sample["text"], sample["response"]
            number = spell(text[~response].tolist()).split()[-1]
            prompts.add(number)
            assert len(text) == len(response) == len(sample["word"]) == length
            assert spell(text[response].tolist()).strip() == f"yes it is number {number}"
            other = sample["rejected_text"][sample["rejected_response"]]
            assert spell(other.tolist()).strip() == f"no not {number} at all never"
            assert torch.equal(text[~response], sample["rejected_text"][~sample["rejected_response"]])
            assert text[0] == 2 and text[-1] == 3 and response[-1] and not response[0]
    assert len(prompts) == 40


def test_what_is_too_long_leaves_the_end_of_the_prompt_and_the_start_of_the_response(tmp_path: Path) -> None:
    letters = {"prompt": "a b c d e f g h", "chosen": "i j k l", "rejected": "m n o p q r s t u v"}
    source = write(tmp_path / "a", letters, {**letters, "chosen": "w x"})

    def sample(length: int) -> dict[str, torch.Tensor]:
        data = ExchangeDataset(responses(source=source), vocab_size=300, length=length, test=0.5)
        assert data.lengths("train").tolist() == [len(data.split("train")[0]["text"])]
        return data.split("train")[0]

    whole, short = sample(64), sample(12)
    assert int((~whole["response"]).sum()) == 9
    for side in ("", "rejected_"):
        text, response, all_of_it = short[f"{side}text"], short[f"{side}response"], whole[f"{side}text"]
        assert len(text) == min(12, len(all_of_it) - 3) and text[0] == 2
        assert int((~response).sum()) == 6  # the start, and half of what start and end leave
        assert torch.equal(text[1:6], all_of_it[4:9])
        assert torch.equal(text[6:], all_of_it[9:][:6])
    with pytest.raises(UserError, match="no room"):
        sample(3)


def test_packed_it_is_plain_text(tmp_path: Path) -> None:
    data = opened(tmp_path, pack=True, length=64)
    samples = data.split("train")
    assert {*samples[0]} == {"text", "word", "document"}
    spelled = " ".join(
        data.vocabulary.tokenizer.decode(samples[i]["text"].tolist()) for i in range(len(samples))
    ).split()
    assert spelled.count("ask") == spelled.count("yes") == 30 and "never" not in spelled


def test_a_batch_pads_both_sides_and_stacks_them(tmp_path: Path) -> None:
    data = opened(tmp_path)
    samples = [{**data.split("train")[i], "id": torch.tensor(i)} for i in range(6)]
    rows = stack(collate(samples))
    for i, sample in enumerate(samples):
        for row, side in ((i, ""), (6 + i, "rejected_")):
            n = int(rows["text_length"][row])
            for key in ("text", "response", "word"):
                assert torch.equal(rows[key][row, :n], sample[f"{side}{key}"])
                assert not rows[key][row, n:].any()
    assert torch.equal(rows["id"], torch.arange(6).repeat(2))
    # of one length, collate tells none
    same = stack(collate([samples[0]] * 2))
    assert same["text_length"].tolist() == [
        len(samples[0][f"{s}text"]) for s in ("", "", "rejected_", "rejected_")
    ]
    with pytest.raises(UserError, match="pairs of responses"):
        stack({"text": rows["text"]})


def test_one_pleasant_or_unpleasant_word_or_more_decides() -> None:
    found = sentiment()
    assert found.rejected is not None and len(found.prompts) == 1924
    assert len({*found.responses, *found.rejected}) > 3800
    for texts, words, others in (
        (found.responses, PLEASANT, UNPLEASANT),
        (found.rejected, UNPLEASANT, PLEASANT),
    ):
        assert all(spans_of(text, words) and not spans_of(text, others) for text in texts)
    data = open_data("language/sentiment", limit=200, vocab_size=1000)
    assert isinstance(data, ExchangeDataset)
    for i in range(0, 200, 7):
        sample = data.split("train")[i]
        for side, words in (("", PLEASANT), ("rejected_", UNPLEASANT)):
            text, word, decides = (sample[f"{side}{key}"] for key in ("text", "word", "decisive"))
            assert not (decides & ~sample[f"{side}response"]).any() and decides.any()
            for number in word[decides].unique():
                ids = text[word == number]
                assert decides[word == number].all()
                assert data.vocabulary.tokenizer.decode(ids.tolist()).strip() in words
            spelled = [
                data.vocabulary.tokenizer.decode(text[word == n].tolist()).strip() for n in word.unique()
            ]
            assert sum(w in words for w in spelled) == len(word[decides].unique())


def test_other_systems_read_the_wanted_side() -> None:
    data = open_data("language/sentiment", limit=20, vocab_size=400, length=32)
    batch = collate([{**data.split("train")[i], "id": torch.tensor(i)} for i in range(4)])
    for name in ("language/mlm", "language/sparsepo"):
        system = build(name, preset="tiny", facts=data.provides)
        assert system.encode(batch).shape == tuple(batch["text"].shape)
