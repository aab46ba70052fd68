"""Text as tokens, and which of them may be hidden.

What a batch of text holds: ``text``, int64 ``[B, N]`` ids of a vocabulary, padded at the end of each
row, with ``text_length`` where rows differ. Beside it, where the data set gives them, all int64 ``[B, N]``:
``document``, the number of each token's document where several are packed into one sequence; ``word``,
the number of the word in its sequence that each token is a piece of; ``part_of_speech``, the class of
that word (:mod:`polymask_language.speech`). Where a text is a prompt with its response, ``response`` is
bool, True on the tokens of the response; ``decisive``, bool, marks those that a preference goes by; and the
same prompt with a rejected response has all of these under ``rejected_text``, ``rejected_response``...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask import Batch, Mask, Step, Tokens, UserError, functional
from polymask.data import valid_of
from polymask.nn.corruption import maskable
from polymask.protocols import Masking, Media, Target
from polymask.types import Count, Fact, Whole
from polymask_language import display
from polymask_language.captions import Captions

TAGS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "NUM", "CONJ", "PRT", ".", "X")
"""Parts of speech by number: the universal tags of Petrov et al. 2012, in the order of CLIMB."""


class TokenIds(nn.Module):
    """Ids of a vocabulary as tokens: ``values`` int64 ``[B, N, 1]`` and ``ids`` ``[B, N]`` are the same.

    ``position`` is ``[B, N, 1]``, the place in the sequence; where documents are packed, ``[B, N, 2]``:
    the place in the token's own document, from 0 on, and the number of that document, which attention
    is not to leave (:func:`documents`). ``grid`` is ``(N,)``, for maskings over a row of sites; as N differs
    between batches, it is no fact for other parts.

    Args:
        vocabulary: how many ids there are.
        length: most tokens of a sequence.
        mask_id: id that stands in place of hidden tokens.
        pad_id: id that fills up a sequence.
        special_ids: ids that are no content (start, end, padding, mask...) and are never hidden.
        start_id: id that begins a text, None where there is none.
        tokenizer_file: the vocabulary of the data, to show words by.
    """

    key = "text"
    of_texts = Captions
    """Makes samples of texts that belong to something else, see :class:`polymask.data.TextTokenizer`."""

    def __init__(
        self,
        *,
        vocabulary: Fact[Count] = 8192,
        length: Fact[Count] = 128,
        mask_id: Fact[Whole] = 4,
        pad_id: Fact[Whole] = 0,
        special_ids: Fact[Sequence[int]] = (0, 1, 2, 3, 4),
        start_id: Fact[int | None] = None,
        tokenizer_file: Fact[str | None] = None,
    ) -> None:
        super().__init__()
        self.vocabulary, self.length, self.tokenizer_file = vocabulary, length, tokenizer_file
        self.mask_id, self.pad_id, self.special_ids = mask_id, pad_id, tuple(special_ids)
        self.start_id = start_id
        if not all(0 <= i < vocabulary for i in (mask_id, pad_id, *self.special_ids)):
            raise UserError(
                f"a vocabulary of {vocabulary} has no ids {(mask_id, pad_id, *self.special_ids)}: give the "
                "size of the vocabulary with its special ids"
            )

    @property
    def provides(self) -> dict[str, Any]:
        """``in_dim``, ``vocabulary``, ``length`` and the special ids for the parts that follow."""
        return {
            "in_dim": 1,
            "vocabulary": self.vocabulary,
            "length": self.length,
            "mask_id": self.mask_id,
            "pad_id": self.pad_id,
            "special_ids": self.special_ids,
        }

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["text"]`` int64 ``[B, N]`` to tokens.

        Raises:
            ValueError: more tokens than ``length``, or something other than ids.
        """
        ids = batch[self.key]
        if ids.dim() != 2 or ids.dtype != torch.int64 or ids.shape[1] > self.length:
            raise ValueError(
                f"expected ids int64 [B, up to {self.length}], got {ids.dtype} {list(ids.shape)}"
            )
        n = ids.shape[1]
        place = torch.arange(n, device=ids.device).expand_as(ids)
        valid, position = valid_of(batch, self.key), place[..., None]
        if "document" in batch:
            document = batch["document"]
            first = torch.ones_like(document, dtype=torch.bool)
            first[:, 1:] = document[:, 1:] != document[:, :-1]
            start = torch.where(first, place, 0).cummax(dim=1).values
            position = torch.stack([place - start, document], dim=-1)
        return Tokens(ids[..., None], position.float(), (n,), ids=ids, valid=valid)

    def inverse(self, values: Tensor) -> Tensor:
        """Tokens ``[B, N, 1]`` back to ids ``[B, N]``."""
        return values[..., 0]

    def compared(self, tokens: Tokens, hidden: Tensor, guess: Tensor) -> Sequence[Media]:
        """Each text, hidden tokens in colour and beside each the id that was predicted, ``[B, N]``."""
        (rows,) = display.compare(self.tokenizer_file, tokens, hidden, guess, "").values()
        return rows

    def weighted(self, tokens: Tokens, weight: Tensor, counted: Tensor) -> Sequence[Media]:
        """Each text, tokens that are counted coloured by their weight, ``[B, N]`` each."""
        return display.weighted(self.tokenizer_file, tokens, weight, counted)

    def example(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """``n`` random sequences of several lengths, the first of full length, with words."""
        generator = torch.Generator().manual_seed(seed)
        content = torch.ones(self.vocabulary)
        content[list(self.special_ids)] = 0
        shape = (n, self.length)
        ids = content.multinomial(n * self.length, replacement=True, generator=generator).view(shape)
        lengths = torch.randint(self.length // 2, self.length + 1, (n,), generator=generator)
        lengths[0] = self.length
        word = (torch.rand(shape, generator=generator) < 0.7).long().cumsum(dim=1)
        tag = torch.randint(len(TAGS), shape, generator=generator).gather(1, word - word[:, :1])
        real = torch.arange(self.length) < lengths[:, None]
        return {
            self.key: torch.where(real, ids, self.pad_id),
            f"{self.key}_length": lengths,
            "word": torch.where(real, word, 0),
            "part_of_speech": torch.where(real, tag, 0),
        }


def documents(position: Tensor) -> Tensor | None:
    """Which document each token is of: ``[B, K]`` of a position ``[B, K, 2]``, None where none are packed.

    It holds for any choice of the tokens, as of those that a mask keeps.
    """
    return position[..., 1] if position.shape[-1] == 2 else None


def draw(
    masking: Masking,
    tokens: Tokens,
    batch: Batch,
    step: Step,
    special_ids: Sequence[int],
    score: Target | Tensor | None = None,
    stream: int = 0,
    allowed: Tensor | None = None,
) -> Mask:
    """One mask per sample over its content; special tokens are never hidden.

    Where the batch tells which word each token is of, so does ``Request.position``, ``[B, N, 3]``: place,
    word and document (0 where there is one), for maskings of whole words.

    Args:
        masking: what decides; its ratio is one of content tokens.
        tokens: the tokens to hide some of.
        batch: where the tokens came from.
        step: the source of time and chance.
        special_ids: ids never to hide, as of ``tokenizer.provides``.
        score: what the masking is to go by: a target of width 1, or the scores, ``[B, N]``.
        stream: tells apart several draws of one step.
        allowed: bool ``[B, N]``, further tokens never to hide are False, such as those of a query.

    Returns:
        A mask whose ``valid`` is True where a token might have been hidden.
    """
    valid = maskable(tokens, special_ids)
    if allowed is not None:
        valid = valid & allowed
    position = tokens.position
    if "word" in batch:
        document = documents(position)
        document = torch.zeros_like(position[..., 0]) if document is None else document
        position = torch.stack([position[..., 0], batch["word"].to(position.dtype), document], dim=-1)
    offered = dataclasses.replace(tokens, valid=valid, position=position)
    return functional.draw_mask(masking, offered, batch, step, score, stream)
