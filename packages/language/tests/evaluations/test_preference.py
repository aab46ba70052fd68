"""Held-out preferences and planted facts, by systems whose answers are known."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import UserError, build
from polymask.data import open_data
from polymask_language.evaluations.facts import Facts, single_words
from polymask_language.evaluations.preference import Preference


@pytest.fixture
def opened() -> Any:
    """A run of a tiny policy that has moved, and the same untrained."""
    data = open_data("language/sentiment", limit=40, vocab_size=600, length=32)
    options = {"masking": "language/constant-weight", "masking.weight": 2.0}
    moved: Any = build("language/sparsepo", preset="tiny", facts=data.provides, **options)
    fresh = build("language/sparsepo", preset="tiny", facts=data.provides, **options)
    with torch.no_grad():
        moved.encoder.weight.add_(0.3 * torch.randn_like(moved.encoder.weight))
    return SimpleNamespace(name="x", system=moved, data=data, untrained=lambda: fresh)


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


VOCABULARY = 3000


class Reader:
    """Knows the answer by looking where the name was said before, or says the same whatever stands there."""

    perplexity = "perplexity"
    between: list[int]

    def __init__(self, reads: bool) -> None:
        self.reads = reads

    def following(self, batch: dict[str, Tensor]) -> Tensor:
        text = batch["text"]
        logits = torch.arange(VOCABULARY).float().repeat(len(text), 1) / VOCABULARY
        if self.reads:
            for row, ids in enumerate(text.tolist()):
                name = ids[-1 - len(self.between)]
                logits[row] = -torch.inf
                logits[row, ids[ids.index(name) + 1 + len(self.between)]] = 0.0
            logits = logits.clamp(min=-20.0)
        return logits.log_softmax(-1)

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])


@pytest.fixture(scope="module")
def glosses() -> Any:
    return open_data("language/glosses", limit=3000, vocab_size=VOCABULARY, length=128)


@pytest.mark.slow
def test_facts_are_found_by_one_who_reads_and_not_by_one_who_guesses(
    glosses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polymask_language.evaluations.facts.evaluating", nullcontext)
    asked: list[Any] = []
    beside = lambda **options: lambda run: asked.append(run) or []  # noqa: E731
    monkeypatch.setattr("polymask_language.evaluations.facts.Perplexity", beside)
    reader, blind = Reader(True), Reader(False)
    reader.between = glosses.vocabulary.encode(["is"])[0].ids
    opened: Any = SimpleNamespace(name="x", system=reader, data=glosses, untrained=lambda: blind)
    found = list(Facts(questions=400, batch_size=7)(opened))
    scores = {(s.row, s.metric): s for s in found}
    # nothing is likelier than certain, nothing less likely than the floor
    most = {"told": 20.0, "told far": 20.0, "advantage": 20.0}
    for metric, wanted in {"found": 1.0, "found far": 1.0, "found near": 1.0, **most}.items():
        score = scores["pre-trained", metric]
        assert score.value == pytest.approx(wanted, rel=1e-6)
        assert score.low is not None and score.high == pytest.approx(score.value)
        # of 400 answers that are all right, or of numbers that are all alike
        assert score.low > 0.95 * wanted if metric in most else 0.95 < score.low < 1
    for metric in ("told", "told far"):
        score = scores["untrained", metric]
        assert (score.value, score.low, score.high) == (0, 0, 0)
    share, gain = scores["untrained", "found"], scores["untrained", "advantage"]
    for score, chance in ((share, 0.25), (gain, 0.0)):
        assert score.low is not None and score.high is not None
        assert score.low < chance < score.high and score.high - score.low < 0.1
    assert scores["guessing", "found"].value == 0.25 and asked == [opened]
    opened.system = SimpleNamespace(perplexity="pseudo-perplexity")
    with pytest.raises(UserError, match="what comes next"):
        list(Facts()(opened))


def test_told_and_advantage_are_differences_of_log_likelihoods() -> None:
    """By whom a right word is likelier with its fact, and its rivals too: told rises, advantage does not."""
    asked = torch.tensor([0, 1, 2] * 2)
    told = torch.full((6, 3), -2.0, dtype=torch.float64)
    untold = torch.full((6, 3), -9.0, dtype=torch.float64)
    untold[torch.arange(6), asked] = -5.0
    scores = {s.metric: s for s in Facts(facts=3, questions=6).measure("x", told, untold, asked)}
    assert scores["told"].value == scores["told far"].value == 3
    assert scores["found"].value == scores["advantage"].value == 0
    told[torch.arange(6), asked] += torch.arange(6.0, dtype=torch.float64)
    scores = {s.metric: s for s in Facts(facts=3, questions=6).measure("x", told, untold, asked)}
    assert scores["told"].value == 5.5 and scores["told far"].value == 4.5
    assert scores["advantage"].value == 2.5 and scores["found"].value == pytest.approx(5 / 6)
    error = torch.arange(6.0).std() / 6**0.5
    assert scores["told"].high == pytest.approx(5.5 + 2.5706 * float(error), rel=1e-4)


def test_planted_texts_are_real_text_with_every_fact_once(glosses: Any) -> None:
    source = [glosses.split("test")[i]["text"] for i in range(600)]
    facts = Facts(questions=12, facts=3)
    planted = facts.plant(iter(source), glosses.vocabulary, 128)
    again = facts.plant(iter(source), glosses.vocabulary, 128)
    assert planted.told.shape == planted.untold.shape == (12, 127) and planted.words.shape == (12, 3)
    assert torch.equal(planted.told, again.told) and torch.equal(planted.untold, again.untold)
    assert planted.asked.tolist() == [0, 1, 2] * 4
    words = set(single_words(glosses.vocabulary).tolist())
    decode = glosses.vocabulary.tokenizer.decode
    rows = zip(planted.told, planted.untold, planted.words.tolist(), planted.asked.tolist(), strict=True)
    for told, untold, answers, right in rows:
        parts = decode(told.tolist()).split("the secret word of")
        assert len(parts) == 5 and all(len(part.split()) > 4 for part in parts[:4])
        said = [part.split()[:3] for part in parts[1:]]
        assert parts[4].split() == [said[right][0], "is"] and all(w[1] == "is" for w in said)
        assert [decode([i]).strip() for i in answers] == [w[2].rstrip(".") for w in said[:3]]
        # one token differs, the word of the fact that is asked for
        (place,) = (told != untold).nonzero()[:, 0].tolist()
        assert int(told[place]) == answers[right] and {*answers, int(untold[place])} <= words
        # and both words, and those of other facts, stand there alone
        assert [int((told == i).sum()) for i in (*answers, int(untold[place]))] == [1, 1, 1, 0]
    with pytest.raises(UserError, match="no room"):
        facts.plant(iter(source), glosses.vocabulary, 32)
    with pytest.raises(UserError, match="too short"):
        facts.plant(iter(source[:3]), glosses.vocabulary, 128)
    with pytest.raises(UserError, match="whole words"):
        Facts(questions=1200, facts=600).plant(cycle(source), glosses.vocabulary, 9000)
