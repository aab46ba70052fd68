"""Finding again, in a long text, what it said once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask import UserError
from polymask.evaluation import Measurement
from polymask.evaluation.features import evaluating
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.systems.host import implementing
from polymask.types import Count
from polymask_language.capabilities import PredictsNext
from polymask_language.evaluations.perplexity import Perplexity

if TYPE_CHECKING:
    from polymask.run import Run
    from polymask_language.vocabulary import Vocabulary

FACT = ("the secret word of", "is", ".")


@dataclass(frozen=True)
class Planted:
    """Texts that end in a question, Q of them with F facts in each.

    Args:
        told: int64 ``[Q, N]``, all facts in them.
        untold: int64 ``[Q, N]``, the same, but that the fact asked for names a word that stands nowhere else.
        words: int64 ``[Q, F]``, the words that facts of ``told`` name, in their order.
        asked: int64 ``[Q]``, which of them is right.
    """

    told: Tensor
    untold: Tensor
    words: Tensor
    asked: Tensor


class Facts:
    """Facts planted in held-out text, one of which is asked for at its end (a needle in a haystack).

    Sentences such as *the secret word of river is copper.* stand at even distances in real text, names and
    words being single tokens drawn at random of those that it does not have; behind the last the text asks
    *the secret word of river is*.
    The answer is that of the planted words which the model finds likeliest there, so that guessing is right
    once in ``facts`` times, and so is taking any word that was planted. ``found`` is the share of right
    answers, ``found far`` of facts that stand first, ``found near`` of those that stand last.

    Small models find none and yet read: ``told`` is by how many nats the right word is likelier than after
    the same text whose fact names another word. It is 0 for a model that ignores the text, and more already
    for one that expects any word again that was said; ``told far`` is of facts that stand first.
    ``advantage`` is by how many nats the right word is likelier than the others planted: that takes a model
    that knows whose word it is. Perplexity stands beside them.

    Args:
        facts: planted in each text, 2 or more.
        questions: how many texts, each fact being asked for in turn.
        length: tokens of a text with its answer; as long as the data's sequences if none.
        seed: of names, words and texts.
        batch_size: texts at a time.
    """

    def __init__(
        self,
        *,
        facts: int = 4,
        questions: Count = 400,
        length: Count | None = None,
        seed: int = 0,
        batch_size: Count = 64,
    ) -> None:
        if facts < 2 or questions < 2 * facts or batch_size < 1:
            raise UserError("facts must be 2 or more, questions twice as many at least, batch_size 1 or more")
        self.facts, self.questions, self.length = facts, questions, length
        self.seed, self.batch_size = seed, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        """Scores of the run, of the same untrained, and of guessing.

        Raises:
            UserError: no causal language model, or no room for text between the facts.
        """
        if implementing(run.system, PredictsNext) is None:
            raise UserError(
                f"{run.name} does not say what comes next: use a causal language model, such as language/meap"
            )
        data: Any = run.data
        length = self.length or int(data.provides["length"])
        samples = data.split("test")
        source = (samples[i]["text"] for i in range(len(samples)))
        planted = self.plant(source, data.vocabulary, length)
        untrained = run.untrained()
        for row, system in ((TRAINED, run.system), (UNTRAINED, untrained)):
            with evaluating(system):
                told, untold = (
                    self.likelihood(system, texts, planted.words) for texts in (planted.told, planted.untold)
                )
            yield from self.measure(row, told, untold, planted.asked)
        yield from Perplexity(limit=self.questions, batch_size=self.batch_size)(run)
        yield Measurement("guessing", "found", 1 / self.facts)

    def plant(self, source: Iterator[Tensor], vocabulary: Vocabulary, length: int) -> Planted:
        """Texts of ``length - 1`` tokens each, of real text and facts, that leave room for an answer.

        Args:
            source: ids of real text.
            vocabulary: that they are of.
            length: tokens of a text with its answer.
        """
        generator = torch.Generator().manual_seed(self.seed)
        words = single_words(vocabulary)
        before, between, end = (vocabulary.encode([part])[0].ids for part in FACT)
        start = [] if vocabulary.start_id is None else [vocabulary.start_id]
        size = len(before) + len(between) + len(end) + 2
        room = length - len(start) - self.facts * size - len(before) - len(between) - 2
        if room < 4 * self.facts:
            raise UserError(
                f"{length} tokens have no room for {self.facts} facts and text between them: give "
                "data.length 128 or more, or fewer facts"
            )
        special = torch.tensor(vocabulary.special_ids)
        stock = torch.zeros(0, dtype=torch.int64)
        told, untold, drawn = [], [], []
        asked = torch.arange(self.questions) % self.facts
        cuts = [room * k // self.facts for k in range(self.facts + 1)]
        for right in asked.tolist():
            while len(stock) < room:
                more = next(source, None)
                if more is None:
                    raise UserError("the held-out text is too short for so many questions: ask fewer")
                stock = torch.cat([stock, more[~torch.isin(more, special)]])
            free = words[~torch.isin(words, stock[:room])]
            some = free[torch.randperm(len(free), generator=generator)[: 2 * self.facts + 1]].tolist()
            if len(some) < 2 * self.facts + 1:
                raise UserError(
                    f"a vocabulary of {vocabulary.size} has too few whole words for {self.facts} facts: give "
                    "a larger data.vocab_size, or fewer facts"
                )
            names, answers, other = some[: self.facts], some[self.facts : -1], some[-1]
            text, stock = stock[:room].tolist(), stock[room:]
            row, places = list(start), []
            for k in range(self.facts):
                # half of its stretch of text before a fact, half behind it
                middle = (cuts[k] + cuts[k + 1]) // 2
                row += [*text[cuts[k] : middle], *before, names[k], *between, answers[k], *end]
                places.append(len(row) - len(end) - 1)
                row += text[middle : cuts[k + 1]]
            row += [*before, names[right], *between]
            told.append(row)
            untold.append([*row[: places[right]], other, *row[places[right] + 1 :]])
            drawn.append(answers)
        return Planted(torch.tensor(told), torch.tensor(untold), torch.tensor(drawn), asked)

    def measure(self, row: str, told: Tensor, untold: Tensor, asked: Tensor) -> Iterator[Measurement]:
        """Scores of the log likelihoods ``[Q, F]`` of each word planted, after both kinds of texts."""
        at = asked[:, None]
        right = told.gather(1, at)[:, 0]
        gain = right - untold.gather(1, at)[:, 0]
        others = (told.sum(1) - right) / (self.facts - 1)
        best = told.scatter(1, at, -torch.inf).amax(1)
        found = (right > best).double()  # all alike is not found
        first, last = asked == 0, asked == self.facts - 1
        picked = {
            "found": found,
            "found far": found[first],
            "found near": found[last],
            "told": gain,
            "told far": gain[first],
            "advantage": right - others,
        }
        for metric, values in picked.items():
            interval = Measurement.share if metric.startswith("found") else Measurement.mean
            yield interval(row, metric, values.tolist())

    def likelihood(self, system: Any, texts: Tensor, words: Tensor) -> Tensor:
        """Log likelihood of each of the words ``[Q, F]`` behind its text, float64 ``[Q, F]``, nats."""
        device = next(system.parameters()).device
        parts = (torch.split(x, self.batch_size) for x in (texts, words))
        found = [
            system.following({"text": x.to(device)}).cpu().double().gather(1, w)
            for x, w in zip(*parts, strict=True)
        ]
        return torch.cat(found)


def single_words(vocabulary: Vocabulary) -> Tensor:
    """Ids of tokens that are a word of four letters or more by themselves, with the space before it."""
    pieces = vocabulary.pieces(range(vocabulary.size))
    whole = [len(p) > 4 and p[0] == " " and p[1:].isascii() and p[1:].isalpha() for p in pieces]
    return torch.tensor([i for i, is_word in enumerate(whole) if is_word and i not in vocabulary.special_ids])
