"""Finding again, in a long text, what it said once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask import UserError
from polymask.evaluation import Score
from polymask.evaluation.features import evaluating
from polymask.evaluation.intervals import t_interval
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask_language.perplexity import Perplexity

if TYPE_CHECKING:
    from polymask.run import Run
    from polymask_language.vocabulary import Vocabulary

FACT, QUESTION = ("the secret word of", "is", "."), ("the secret word of", "is")


class Facts:
    """Facts planted in held-out text, one of which is asked for at its end (a needle in a haystack).

    Sentences such as *the secret word of river is copper.* stand at even distances in real text, names and
    words being single tokens drawn at random; behind the last the text asks *the secret word of river is*.
    The answer is that of the planted words which the model finds likeliest there, so that guessing is right
    once in ``facts`` times, and so is taking any word that was planted. ``found`` is the share of right
    answers, ``found far`` of facts that stand first, ``found near`` of those that stand last; ``advantage``
    is by how many nats the right word is likelier than the others planted. Perplexity stands beside them.

    Args:
        facts: planted in each text, 2 or more.
        questions: how many texts, each fact being asked for in turn.
        length: tokens of a text with its question; as long as the data's sequences if none.
        seed: of names, words and texts.
        batch_size: sequences at a time, ``facts`` to a question.
    """

    def __init__(
        self,
        *,
        facts: int = 4,
        questions: int = 400,
        length: int | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        if facts < 2 or questions < 2 * facts or batch_size < 1:
            raise UserError("facts must be 2 or more, questions twice as many at least, batch_size 1 or more")
        self.facts, self.questions, self.length = facts, questions, length
        self.seed, self.batch_size = seed, batch_size

    def __call__(self, run: Run) -> Iterator[Score]:
        """Scores of the run, of the same untrained, and of guessing.

        Raises:
            UserError: no causal language model, or no room for text between the facts.
        """
        from polymask.run import open_run

        if getattr(run.system, "perplexity", None) != "perplexity":
            raise UserError(
                f"{run.config['system']} does not say what comes next: use a causal language model, such as "
                "language/meap"
            )
        data: Any = run.data
        length = self.length or int(data.provides["length"])
        samples = data.split("test")
        source = (samples[i]["text"] for i in range(len(samples)))
        texts, asked = self.plant(source, data.vocabulary, length)
        untrained = open_run(run.folder, trained=False).system
        for row, system in ((TRAINED, run.system), (UNTRAINED, untrained)):
            with evaluating(system):
                nats = self._nats(system, texts)
            yield from self.measure(row, nats, asked)
        yield from Perplexity(limit=self.questions, batch_size=self.batch_size)(run)
        yield Score("guessing", "found", 1 / self.facts)

    def plant(self, source: Iterator[Tensor], vocabulary: Vocabulary, length: int) -> tuple[Tensor, Tensor]:
        """Texts with each of the answers.

        Args:
            source: ids of real text.
            vocabulary: that they are of.
            length: tokens of a text.

        Returns:
            int64 ``[questions, facts, length]``, the same text ending in each word planted, in their order;
            and ``[questions]``, which of them is right.
        """
        generator = torch.Generator().manual_seed(self.seed)
        words = single_words(vocabulary)
        before, between, end = (vocabulary.encode([part])[0].ids for part in FACT)
        start = [] if vocabulary.start_id is None else [vocabulary.start_id]
        planted = self.facts * (len(before) + len(between) + len(end) + 2)
        room = length - len(start) - planted - len(before) - len(between) - 2
        if room < 4 * self.facts or len(words) < 2 * self.facts:
            raise UserError(
                f"{length} tokens have no room for {self.facts} facts and text between them: give "
                "data.length 128 or more, or fewer facts"
            )
        special = torch.tensor(vocabulary.special_ids)
        stock = torch.zeros(0, dtype=torch.int64)
        rows, asked = [], torch.arange(self.questions) % self.facts
        cuts = [room * k // self.facts for k in range(self.facts + 1)]
        for right in asked.tolist():
            while len(stock) < room:
                more = next(source, None)
                if more is None:
                    raise UserError("the held-out text is too short for so many questions: ask fewer")
                stock = torch.cat([stock, more[~torch.isin(more, special)]])
            text, stock = stock[:room].tolist(), stock[room:]
            drawn = words[torch.randperm(len(words), generator=generator)[: 2 * self.facts]].tolist()
            names, answers = drawn[: self.facts], drawn[self.facts :]
            row = list(start)
            for k in range(self.facts):
                # half of its stretch of text before a fact, half behind it
                middle = (cuts[k] + cuts[k + 1]) // 2
                fact = [*before, names[k], *between, answers[k], *end]
                row += [*text[cuts[k] : middle], *fact, *text[middle : cuts[k + 1]]]
            row += [*before, names[right], *between]
            rows.append([[*row, answer] for answer in answers])
        return torch.tensor(rows), asked

    def measure(self, row: str, nats: Tensor, asked: Tensor) -> Iterator[Score]:
        """Scores of the surprise ``[questions, facts]`` at each of the words planted."""
        right = nats.gather(1, asked[:, None])[:, 0]
        others = (nats.sum(1) - right) / (self.facts - 1)
        best = nats.masked_fill(torch.nn.functional.one_hot(asked, self.facts).bool(), torch.inf).amin(1)
        found = (right < best).double()  # all alike is not found
        picked = {
            "found": found,
            "found far": found[asked == 0],
            "found near": found[asked == self.facts - 1],
            "advantage": (others - right).double(),
        }
        for metric, values in picked.items():
            score = t_interval(values.tolist())
            yield Score(row, metric, score.mean, score.low, score.high)

    def _nats(self, system: Any, texts: Tensor) -> Tensor:
        """Surprise at the last token of each text, float32 ``[questions, facts]``."""
        device = next(system.parameters()).device
        some = torch.split(texts.flatten(0, 1), self.batch_size)
        found = [system.surprise({"text": x.to(device)})[:, -1].cpu() for x in some]
        return torch.cat(found).view(texts.shape[:2])


def single_words(vocabulary: Vocabulary) -> Tensor:
    """Ids of tokens that are a word of four letters or more by themselves, with the space before it."""
    pieces = vocabulary.pieces(range(vocabulary.size))
    whole = [len(p) > 4 and p[0] == " " and p[1:].isascii() and p[1:].isalpha() for p in pieces]
    return torch.tensor([i for i, is_word in enumerate(whole) if is_word and i not in vocabulary.special_ids])
