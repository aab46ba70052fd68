"""Vocabularies: trained on the user's own text with the tokenizers library, or loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from polymask import UserError
from polymask.data.cache import cache_folder, whole_or_not

Kind = Literal["wordpiece", "bpe"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Special tokens of a trained vocabulary, ids 0 to 4."""

FILE = "tokenizer.json"

SMALLEST, BYTES_PER_ID = 300, 16
"""Ids that bytes or letters take, and the text for each id: with less, whole documents become tokens."""

_UNKNOWN = ("[UNK]", "<unk>")
_START = ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>")
_END = ("[SEP]", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>")


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary in a file of the tokenizers library.

    Special tokens are known by the names that are usual: those of BERT, RoBERTa, GPT-2 and Llama.

    Args:
        file: ``tokenizer.json``; its folder holds nothing else.
    """

    file: Path

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer itself, without truncation and padding."""
        tokenizer = tokenizers.Tokenizer.from_file(str(self.file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @property
    def size(self) -> int:
        """How many ids there are; the largest is one less."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def mask_id(self) -> int:
        """Id that stands in place of hidden tokens."""
        return self._one_of(("[MASK]", "<mask>"))

    @property
    def pad_id(self) -> int:
        """Id of padding."""
        return self._one_of(("[PAD]", "<pad>", "<|padding|>"))

    @property
    def unknown_id(self) -> int | None:
        """Id that stands for what the vocabulary does not know, where there is one."""
        return self._first(_UNKNOWN)

    @property
    def start_id(self) -> int | None:
        """Id that begins a document, where there is one."""
        return self._first(_START)

    @property
    def end_id(self) -> int | None:
        """Id that ends a document, where there is one."""
        return self._first(_END)

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that are no content."""
        added = self.tokenizer.get_added_tokens_decoder()
        return tuple(sorted(i for i, token in added.items() if token.special))

    @property
    def facts(self) -> dict[str, Any]:
        """What parts take as constructor arguments."""
        return {
            "vocabulary": self.size,
            "mask_id": self.mask_id,
            "pad_id": self.pad_id,
            "special_ids": self.special_ids,
            "start_id": self.start_id,
            "end_id": self.end_id,
            "unknown_id": self.unknown_id,
            "tokenizer_file": str(self.file),
        }

    def encode(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Ids and word numbers of texts, without special tokens."""
        found: list[tokenizers.Encoding] = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return found

    def pieces(self, ids: Sequence[int] | Tensor) -> list[str]:
        """What each token adds to the text, with the space before it."""
        return [self._piece(int(i)) for i in ids]

    def spell(self, words: Tensor) -> list[str]:
        """Words as they are written, of ids ``[W, longest]`` with -1 behind the end."""
        rows = [[i for i in row if i >= 0] for row in words.tolist()]
        return [word.strip() for word in self.tokenizer.decode_batch(rows)]

    def _piece(self, i: int) -> str:
        token = self.tokenizer.id_to_token(i) or ""
        if i in self.special_ids:
            return f" {token}"
        if token.startswith("\u2581"):
            return f" {token[1:]}"
        if isinstance(self.tokenizer.model, models.WordPiece):
            return token[2:] if token.startswith("##") else f" {token}"
        text: str = self.tokenizer.decode([i], skip_special_tokens=False)
        return text

    def _first(self, names: Sequence[str]) -> int | None:
        found = (self.tokenizer.token_to_id(name) for name in names)
        return next((i for i in found if i is not None), None)

    def _one_of(self, names: Sequence[str]) -> int:
        found = self._first(names)
        assert found is not None, "vocabularies are completed when they are kept"
        return found


def vocabulary_of(
    what: str, texts: Sequence[str], *, size: int = 8192, lower: bool = True, corpus: str | None = None
) -> Vocabulary:
    """Train a vocabulary, or load one; either way it is kept in the cache.

    Args:
        what: ``"bpe"`` (of bytes) or ``"wordpiece"`` to train one; else the path of a ``tokenizer.json``
            or its folder, or a name on the Hugging Face hub (``"bert-base-uncased"``).
        texts: what to train it on.
        size: how many ids a trained one is to have, at most; one for every 16 bytes of text at most.
        lower: in a trained one, capital letters are made small.
        corpus: hash of the texts, where it is known.

    Raises:
        UserError: nothing can be trained or loaded.
    """
    if what not in ("wordpiece", "bpe"):
        return _keep(_load(what))
    if size < SMALLEST:
        raise UserError(
            f"a vocabulary of {size} ids is too small for bytes or letters; choose {SMALLEST} or more"
        )
    size = min(size, max(sum(len(text.encode()) for text in texts) // BYTES_PER_ID, SMALLEST))
    options = (what, size, lower, tokenizers.__version__, corpus or hash_of(texts))
    folder = cache_folder("vocabulary") / hash_of(map(str, options))
    if not (folder / FILE).is_file():
        trained = train("wordpiece" if what == "wordpiece" else "bpe", texts, size=size, lower=lower)
        with whole_or_not(folder) as part:
            trained.save(str(part / FILE))
    return Vocabulary(folder / FILE)


def train(kind: Kind, texts: Iterable[str], *, size: int, lower: bool) -> tokenizers.Tokenizer:
    """A WordPiece (Schuster and Nakajima 2012) or BPE (Sennrich et al. 2016) vocabulary of texts.

    The same texts in any order give the same BPE. The library's WordPiece comes out a little different
    each time it is trained: keep the file where that matters.
    """
    small = [normalizers.Lowercase()] if lower else []
    trainer: Any
    if kind == "wordpiece":
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
        )
    else:
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *small])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(texts, trainer)
    ids = {name: tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=list(ids.items()),
    )
    return tokenizer


def hash_of(parts: Iterable[str]) -> str:
    """32 hexadecimal digits that differ for different strings, or the same in another order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def _load(what: str) -> tokenizers.Tokenizer:
    path = Path(what).expanduser()
    if (path / FILE).is_file():
        path = path / FILE
    try:
        if path.is_file():
            return tokenizers.Tokenizer.from_file(str(path))
        from transformers import AutoTokenizer

        found = AutoTokenizer.from_pretrained(what)
        if len(found) <= len(found.all_special_tokens):  # what transformers makes of a folder without one
            raise ValueError("there are special tokens alone")
        return found.backend_tokenizer
    # the libraries raise plain Exception for files that are broken, and let network errors through
    except Exception as error:
        raise UserError(
            f"no vocabulary {what!r}: it is neither 'wordpiece' nor 'bpe' (which are trained on the data), "
            f"and no {FILE} or name of a fast tokenizer that can be loaded: {error}"
        ) from error


def _keep(tokenizer: tokenizers.Tokenizer) -> Vocabulary:
    """A loaded vocabulary in the cache, with a mask and a padding token if it had none."""
    for names in (("[MASK]", "<mask>"), ("[PAD]", "<pad>", "<|padding|>")):
        if all(tokenizer.token_to_id(name) is None for name in names):
            tokenizer.add_special_tokens([AddedToken(names[0], special=True)])
    folder = cache_folder("vocabulary") / hash_of([tokenizer.to_str()])
    if not (folder / FILE).is_file():
        with whole_or_not(folder) as part:
            tokenizer.save(str(part / FILE))
    return Vocabulary(folder / FILE)
