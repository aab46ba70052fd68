"""Documents become samples: cut, packed, split by what they say, counted, drawn."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from polymask import UserError
from polymask.data import BadSample, collate, describe
from polymask_language.datasets import encoded
from polymask_language.datasets.base import Corpus, TextDataset, read_text
from polymask_language.datasets.sequences import cut, pack
from polymask_language.tokenizers import TAGS
from polymask_language.words import load_statistics, word_keys

TEXTS = [
    f"document number {i} says that {'very ' * (i % 7)}little is known of fish {i % 10}." for i in range(60)
]


def data(texts: list[str] = TEXTS, labels: list[int] | None = None, **options: object) -> TextDataset:
    classes = None if labels is None else ["a", "b"]
    asked = {"vocab_size": 400, "length": 16, **options}
    return TextDataset(Corpus(texts, labels=labels, classes=classes), **asked)  # type: ignore[arg-type]


def spelled(found: TextDataset, ids: torch.Tensor) -> str:
    return " ".join(found.vocabulary.tokenizer.decode(ids.tolist()).split())


def test_every_document_lies_whole_in_one_split() -> None:
    found = data()
    seen = set()
    for name in ("train", "test"):
        samples = found.split(name)
        text: dict[int, list[int]] = {}
        for i in range(len(samples)):
            sample = samples[i]["text"]
            assert len(sample) <= 16 and sample[0] == 2 and sample[-1] == 3
            document = int(found._samples[name][1][i])
            text.setdefault(document, []).extend(sample[1:-1].tolist())
        assert sorted(text) == found.documents[name].tolist()
        for document, ids in text.items():
            assert spelled(found, torch.tensor(ids)) == TEXTS[document]
        seen |= set(text)
    assert len(seen) == 60 and len(found.documents["test"]) == 6


def test_the_split_is_by_text_so_copies_stay_together_and_more_documents_move_few() -> None:
    copies = data([*TEXTS, *TEXTS])
    for name in ("train", "test"):
        index = copies.documents[name]
        assert sorted(x % 60 for x in index.tolist()) == sorted([*(index % 60).unique().tolist()] * 2)
    before = set(data().documents["test"].tolist())
    after = {i for i in data([*TEXTS, "one more"]).documents["test"].tolist() if i < 60}
    assert len(before ^ after) <= 1
    labels = [int(i >= 20) for i in range(60)]
    held = data(labels=labels).documents["test"]
    assert [sum(labels[i] == c for i in held.tolist()) for c in (0, 1)] == [2, 4]


def test_words_and_parts_of_speech_follow_their_tokens() -> None:
    found = data(tags=True, length=64, vocab_size=300)
    sample = found.split("train")[3]
    pieces = found.vocabulary.pieces(sample["text"])
    words: dict[int, str] = {}
    for piece, word in zip(pieces, sample["word"].tolist(), strict=True):
        words[word] = words.get(word, "") + piece
    assert [w.strip() for w in words.values()][1:3] == ["document", "number"]
    assert sample["word"].diff().unique().tolist() == [0, 1]
    tags = dict(zip(sample["word"].tolist(), sample["part_of_speech"].tolist(), strict=True))
    tag = {word.strip(): TAGS[tags[w]] for w, word in words.items()}
    wanted = {"document": "NOUN", "says": "VERB", "that": "DET", "little": "ADJ", ".": "."}
    assert {word: tag[word] for word in wanted} == wanted
    assert tag["[CLS]"] == "X"
    assert "part_of_speech" not in data().split("train")[0]


def test_packing_loses_nothing_and_numbers_documents() -> None:
    plain, packed = data(length=64), data(length=64, pack=True)
    texts = sorted(spelled(plain, s["text"][1:-1]) for s in map(plain.split("train").__getitem__, range(54)))
    found = []
    for i in range(len(packed.split("train"))):
        sample = packed.split("train")[i]
        assert len(sample["text"]) <= 64
        for document in sample["document"].unique().tolist():
            ids = sample["text"][sample["document"] == document]
            assert ids[0] == 2 and ids[-1] == 3
            found.append(spelled(packed, ids[1:-1]))
    assert sorted(found) == texts
    assert packed.classes is None and packed.labels("train") is None
    lengths = packed.lengths("train")
    assert lengths.tolist() == [len(packed.split("train")[i]["text"]) for i in range(len(lengths))]
    assert float(lengths.float().mean()) > 48


def test_best_fit_fills_sequences() -> None:
    sizes = np.random.default_rng(0).integers(3, 60, 2000).tolist()
    rows = pack(sizes, 64)
    assert sorted(i for row in rows for i in row) == list(range(2000))
    assert max(sum(sizes[i] for i in row) for row in rows) <= 64
    assert len(rows) <= 1.02 * sum(sizes) / 64
    begin, end, owner = cut(torch.tensor([0, 10, 10]), torch.tensor([10, 10, 17]), 4)
    assert list(zip(begin.tolist(), end.tolist(), owner.tolist(), strict=True)) == [
        *((0, 3, 0), (3, 6, 0), (6, 10, 0)),
        *((10, 13, 2), (13, 17, 2)),
    ]


def test_labels_follow_samples_and_a_limit_takes_from_all_over() -> None:
    labels = [int("6" in text) for text in TEXTS]
    found = data(labels=labels)
    for name in ("train", "test"):
        wanted = [labels[d] for d in found._samples[name][1].tolist()]
        told = found.labels(name)
        assert told is not None and told.tolist() == wanted
    few = data(labels=labels, limit=5)
    whole = found.split("train")
    kept = [i * len(whole) // 5 for i in range(5)]
    assert all(torch.equal(few.split("train")[j]["text"], whole[i]["text"]) for j, i in enumerate(kept))
    assert few.provides["samples"] == 5 and len(few.labels("train")) == 5  # type: ignore[arg-type]


def test_statistics_count_what_is_trained_on() -> None:
    found = data(length=32)
    statistics = load_statistics(found.provides["statistics_file"])
    train = [TEXTS[i] for i in found.documents["train"].tolist()]
    assert statistics["counts"][5:].sum() == sum(len(e.ids) for e in found.vocabulary.encode(train))
    spelling = found.vocabulary.spell(torch.from_numpy(statistics["pieces"]))
    assert len(set(spelling)) == len(spelling)
    at = spelling.index("very")
    assert statistics["frequency"][at] == sum(text.count("very") for text in train)
    assert statistics["documents"][at] == sum("very" in text for text in train)
    assert statistics["length"].sum() == statistics["frequency"].sum()


def test_keys_of_words_are_those_of_their_pieces() -> None:
    ids = torch.tensor([[7, 8, 9, 7, 8, 8, 7], [9, 9, 9, 7, 8, 0, 0]])
    word = torch.tensor([[0, 0, 1, 2, 2, 3, 3], [0, 1, 2, 3, 3, -1, -1]])
    keys = word_keys(ids, word, 5)
    assert keys[0, 0] == keys[0, 2] == keys[1, 3] != keys[0, 3]  # 7 8 is not 8 7
    assert keys[0, 1] == keys[1, 0] == keys[1, 2]
    assert keys[0, 4] == keys[1, 4] == 0


def test_samples_are_read_from_the_cache_in_other_processes() -> None:
    samples = data().split("train")
    samples[0]
    copy = pickle.dumps(samples)
    assert len(copy) < 20_000
    assert all(torch.equal(x, samples[7][k]) for k, x in pickle.loads(copy)[7].items())


def test_texts_are_cut_once_though_a_run_names_its_vocabulary_by_another_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = data()
    monkeypatch.setattr(encoded, "_encode", lambda *_: pytest.fail("cut again"))
    again = data(**first.provides["preparation"])
    assert again.vocabulary.file != first.vocabulary.file
    assert torch.equal(again.split("train")[0]["text"], first.split("train")[0]["text"])


def test_a_descriptor_counts_content() -> None:
    found = data()
    samples = [found.split("train")[i] for i in (0, 5)]
    vectors = found.descriptor(collate(samples))
    for row, sample in zip(vectors, samples, strict=True):
        counts = torch.bincount(sample["text"][1:-1], minlength=4096).float().log1p()
        assert torch.allclose(row, counts / counts.norm())


def test_hidden_tokens_are_drawn_in_colour() -> None:
    found = data(pack=True, length=64)
    sample = found.split("train")[0]
    plain = found.render(sample)
    hidden = torch.zeros(len(sample["text"]), dtype=torch.bool)
    assert torch.equal(plain, found.render(sample, None, hidden)) and plain.shape[::2] == (3, 480)
    hidden[3] = True
    colour = torch.tensor([0.16, 0.45, 0.60])[:, None, None]
    painted = ((found.render(sample, None, hidden) - colour).abs() < 0.01).all(0)
    assert painted.sum() > 30 and not ((plain - colour).abs() < 0.01).all(0).any()
    rows = painted.nonzero()[:, 0]
    assert int(rows.max() - rows.min()) < 30  # one line


def test_what_is_no_text_is_refused() -> None:
    for options, message in (
        ({"texts": []}, "no text in the corpus"),
        ({"test": 1.0}, "0 <= test < 1"),
        ({"limit": 0}, "limit must be 1"),
        ({"length": 2}, "no room for text"),
    ):
        with pytest.raises(UserError, match=message):
            data(**options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no test documents"):
        data(test=0.0).split("test")
    with pytest.raises(UserError, match="no queries"):
        data().pairs("test")
    for raw, message in ((b"", "no text"), (b"\xff\xfe", "not UTF-8"), (b"a\0b", "bytes")):
        with pytest.raises(BadSample, match=message):
            read_text(raw)


def test_a_vocabulary_is_in_proportion_to_its_text() -> None:
    """Chinese has no spaces: with too many ids each line becomes a token, and nothing is predicted."""
    generator = np.random.default_rng(0)
    texts = ["".join(chr(0x4E00 + int(i)) for i in generator.integers(0, 300, 20)) for _ in range(200)]
    found = data(texts, vocab_size=8192, length=64)
    assert found.vocabulary.size < 1000
    assert float(found.lengths("train").float().mean()) > 10


def test_what_reaches_a_system_is_told() -> None:
    words = ["one two three four", *["one two three four five six seven eight nine ten"] * 9]
    kept = data(words, vocab="wordpiece", length=8, test=0)
    lines = describe(kept)
    assert lines["text"] == f"10 documents as {len(kept.split('train'))} samples of 6 to 7 tokens"
    assert lines["vocabulary"] == f"{kept.vocabulary.size} ids; 0.0% of the text is unknown to them"
    strange = data(["日本 one"] * 10, vocab=str(kept.vocabulary.file), length=8, test=0)
    unknown = float((strange.encoded.array("ids") == strange.vocabulary.unknown_id).mean())
    assert 0 < unknown < 1
    assert f"; {unknown:.1%} of the text is unknown" in describe(strange)["vocabulary"]


def test_documents_of_one_token_are_told() -> None:
    words = ["aardvark", "badger"] * 40
    with pytest.raises(UserError, match="are a single token"):
        data([f"{word}" for word in words], length=16)
    with pytest.warns(UserWarning, match="documents of the corpus are a single token"):
        data([*words, *(f"{word} and {i} more {i * i}" for i, word in enumerate(words[:60]))], length=64)
