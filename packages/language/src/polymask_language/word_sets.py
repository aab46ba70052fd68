"""The language model of a document, and sets of words drawn from it (PROP)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor, nn

from polymask import Step, UserError
from polymask_language.vocabulary import Vocabulary
from polymask_language.words import load_statistics, word_keys

LONGEST = 12
"""Most words of a set: of lengths drawn from a Poisson of mean 3, 1 in 60,000 is longer."""

_STREAM = 1 << 20


@dataclass(frozen=True)
class Counted:
    """The words of a batch of documents.

    Args:
        words: int64 ``[B, N]``, the number in the model's list of each word of a document; -1 where
            there is none, or none of the list.
        length: float ``[B]``, how many words a document has, those outside the list included.
    """

    words: Tensor
    length: Tensor


class WordSets(nn.Module):
    """Unigram model of a document with a Dirichlet prior (Zhai and Lafferty 2001), and a sampler of it.

    ``P(w|d) = (tf(w, d) + mu P(w)) / (|d| + mu)``, with mu the mean length of a document and P the share
    of a word in the document frequencies of all. What is one document here is one sample: of a long text that
    a data set cuts into sequences, a sequence. Stop words and what is no word of letters do not count.
    Without statistics every id of the vocabulary but the special ones is a word, and all are equally likely.

    Args:
        vocabulary: how many ids there are.
        special_ids: those that are no content.
        statistics_file: what the data set counted; None for the stand-in above.
        tokenizer_file: the vocabulary, to spell words by; needed with statistics.
        sequences: how many samples a text of the corpus is cut into, on average.
        least: words that occur less often in the corpus are not drawn.
        mean_length: mean of the Poisson distribution that lengths of sets are drawn from.
        threshold: words above this share of the corpus are drawn less often; see :meth:`keep`.
        frequent: only words that occur so often in the corpus are.
        mu: strength of the prior in words; None for the mean length of a document.
    """

    keys: Tensor
    ignored: Tensor
    pieces: Tensor
    background: Tensor
    kept: Tensor
    lengths: Tensor
    mu: Tensor

    def __init__(
        self,
        *,
        vocabulary: int,
        special_ids: tuple[int, ...],
        statistics_file: str | None = None,
        tokenizer_file: str | None = None,
        sequences: float = 1.0,
        least: int = 10,
        mean_length: float = 3.0,
        threshold: float = 1e-4,
        frequent: int = 100,
        mu: float | None = None,
    ) -> None:
        super().__init__()
        if statistics_file is None:
            ids = torch.arange(vocabulary)
            pieces = ids[~torch.isin(ids, torch.tensor(special_ids))][:, None]
            frequency = documents = torch.ones(len(pieces), dtype=torch.int64)
            ignored, mean = ids[torch.isin(ids, torch.tensor(special_ids))][:, None], 1.0 * vocabulary
        else:
            if tokenizer_file is None:
                raise UserError(
                    "statistics of words need the vocabulary they were counted with: give tokenizer_file"
                )
            found = {name: torch.from_numpy(x) for name, x in load_statistics(statistics_file).items()}
            spelled = Vocabulary(Path(tokenizer_file)).spell(found["pieces"])
            counts = torch.tensor([of_letters(w) and w.lower() not in ENGLISH_STOP_WORDS for w in spelled])
            chosen = counts & (found["frequency"] >= least)
            if not chosen.any():
                raise UserError(
                    f"no word of letters that is no stop word occurs {least} times or more in the corpus of "
                    f"{len(found['length'])} texts: give more of them, or a smaller --least; where no "
                    "spaces part words, --data.vocab wordpiece makes words of ideographs"
                )
            pieces, ignored = found["pieces"][chosen], found["pieces"][~counts]
            frequency, documents = found["frequency"][chosen], found["documents"][chosen]
            mean = float(found["frequency"][counts].sum()) / (max(len(found["length"]), 1) * sequences)
        total = float(frequency.sum())
        pieces = pieces[:, : int((pieces >= 0).sum(1).max())]
        keys, order = _keys(pieces).sort()
        share = frequency[order] / total
        keep = torch.where(frequency[order] >= frequent, (threshold / share).sqrt() + threshold / share, 1.0)
        rate = torch.tensor(float(mean_length)).log() * torch.arange(1, LONGEST + 1)
        chance = (rate - torch.lgamma(torch.arange(2.0, LONGEST + 2))).softmax(0)
        for name, buffer in {
            "keys": keys,
            "ignored": _keys(ignored).sort().values,
            "pieces": pieces[order],
            "background": documents[order] / documents.sum(),
            "kept": keep.clamp(max=1.0),
            "lengths": chance.cumsum(0),
            "mu": torch.tensor(mean if mu is None else float(mu)),
        }.items():
            self.register_buffer(name, buffer, persistent=False)
        self.register_buffer("rising", (self.background * self.kept).double().cumsum(0), persistent=False)
        self.rising: Tensor

    def count(self, ids: Tensor, word: Tensor, content: Tensor) -> Counted:
        """The words of documents.

        Args:
            ids: int64 ``[B, N]``.
            word: int64 ``[B, N]``, number of the word that each token is of.
            content: bool ``[B, N]``, False on padding and special tokens.
        """
        # words in which nothing is content are none at all
        keys = word_keys(ids, torch.where(content, word, -1), ids.shape[1])
        words = _place(self.keys, keys)
        counted = (keys != 0) & (_place(self.ignored, keys) < 0)
        return Counted(torch.where(keys != 0, words, -1), counted.sum(1).float())

    def log_likelihood(self, words: Tensor, document: Counted) -> Tensor:
        """``log P(w|d)`` of words ``[B, L]`` of the list; 0 where there is none (-1)."""
        count = (words[:, :, None] == document.words[:, None, :]).sum(-1)
        prior = self.mu * self.background[words.clamp(min=0)]
        chance = (count + prior) / (document.length[:, None] + self.mu)
        return torch.where(words < 0, 0.0, chance.log())

    def draw(self, document: Counted, step: Step, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Two sets of words of one length for each document: the likelier one, and the other.

        Words are drawn with replacement, with chances proportional to ``P(w|d) keep(w)`` over all words
        of the list.

        Returns:
            int64 ``[B, LONGEST]`` each, numbers of words, -1 behind the end. Of two that are equally likely
            the second draw counts as the likelier.
        """
        noise = [step.noise(samples, 2 * LONGEST, _STREAM + k).double() for k in range(3)]
        length = (
            torch.searchsorted(self.lengths, noise[0][:, 0].float().contiguous()).clamp(max=LONGEST - 1) + 1
        )
        own = torch.where(document.words < 0, 0.0, self.kept[document.words.clamp(min=0)]).double().cumsum(1)
        prior = self.mu * self.rising[-1]
        # a word of the document, one per occurrence, or one of the prior: the two parts of tf + mu P
        from_own = noise[1] * (own[:, -1:] + prior) < own[:, -1:]
        at = torch.searchsorted(own, noise[2] * own[:, -1:], right=True).clamp(max=own.shape[1] - 1)
        other = torch.searchsorted(self.rising, noise[2] * self.rising[-1], right=True)
        words = torch.where(from_own, document.words.gather(1, at), other.clamp(max=len(self.rising) - 1))
        sets = words.view(-1, 2, LONGEST)
        sets = torch.where(torch.arange(LONGEST, device=sets.device) < length[:, None, None], sets, -1)
        first, second = sets.unbind(1)
        likelihoods = [self.log_likelihood(words, document).sum(1) for words in (first, second)]
        wins = (likelihoods[0] > likelihoods[1])[:, None]
        return torch.where(wins, first, second), torch.where(wins, second, first)

    def spell(self, words: Tensor) -> Tensor:
        """The pieces of words ``[B, L]``: int64 ``[B, L * longest]``, -1 where there is none."""
        pieces = torch.where(words[..., None] < 0, -1, self.pieces[words.clamp(min=0)])
        return pieces.flatten(1)


def of_letters(word: str) -> bool:
    """Whether a word is of letters of any script, with their marks."""
    return word != "" and all(unicodedata.category(letter)[0] in "LM" for letter in word)


def _keys(pieces: Tensor) -> Tensor:
    """Keys of words ``[W, M]`` spelled in pieces, -1 behind the end."""
    return word_keys(pieces.clamp(min=0), torch.where(pieces < 0, -1, 0), 1)[:, 0]


def _place(rising: Tensor, keys: Tensor) -> Tensor:
    """Where keys lie in a sorted list, -1 for those that do not."""
    if not len(rising):
        return torch.full_like(keys, -1)
    at = torch.searchsorted(rising, keys.contiguous()).clamp(max=len(rising) - 1)
    return torch.where(rising[at] == keys, at, -1)
