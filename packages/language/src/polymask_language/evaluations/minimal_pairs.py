"""Whether a model finds real sentences likelier than the same with one mistake in grammar.

Pairs are made by rule from the held-out text of a run, which is English as it was written and which the run
has not been trained on; one word differs. BLiMP (Warstadt et al. 2020, arXiv 1912.00582) has templates
of 67 kinds; here are six that occur in any text: each article before its sounds, the number of a noun
after one and after many, and of the verb of a clause about one and about many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from polymask import UserError
from polymask.data import collate, evenly
from polymask.evaluation import Measurement
from polymask.evaluation.features import Picked, evaluating, on_device
from polymask.evaluation.intervals import accuracy_interval
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.nn.corruption import maskable
from polymask.systems.host import implementing
from polymask.types import Count
from polymask_language.capabilities import ScoresTokens
from polymask_language.evaluations.perplexity import log_shares
from polymask_language.speech import tag
from polymask_language.tokenizers import TAGS

if TYPE_CHECKING:
    from polymask.run import Run


class Pair(NamedTuple):
    """A text and the same with a mistake.

    Args:
        right: as it was written.
        wrong: one word of it changed.
    """

    right: str
    wrong: str


class Rule(NamedTuple):
    """Where one word can be made wrong.

    Args:
        pattern: its group is the word.
        change: the word made wrong; None where the rule does not hold after all.
    """

    pattern: re.Pattern[str]
    change: Callable[[str], str | None]


class MinimalPairs:
    """Share of pairs whose right text is likelier, half a point for equal ones.

    Likelihood is the sum over tokens of the log likelihood of each given those before it, or given all
    others (pseudo-log-likelihood; Salazar et al. 2020, arXiv 1910.14659). One half is chance. The rival
    knows how often each token occurs in the training data, and no context.

    Args:
        limit: pairs of each kind at most, evenly spaced.
        stride: hide every so-many-th token at once; fewer passes, and a little harder.
        batch_size: texts per batch.
    """

    def __init__(self, *, limit: Count = 100, stride: Count | None = None, batch_size: Count = 64) -> None:
        if limit < 1 or (stride is not None and stride < 1):
            raise UserError(f"limit and stride must be 1 or more, got {limit} and {stride}")
        self.limit, self.stride, self.batch_size = limit, stride, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        data: Any = run.data
        if implementing(run.system, ScoresTokens) is None or not hasattr(data, "corpus"):
            raise UserError(
                f"minimal pairs need a language model on a data set of language; {run.name} says "
                "nothing about single tokens, or its data has no text: use language/mlm or language/meap"
            )
        kinds = self.pairs([data.corpus.texts[i] for i in data.documents["test"].tolist()])
        pairs = [pair for found in kinds.values() for pair in found]
        texts = encoded([text for pair in pairs for text in pair], data)
        systems = {TRAINED: run.system, UNTRAINED: run.untrained()}
        frequency = None
        for row, system in systems.items():
            with evaluating(system):
                nats, frequency = self._nats(system, texts, run)
            yield from scores(row, kinds, nats)
        if frequency is not None:
            yield from scores("frequency alone", kinds, frequency)

    def pairs(self, texts: Sequence[str]) -> dict[str, list[Pair]]:
        """Pairs of each kind, at most ``limit`` of them, one of a text.

        Raises:
            UserError: the texts give none.
        """
        found: dict[str, list[Pair]] = {}
        for kind, rule in RULES.items():
            made = [pair for text in texts if (pair := spoiled(text, rule)) is not None]
            if made:
                found[kind] = [made[i] for i in evenly(len(made), self.limit)]
        if not found:
            raise UserError("no sentence of the held-out text fits a rule: minimal pairs are of English")
        return found

    def _nats(
        self, system: Any, texts: Sequence[dict[str, Tensor]], run: Run
    ) -> tuple[Tensor, Tensor | None]:
        """Surprise of each text, float64 ``[texts]``, by the system and by frequencies alone."""
        shares = log_shares(run.data.provides.get("statistics_file"))
        # texts of like length together, so that little is padded
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]["text"]))
        nats, rival = torch.empty(2, len(texts), dtype=torch.float64)
        for k, batch in enumerate(DataLoader(Picked(texts, order), self.batch_size, collate_fn=collate)):
            at = order[k * self.batch_size : (k + 1) * self.batch_size]
            moved = on_device(batch, system)
            nats[at] = system.surprise(moved, self.stride).double().nansum(1).cpu()
            if shares is not None:
                tokens = system.tokenizer(moved)
                content = maskable(tokens, system.special_ids)
                rival[at] = torch.where(content, -shares.to(tokens.ids.device)[tokens.ids], 0).sum(1).cpu()
        return nats, None if shares is None else rival


def scores(row: str, kinds: dict[str, list[Pair]], nats: Tensor) -> Iterator[Measurement]:
    """Share of pairs of which the first text is the likelier, over all of them and by kind.

    Args:
        row: whose surprise it is.
        kinds: the pairs.
        nats: ``[2 pairs]``, surprise of the right and the wrong text of each in turn.
    """
    right, wrong = nats.view(-1, 2).unbind(1)
    points = (right < wrong).double() + 0.5 * (right == wrong)
    parts = dict(zip(kinds, torch.split(points, [len(found) for found in kinds.values()]), strict=True))
    for name, part in {"minimal pairs": points, **parts}.items():
        found = accuracy_interval(part[None])
        yield Measurement(row, name, found.mean, found.low, found.high)


def encoded(texts: Sequence[str], data: Any) -> list[dict[str, Tensor]]:
    """Texts as samples: ids between those of start and end, cut to the length of the data."""
    vocabulary, length = data.vocabulary, data.length
    before, after = ([] if i is None else [i] for i in (vocabulary.start_id, vocabulary.end_id))
    room = length - len(before) - len(after)
    return [
        {"text": torch.tensor([*before, *found.ids[:room], *after])} for found in vocabulary.encode(texts)
    ]


def spoiled(text: str, rule: Rule) -> Pair | None:
    """A text and the same with a mistake, at the first place where a rule applies."""
    for match in rule.pattern.finditer(text):
        wrong = rule.change(match[1])
        if wrong is not None:
            return Pair(text, text[: match.start(1)] + wrong + text[match.end(1) :])
    return None


# ------------------------------------------------------------------------------ the rules

_IRREGULAR = {"is": "are", "was": "were", "has": "have", "does": "do"}


def _more(word: str) -> str | None:
    """The plural of a noun in the singular."""
    if word.endswith("s") or not _is(word, "NOUN"):
        return None
    return _with_s(word)


def _fewer(word: str) -> str | None:
    """The singular of a noun in the plural."""
    if re.search(r"(ss|us|is)$", word) or not word.endswith("s"):
        return None
    single = _without_s(word)
    return single if _is(word, "NOUN") and _is(single, "NOUN") else None


def _without_agreement(word: str) -> str | None:
    """What many do, of what one does."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    base = _without_s(word) if re.search(r"[^s]s$", word) else None
    return base if base is not None and _is(base, "VERB") and _with_s(base) == word else None


