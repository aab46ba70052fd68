"""Held-out preferences and planted facts, by systems whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import UserError, build, run
from polymask.data import open_data
from polymask_language.facts import Facts, single_words
from polymask_language.preference import Preference


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run of a tiny policy that has moved, and the same untrained."""
    data = open_data("language/sentiment", limit=40, vocab_size=600, length=32)
    options = {"masking": "language/constant-weight", "masking.weight": 2.0}
    moved: Any = build("language/sparsepo", preset="tiny", facts=data.provides, **options)
    fresh: Any = SimpleNamespace(
        system=build("language/sparsepo", preset="tiny", facts=data.provides, **options)
    )
    with torch.no_grad():
        moved.encoder.weight.add_(0.3 * torch.randn_like(moved.encoder.weight))
    found = SimpleNamespace(system=moved, data=data, folder=None, config={"system": "x"})
    monkeypatch.setattr(run, "open_run", lambda folder, trained: fresh)
    return found


def test_preferences_are_counted_without_the_weights(opened: Any) -> None:
    scores = {(s.row, s.metric): s.value for s in Preference(batch_size=7)(opened)}
    samples = opened.data.split("test")
    margins, kls, likelier = [], [], []
    for i in range(len(samples)):
        batch = {key: x[None] for key, x in samples[i].items()}
        with torch.no_grad():
            terms = opened.system.terms(batch, run_step())
        margins.append(terms.reward[0].sum() - terms.reward[1].sum())
        kls.append(terms.divergence.sum() / terms.scored.sum())
        likelier.append(float(terms.likelihood[0].sum() > terms.likelihood[1].sum()))
    margin = torch.stack(margins)
    assert scores["pre-trained", "accuracy"] == pytest.approx(float((margin > 0).float().mean()))
    assert scores["pre-trained", "margin"] == pytest.approx(float(margin.mean()), rel=1e-3)
    root = float(torch.stack(kls).mean()) ** 0.5
    assert scores["pre-trained", "margin over root KL"] == pytest.approx(
        float(margin.mean()) / root, rel=1e-3
    )
    assert ("untrained", "margin over root KL") not in scores
    assert scores["pre-trained", "KL"] == pytest.approx(float(torch.stack(kls).mean()), rel=1e-3)
    assert scores["pre-trained", "mean weight"] == pytest.approx(2)
    assert scores["pre-trained", "contrast"] == pytest.approx(1)
    assert scores["likelihood of the reference", "accuracy"] == pytest.approx(sum(likelier) / len(likelier))
    assert scores["untrained", "margin"] == scores["untrained", "accuracy"] == scores["untrained", "KL"] == 0
    opened.system = SimpleNamespace()
    with pytest.raises(UserError, match="no policy"):
        list(Preference()(opened))


def run_step() -> Any:
    from polymask import Step

    return Step()


def test_contrast_is_weight_on_what_decides(opened: Any) -> None:
    def masking(request: Any) -> Any:
        from polymask import Mask

        return Mask(decides[: len(request.ids), : request.sites] * 3.0 + request.valid, None, request.valid)

    batch = [opened.data.split("test")[i] for i in range(2)]
    width = max(len(s[f"{side}text"]) for s in batch for side in ("", "rejected_"))
    decides = torch.zeros(2, width)
    both: list[Tensor] = []

    def by_side(request: Any) -> Any:
        # chosen, then rejected: each with its own decisive tokens
        side = "" if request.stream % 2 == 0 else "rejected_"
        decides.zero_()
        for row, sample in enumerate(batch):
            found = sample[f"{side}decisive"]
            decides[row, : len(found)] = found.float()
        both.append(decides.clone())
        return masking(request)

    opened.system.masking = by_side
    opened.data = SimpleNamespace(split=lambda name: batch)
    scores = {(s.row, s.metric): s.value for s in Preference()(opened)}
    decisive = torch.stack([both[0].sum(1), both[1].sum(1)]).sum(0)
    count = torch.tensor(
        [float(sum(s[f"{side}response"].sum() for side in ("", "rejected_"))) for s in batch]
    )
    mean = (1 + 3 * decisive / count).mean()
    assert scores["pre-trained", "mean weight"] == pytest.approx(float(mean), rel=1e-5)
    assert scores["pre-trained", "contrast"] == pytest.approx(float(4 / mean), rel=1e-5)


