"""Mistakes are made where rules say, and the likelier text of a pair is counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from polymask import UserError, build
from polymask_language.datasets.base import TextDataset
from polymask_language.datasets.lines import lines
from polymask_language.evaluations.minimal_pairs import RULES, MinimalPairs, Pair, scores, spoiled

CASES = {
    "a": {"the act of a owner in an act": "the act of an owner in an act", "vitamin a": None, "an owl": None},
    "an": {"the act of an owl": "the act of a owl", "a tree": None},
    "one noun": {
        "the work of a person who sings": "the work of a persons who sings",
        "intended for use in a factory": "intended for use in a factories",
        "each church of the town": "each churches of the town",
        "a large house": None,
        "each beautiful of its kind": None,
        "a tree grows": None,
    },
    "many nouns": {
        "any of various trees of the north": "any of various tree of the north",
        "a line between two counties": "a line between two county",
        "one of several classes": "one of several class",
        "two large trees": None,
    },
    "verb of one": {
        "a person who makes shoes": "a person who make shoes",
        "an animal that has wings": "an animal that have wings",
        "someone who carries letters": "someone who carry letters",
        "a person who teaches": "a person who teach",
        "a person who went away": None,
        "a person who quickly runs": None,
        "a place that trees grow in": None,
        "the fact that it rains": None,
        "a genus that was lost": None,  # it ends in s, so its number is not told
        "plants that are green": None,
    },
    "verb of many": {
        "plants that are green": "plants that is green",
        "people who live in tents": "people who lives in tents",
        "people who lived in tents": None,
        "those who could go": None,
        "a person who makes shoes": None,
    },
}


@pytest.mark.parametrize("kind", CASES)
def test_one_word_is_made_wrong_where_the_rule_holds(kind: str) -> None:
    assert set(CASES) == set(RULES)
    for text, wrong in CASES[kind].items():
        found = spoiled(text, RULES[kind])
        assert (None if found is None else found.wrong) == wrong, text


def test_points_of_a_pair() -> None:
    kinds = {"one": [Pair("", "")] * 3, "other": [Pair("", "")]}
    nats = torch.tensor([1.0, 2.0, 3.0, 2.0, 5.0, 5.0, 0.0, 9.0])
    found = {score.metric: score for score in scores("x", kinds, nats)}
    assert [found[name].value for name in ("minimal pairs", "one", "other")] == [2.5 / 4, 1.5 / 3, 1.0]
    low, high = found["minimal pairs"].low, found["minimal pairs"].high
    assert low is not None and high is not None and low < 2.5 / 4 < high


SENTENCES = [f"{a} {b} that {c} here, of a {d} or an owner; any of various {d}s that are old"
             for a, b in (("a", "person"), ("an", "animal"))
             for c in ("makes", "carries", "is", "has")
             for d in ("house", "tree", "boat", "king")]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TextDataset:
    path = tmp_path_factory.mktemp("pairs") / "lines.txt"
    path.write_text("\n".join(SENTENCES))
    return TextDataset(lines(source=str(path)), vocab_size=300, length=64, test=0.25)


def opened(data: TextDataset, system: Any) -> Any:
    return SimpleNamespace(name="x", system=system, data=data, untrained=lambda: system)


def test_texts_are_scored_whole_by_frequencies_and_by_a_model(data: TextDataset) -> None:
    system: Any = build("language/mlm", preset="tiny", facts=data.provides)
    share = torch.from_numpy(np.load(data.provides["statistics_file"])["counts"]).double() + 1
    share = (share / share.sum()).log()
    with torch.no_grad():  # a model that knows frequencies and nothing else
        system.head.layer[2].weight.zero_()
        system.head.layer[2].bias.zero_()
        system.head.bias.copy_(share)
    pairs = MinimalPairs(limit=100, batch_size=7)
    kinds = pairs.pairs([data.corpus.texts[i] for i in data.documents["test"].tolist()])
    assert list(kinds) == list(RULES) and all(len(found) == 8 for found in kinds.values())
    expected = []
    for pair in (pair for found in kinds.values() for pair in found):
        right, wrong = (sum(float(share[i]) for i in data.vocabulary.encode([t])[0].ids) for t in pair)
        expected.append((right > wrong) + 0.5 * (right == wrong))
    rows: dict[str, dict[str, float]] = {}
    for score in pairs(opened(data, system)):
        rows.setdefault(score.row, {})[score.metric] = score.value
    assert list(rows) == ["pre-trained", "untrained", "frequency alone"]
    assert 0 < rows["frequency alone"]["minimal pairs"] < 1
    for found in rows.values():
        assert found["minimal pairs"] == pytest.approx(sum(expected) / len(expected))
        assert found["many nouns"] == pytest.approx(sum(expected[24:32]) / 8)


def test_a_causal_model_is_asked_for_what_comes_next(data: TextDataset) -> None:
    system: Any = build("language/meap", preset="tiny", facts=data.provides)
    asked: list[int] = []
    strides: set[int | None] = set()
    surprise = system.surprise

    def spied(batch: dict[str, torch.Tensor], stride: int | None) -> torch.Tensor:
        asked.append(len(batch["text"]))
        strides.add(stride)
        return surprise(batch, stride)

    system.surprise = spied
    found = list(MinimalPairs(batch_size=16, stride=3)(opened(data, system)))
    assert (
        strides == {3}
        and sum(asked) == 2 * 2 * 48
        and {score.row for score in found} >= {"pre-trained", "untrained"}
    )
    one = torch.tensor([2, *data.vocabulary.encode([SENTENCES[0]])[0].ids, 3])
    nats = surprise({"text": one[None]})[0]
    logits = system.encoder.logits(system.see(one[None], system.tokenizer({"text": one[None]})))[0]
    each = torch.nn.functional.cross_entropy(logits[:-2], one[1:-1], reduction="none")
    torch.testing.assert_close(nats.nansum(), each.sum())


def test_what_cannot_be_measured_is_refused(data: TextDataset) -> None:
    with pytest.raises(UserError, match="language model"):
        list(MinimalPairs()(opened(data, SimpleNamespace())))
    with pytest.raises(UserError, match="of English"):
        MinimalPairs().pairs(["ein Haus am See"])
    with pytest.raises(UserError, match="1 or more"):
        MinimalPairs(limit=0)