def _with_agreement(word: str) -> str | None:
    """What one does, of what many do."""
    for one, many in _IRREGULAR.items():
        if word == many:
            return one
    bare = not re.search(r"(s|ed|ing|en)$", word) and _is(word, "VERB") and word not in _PAST.split()
    return _with_s(word) if bare else None


_PAST = (
    "could would should must might may can will shall had did went gave took made held kept left lost met "
    "said saw sold sent stood told thought won grew knew ran came became began drew led lay wore"
)


def _is(word: str, name: str) -> bool:
    return tag(word) == TAGS.index(name)


def _with_s(word: str) -> str:
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}es" if re.search(r"(s|x|z|ch|sh|o)$", word) else f"{word}s"


def _without_s(word: str) -> str:
    if re.search(r"[^aeiou]ies$", word):
        return f"{word[:-3]}y"
    return word[:-2] if re.search(r"(s|x|z|ch|sh|o)es$", word) else word[:-1]


_ONE, _MANY = r"(?:an?|each|every|another)", r"(?:many|several|various|two|three|four|few|numerous)"
_NEXT = r"(?= (?:who|that|which|of|in|on|for|with|to|from|by)\b|[,;.)]|$)"

RULES: dict[str, Rule] = {
    "a": Rule(re.compile(r"\b(a)(?= [a-z]{3})"), lambda word: "an"),
    "an": Rule(re.compile(r"\b(an)(?= [a-z]{3})"), lambda word: "a"),
    "one noun": Rule(re.compile(rf"\b{_ONE} ([a-z]{{3,}}){_NEXT}"), _more),
    "many nouns": Rule(re.compile(rf"\b{_MANY} ([a-z]{{4,}}){_NEXT}"), _fewer),
    "verb of one": Rule(
        re.compile(r"\b(?:an? [a-z]*[^s\W]|someone|one|person) (?:who|that) ([a-z]+)\b"), _without_agreement
    ),
    "verb of many": Rule(
        re.compile(r"\b(?:people|those|[a-z]{3,}[^s\W]s) (?:who|that) ([a-z]+)\b"), _with_agreement
    ),
}
"""By kind, where one word can be made wrong. They come in twos, of which one is the reverse of the other:
whoever goes by how frequent or how long a word is is right about one and wrong about the other."""