class Reader:
    """Knows the answer by looking where the name was said before, or guesses alike."""

    perplexity = "perplexity"

    def __init__(self, reads: bool) -> None:
        self.reads = reads

    def surprise(self, batch: dict[str, Tensor]) -> Tensor:
        text = batch["text"]
        nats = torch.ones_like(text, dtype=torch.float32)
        if self.reads:
            for row, ids in enumerate(text.tolist()):
                name = ids[-1 - len(self.between) - 1]
                at = ids.index(name) + 1 + len(self.between)
                nats[row, -1] = 0.0 if ids[at] == ids[-1] else 5.0
        return nats

    between: list[int]

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])


def test_facts_are_found_by_one_who_reads_and_not_by_one_who_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data("language/glosses", limit=3000, vocab_size=3000, length=128)
    from contextlib import nullcontext

    monkeypatch.setattr("polymask_language.facts.evaluating", nullcontext)
    asked: list[Any] = []
    beside = lambda **options: lambda run: asked.append(run) or []  # noqa: E731
    monkeypatch.setattr("polymask_language.facts.Perplexity", beside)
    reader, blind = Reader(True), Reader(False)
    reader.between = data.vocabulary.encode(["is"])[0].ids  # type: ignore[attr-defined]
    monkeypatch.setattr(run, "open_run", lambda folder, trained: SimpleNamespace(system=blind))
    opened: Any = SimpleNamespace(system=reader, data=data, folder=None, config={"system": "x"})
    scores = {(s.row, s.metric): s.value for s in Facts(questions=40)(opened)}
    for metric, wanted in {"found": 1.0, "found far": 1.0, "found near": 1.0, "advantage": 5.0}.items():
        assert scores["pre-trained", metric] == wanted
        assert scores["untrained", metric] == 0
    assert scores["guessing", "found"] == 0.25 and asked == [opened]
    opened.system = SimpleNamespace(perplexity="pseudo-perplexity")
    with pytest.raises(UserError, match="what comes next"):
        list(Facts()(opened))


def test_planted_texts_are_real_text_with_every_fact_once() -> None:
    data: Any = open_data("language/glosses", limit=3000, vocab_size=3000, length=128)
    source = [data.split("test")[i]["text"] for i in range(600)]
    facts = Facts(questions=12, facts=3)
    texts, asked = facts.plant(iter(source), data.vocabulary, 128)
    again, _ = facts.plant(iter(source), data.vocabulary, 128)
    assert texts.shape == (12, 3, 128) and torch.equal(texts, again)
    assert asked.tolist() == [0, 1, 2] * 4
    words = set(single_words(data.vocabulary).tolist())
    for rows, right in zip(texts, asked.tolist(), strict=True):
        assert (rows[:, :-1] == rows[0, :-1]).all()
        spelled = data.vocabulary.tokenizer.decode(rows[0, :-1].tolist())
        parts = spelled.split("the secret word of")
        assert len(parts) == 5
        said = [part.split()[:3] for part in parts[1:]]
        assert said[3][0] == said[right][0] and all(w[1] == "is" for w in said)
        answers = [data.vocabulary.tokenizer.decode([int(row[-1])]).strip() for row in rows]
        assert answers == [w[2].rstrip(".") for w in said[:3]] and {int(row[-1]) for row in rows} <= words
        assert all(len(part.split()) > 4 for part in parts[:4])
    with pytest.raises(UserError, match="no room"):
        facts.plant(iter(source), data.vocabulary, 32)
    with pytest.raises(UserError, match="too short"):
        facts.plant(iter(source[:3]), data.vocabulary, 128)
