"""PROP: the document's model, sets drawn from it, what is hidden, what the loss is, where gradients go."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import poisson
from torch import nn

from polymask import Batch, Step, UserError
from polymask.data import collate, valid_of
from polymask.nn.corruption import maskable
from polymask.objectives import CrossEntropy
from polymask_language.datasets.base import Corpus, TextDataset
from polymask_language.encoders import Causal, Transformer
from polymask_language.joining import join
from polymask_language.maskings import Words
from polymask_language.systems.prop import PROP
from polymask_language.tokenizers import TokenIds
from polymask_language.vocabulary import Vocabulary
from polymask_language.word_sets import LONGEST, Counted, WordSets, of_letters

WORDS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]
TEXTS = [
    f"the {a} and the {WORDS[(i * i) % 7]} of {WORDS[i % 3]} {a}, unique{'x' * (i % 40)}."
    for i, a in enumerate(WORDS * 12)
]
STEP = Step(7, 100, 3)


@pytest.fixture(scope="module")
def data() -> TextDataset:
    return TextDataset(Corpus(TEXTS), vocab_size=320, length=48, test=0.2)


@pytest.fixture(scope="module")
def batch(data: TextDataset) -> Batch:
    rows = [data.split("train")[i] for i in range(24)]
    return {**collate(rows), "id": torch.arange(24) * 5 + 2}


def sets_of(data: TextDataset, **options: Any) -> WordSets:
    facts = {k: data.provides[k] for k in ("vocabulary", "special_ids", "statistics_file", "tokenizer_file")}
    return WordSets(**facts, **{"least": 2, **options})


def system_of(data: TextDataset, **options: Any) -> PROP:
    torch.manual_seed(0)
    tokenizer = TokenIds(**{k: data.provides[k] for k in ("vocabulary", "length", "mask_id", "special_ids")})
    encoder = Transformer(vocabulary=data.vocabulary.size, length=64, dim=16, depth=1, heads=2, dropout=0.0)
    facts = {
        k: data.provides[k]
        for k in ("vocabulary", "length", "special_ids", "statistics_file", "tokenizer_file")
    }
    parts: dict[str, Any] = {
        "encoder": encoder,
        "masking": Words(),
        "objective": CrossEntropy(),
    }
    return PROP(**{**facts, **parts, "tokenizer": tokenizer, "least": 2, "dropout": 0.0, **options})


def spelled(sets: WordSets, data: TextDataset) -> list[str]:
    return Vocabulary(Path(data.provides["tokenizer_file"])).spell(sets.pieces)


def counted(sets: WordSets, batch: Batch, data: TextDataset) -> Counted:
    tokens = TokenIds(vocabulary=data.vocabulary.size, length=48)(batch)
    return sets.count(batch["text"], batch["word"], maskable(tokens, (0, 1, 2, 3, 4)))


# ------------------------------------------------------------------ the model of a document


def test_the_list_holds_words_that_are_frequent_enough_and_no_stop_words(data: TextDataset) -> None:
    words = spelled(sets_of(data), data)
    assert set(WORDS[:7]) <= set(words)
    assert not {"the", "and", "of", ",", "."} & set(words)
    train = (
        " ".join(TEXTS[i] for i in data.documents["train"].tolist()).replace(",", "").replace(".", "").split()
    )
    assert min(train.count(w) for w in words) == 2
    assert len(words) == sum(train.count(w) >= 2 for w in set(train) - {"the", "and", "of"})
    with pytest.raises(UserError, match="occurs 9999 times"):
        sets_of(data, least=9999)


def test_words_of_a_document_are_found_and_its_length_leaves_stop_words_out(
    data: TextDataset, batch: Batch
) -> None:
    sets = sets_of(data)
    words = spelled(sets, data)
    document = counted(sets, batch, data)
    for row in range(24):
        text = data.vocabulary.tokenizer.decode(batch["text"][row].tolist())
        content = [w.strip(",.") for w in text.split() if w.strip(",.") not in ("the", "and", "of")]
        found = [words[i] for i in document.words[row].tolist() if i >= 0]
        assert found == [w for w in content if w in words]
        assert document.length[row] == len(content)


@pytest.mark.parametrize("length", [8, 48])
def test_the_prior_weighs_as_much_as_a_sample_however_texts_are_cut(length: int) -> None:
    data = TextDataset(Corpus(TEXTS), vocab_size=320, length=length, test=0.2)
    samples = collate([data.split("train")[i] for i in range(len(data.split("train")))])
    facts = {"length": length, "sequences": data.provides["sequences"]}
    system = system_of(data, **facts)
    tokens = system.tokenizer(samples)
    assert tokens.ids is not None
    document = system.sets.count(tokens.ids, samples["word"], maskable(tokens, (0, 1, 2, 3, 4)))
    assert float(system.sets.mu) == pytest.approx(float(document.length.mean()), rel=0.1)


def test_likelihoods_sum_to_1_where_every_word_is_in_the_list() -> None:
    sets = WordSets(vocabulary=40, special_ids=(0, 1, 2, 3, 4), mu=7.0)
    words = torch.tensor([[3, 3, 9, -1, -1], [-1] * 5])
    document = Counted(words, torch.tensor([3.0, 0.0]))
    likelihood = sets.log_likelihood(torch.arange(35).expand(2, -1), document).exp()
    assert likelihood.sum(1).tolist() == pytest.approx([1, 1])
    assert float(likelihood[0, 3]) == pytest.approx((2 + 7 / 35) / 10)
    assert float(likelihood[0, 5]) == pytest.approx((7 / 35) / 10)
    assert torch.allclose(likelihood[1], sets.background)  # nothing but the prior of an empty document


def test_words_are_drawn_in_proportion_to_their_chance_and_keep(data: TextDataset, batch: Batch) -> None:
    sets = sets_of(data, threshold=0.02, frequent=20)
    assert (sets.kept < 1).any() and (sets.kept == 1).any()
    document = counted(sets, batch, data)
    one = Counted(document.words[:1].expand(8000, -1), document.length[:1].expand(8000))
    first, second = sets.draw(one, STEP, torch.arange(8000) * 3)
    drawn = torch.cat([first, second]).flatten()
    drawn = drawn[drawn >= 0]
    every = torch.arange(len(sets.background))[None]
    chance = sets.log_likelihood(every, Counted(document.words[:1], document.length[:1])).exp()[0] * sets.kept
    chance = chance / chance.sum()
    counts = torch.bincount(drawn, minlength=len(chance))
    deviation = (counts - len(drawn) * chance) / (len(drawn) * chance * (1 - chance)).sqrt()
    assert len(drawn) > 40_000 and float(deviation.abs().max()) < 4.5


def test_both_sets_are_of_one_poisson_length_and_the_likelier_leads(data: TextDataset, batch: Batch) -> None:
    sets = sets_of(data)
    document = counted(sets, batch, data)
    many = Counted(document.words.repeat(200, 1), document.length.repeat(200))
    likelier, other = sets.draw(many, STEP, torch.arange(4800))
    lengths = (likelier >= 0).sum(1)
    assert torch.equal(lengths, (other >= 0).sum(1)) and lengths.min() == 1
    assert float(lengths.float().mean()) == pytest.approx(3 / (1 - math.exp(-3)), abs=0.08)
    shares = torch.bincount(lengths, minlength=LONGEST + 1)[1:] / 4800
    wanted = torch.tensor(poisson.pmf(range(1, LONGEST + 1), 3) / (1 - math.exp(-3)))
    assert float((shares - wanted).abs().max()) < 0.03
    gap = sets.log_likelihood(likelier, many).sum(1) - sets.log_likelihood(other, many).sum(1)
    assert (gap >= 0).all() and (gap > 0).float().mean() > 0.8
    again = sets.draw(many, STEP, torch.arange(4800))[0]
    assert torch.equal(likelier, again)
    assert not torch.equal(likelier, sets.draw(many, Step(8, 100, 3), torch.arange(4800))[0])


# ------------------------------------------------------------------ the rows


def test_a_row_is_a_set_and_its_document_cut_at_the_end(data: TextDataset, batch: Batch) -> None:
    system = system_of(data, length=24)
    pieces = torch.full((24, 6), -1)
    pieces[:, 0], pieces[:, 2] = 9, 11
    valid = valid_of(batch, "text")
    rows = join(pieces, batch["text"], batch["word"], valid, **system.frame)
    for row in range(24):
        n = int(rows["text_length"][row])
        text, segment = rows["text"][row, :n].tolist(), rows["segment"][row, :n].tolist()
        document = batch["text"][row, : int(batch["text_length"][row])].tolist()[1:-1]
        assert text == [2, 9, 11, 3, *document[:19], 3] and n <= 24
        assert segment == [0] * 4 + [1] * (n - 4)
        words = batch["word"][row, 1 : n - 4]
        assert torch.equal(rows["word"][row, 4 : n - 1].diff(), words.diff())
        assert (rows["text"][row, n:] == 0).all()
    long = join(torch.full((24, 60), 9), batch["text"], batch["word"], valid, **system.frame)
    assert long["text_length"].max() <= 24 and (long["text"] == 9).sum(1).eq(12).all()


def test_only_whole_words_of_the_document_are_hidden_and_each_row_by_itself(
    data: TextDataset, batch: Batch
) -> None:
    system = system_of(data, masking=Words(ratio=0.4, most=8))
    sides = system.pair(batch, STEP)
    masks = system.draw_sides(sides, STEP)
    for side, mask in zip(sides, masks, strict=True):
        assert not mask.hidden[side["segment"] == 0].any()
        special = torch.isin(side["text"], torch.tensor([0, 1, 2, 3, 4]))
        assert not mask.hidden[special].any() and mask.hidden.any(1).all()
        assert mask.hidden.sum(1).max() <= 8
        for row in range(24):
            for word in side["word"][row][mask.hidden[row]].unique():
                assert mask.hidden[row][side["word"][row] == word].all()
        shown = system.corrupt(side, mask, STEP, 0)
        assert torch.equal(shown[~mask.hidden], side["text"][~mask.hidden])
    assert any((a != b) for a, b in zip(*(m.hidden[:, 8:20].tolist() for m in masks), strict=True))
    for view, side in zip(system.masks(batch, STEP).values(), sides, strict=True):
        assert torch.equal(view.batch["text"], side["text"])
        assert torch.equal(view.tokens.ids, side["text"])
        assert view.mask.hidden.shape == side["text"].shape


def test_packed_documents_and_data_without_words_are_refused(data: TextDataset, batch: Batch) -> None:
    system = system_of(data)
    with pytest.raises(UserError, match="one document to a sample"):
        system({**batch, "document": torch.zeros_like(batch["text"])}, STEP)
    with pytest.raises(UserError, match="to know its words"):
        system({k: v for k, v in batch.items() if k != "word"}, STEP)
    with pytest.raises(UserError, match="start and end"):
        system_of(data, start_id=None)


# ------------------------------------------------------------------ the loss


def test_the_hinge_on_the_softmax_is_twice_a_sigmoid(data: TextDataset) -> None:
    system = system_of(data)
    s = torch.randn(2, 50, dtype=torch.float64)
    for a, b in s.T:
        p = torch.stack([a, b]).softmax(0)
        hinge = (1 - (p[0] - p[1])).clamp(min=0)
        assert float(system.prefer(a[None], b[None])) == pytest.approx(float(hinge), abs=1e-6)
        assert float(hinge) == pytest.approx(2 * float(torch.sigmoid(b - a)), abs=1e-6)
        assert float(system.prefer(b[None], a[None])) == pytest.approx(2 - float(hinge), abs=1e-6)
    tie = torch.zeros(3)
    assert float(system.prefer(tie, tie)) == 1.0
    logistic = system_of(data, preference="logistic")
    assert float(logistic.prefer(tie, tie)) == pytest.approx(math.log(2))
    with pytest.raises(UserError, match="choose 'hinge' or 'logistic'"):
        system_of(data, preference="margin")


def test_the_loss_of_words_is_that_of_hidden_ones_in_all_rows(data: TextDataset, batch: Batch) -> None:
    system = system_of(data)
    sides = system.pair(batch, STEP)
    masks = system.draw_sides(sides, STEP)
    total, count = 0.0, 0
    for k, (side, mask) in enumerate(zip(sides, masks, strict=True)):
        states = system.see(system.corrupt(side, mask, STEP, k), side["segment"], system.tokenizer(side))
        loss = nn.functional.cross_entropy(
            system.head(states[mask.hidden], system.encoder), side["text"][mask.hidden], reduction="sum"
        )
        total, count = total + float(loss), count + int(mask.hidden.sum())
    assert float(system(batch, STEP)["words"]) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(("term", "silent"), [("words", "scorer"), ("preference", "head")])
def test_each_loss_trains_its_own_head_and_the_encoder(
    term: str, silent: str, data: TextDataset, batch: Batch
) -> None:
    system = system_of(data)
    system(batch, STEP)[term].backward()
    heard = {"words": "head", "preference": "scorer"}[term]
    assert all(p.grad is None or not p.grad.any() for p in getattr(system, silent).parameters())
    assert all(p.grad is not None and p.grad.any() for p in getattr(system, heard).parameters())
    embedding = system.encoder.weight  # type: ignore[attr-defined]
    assert embedding.grad is not None and embedding.grad.any()


def test_relevance_is_the_score_of_the_row_that_training_makes(data: TextDataset, batch: Batch) -> None:
    system = system_of(data).eval()
    document = batch["text"][:3, 1:9].clone()
    query = torch.tensor([[9, 0], [10, 11], [12, 0]])
    scores = system.relevance(query, document)
    for row, words in enumerate(([9], [10, 11], [12])):
        text = torch.tensor([[2, *words, 3, *[i for i in document[row].tolist() if i not in (0, 3)], 3]])
        segment = (torch.arange(text.shape[1]) >= len(words) + 2).long()[None]
        alone = system.judge(system.see(text, segment, system.tokenizer({"text": text})))
        assert float(scores[row]) == pytest.approx(float(alone), abs=1e-5)


@pytest.mark.slow
def test_pairs_can_be_learned_and_held_out_ones_told_apart(data: TextDataset, batch: Batch) -> None:
    system = system_of(data, preference="logistic")
    optimizer = torch.optim.Adam(system.parameters(), lr=0.02)
    rows = [data.split("train")[i] for i in range(len(data.split("train")))]
    whole = {**collate(rows), "id": torch.arange(len(rows))}
    for index in range(60):
        optimizer.zero_grad()
        system(whole, Step(index, 60, 0))["preference"].backward()
        optimizer.step()
    held = [data.split("test")[i] for i in range(len(data.split("test")))]
    test = {**collate(held), "id": torch.arange(len(held))}
    with torch.no_grad():
        right = []
        for seed in range(10):
            a, b = (
                system.judge(system.see(s["text"], s["segment"], system.tokenizer(s)))
                for s in system.pair(test, Step(0, 1, 100 + seed))
            )
            right.append(a > b)
    assert float(torch.stack(right).float().mean()) > 0.65


def test_words_are_of_letters_of_any_script() -> None:
    assert all(map(of_letters, ("ant", "éclair", "слово", "हिन्दी", "字")))
    assert not any(map(of_letters, ("", "a1", "4", ".", "it's")))
    texts = [f"мама мыла раму, {'папа' if i % 2 else 'брат'} спал" for i in range(40)]
    data = TextDataset(Corpus([f"{t} {i}" for i, t in enumerate(texts)]), vocab_size=400, length=48)
    assert {"мама", "раму", "папа"} <= set(spelled(sets_of(data), data))


def test_the_background_is_the_share_in_document_frequencies(data: TextDataset) -> None:
    sets, train = sets_of(data), [TEXTS[i] for i in data.documents["train"].tolist()]
    words = spelled(sets, data)
    counts = [sum(word in text.replace(",", "").replace(".", "").split() for text in train) for word in words]
    expected = torch.tensor(counts) / sum(counts)
    torch.testing.assert_close(sets.background, expected.float())


def test_rare_words_are_always_kept(data: TextDataset) -> None:
    sets = sets_of(data, threshold=0.0, frequent=20)
    train = " ".join(TEXTS[i] for i in data.documents["train"].tolist()).replace(",", "").replace(".", "")
    counts = torch.tensor([train.split().count(word) for word in spelled(sets, data)])
    assert torch.equal(sets.kept, (counts < 20).float()) and 0 < int((counts < 20).sum()) < len(counts)


def test_the_score_sees_segments_through_a_tanh(data: TextDataset, batch: Batch) -> None:
    system = system_of(data).eval()
    query, document = torch.full((24, 2), 9), batch["text"]
    before = system.relevance(query, document)
    with torch.no_grad():
        system.segment.weight.copy_(system.segment.weight.flip(0))
    assert not torch.allclose(system.relevance(query, document), before)
    states = 1000 * torch.randn(5, 1, 16)
    bound = float(system.scorer[-1].weight.detach().abs().sum())
    assert float(system.judge(states).detach().abs().max()) <= bound + 1e-6


def test_rows_of_a_pair_draw_from_streams_of_their_own(data: TextDataset, batch: Batch) -> None:
    streams, words = [], Words()

    def masking(request: Any) -> Any:
        streams.append(request.stream)
        return words(request)

    system = system_of(data, masking=masking)
    side, _ = system.pair(batch, STEP)
    masks = system.draw_sides((side, side), STEP)
    assert len(set(streams)) == 2
    # what is shown in place of a hidden token, too
    shown = [system.corrupt(side, masks[0], STEP, number) for number in (0, 0, 1)]
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])


def test_an_encoder_that_sees_nothing_at_the_first_token_is_refused(data: TextDataset) -> None:
    encoder = Causal(vocabulary=data.vocabulary.size, length=64, dim=16, depth=1, heads=2)
    with pytest.raises(UserError, match="choose --encoder language/transformer"):
        system_of(data, encoder=encoder)
