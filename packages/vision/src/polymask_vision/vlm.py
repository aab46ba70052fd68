"""A language model that reads images as tokens, between a prompt and a text (LLaVA: Liu et al. 2023).

Shapes: B samples, N patches of an image, V tokens that the encoder makes of them, K all tokens of a sequence,
L those of a text, D width of the language model.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymask import Batch, Mask, System, Tokens, UserError, functional
from polymask.export import Exporter
from polymask.protocols import Encoder, Objective, Tokenizer
from polymask_vision.datasets.texts import HAS_IMAGE, RESPONSE
from polymask_vision.interleaved import Interleaved
from polymask_vision.vlm_weights import save_vlm


class ImageLanguageModel(System):
    """What systems of images and texts are made of: the sequence, its states, the next token.

    Args:
        tokenizer: cuts the image into tokens.
        encoder: encodes the image.
        text_tokenizer: makes tokens of the text.
        text_encoder: the language model, every token of which sees those before it.
        text_objective: how a predicted token is scored.
        image_block: block of the encoder whose output is seen, from the last, -1.
        prompt: words in front of the image.
        with_images: False goes by texts alone, as if samples had no image.

    Attributes:
        task_tokens: learned tokens behind the image, ``[Q, D]`` by name; a subclass says which there are, and
            by :meth:`fed` how they are fed.
    """

    task_names: ClassVar[tuple[str, ...]] = ()
    """Names of task tokens, in their order in the sequence."""

    text_tokenizer: Tokenizer
    text_encoder: Encoder

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        text_tokenizer: Tokenizer,
        text_encoder: Encoder,
        text_objective: Objective,
        image_block: int,
        prompt: str,
        with_images: bool,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder
        self.text_tokenizer, self.text_encoder = text_tokenizer, text_encoder
        self.text_objective, self.image_block, self.with_images = text_objective, image_block, with_images
        lm: Any = text_encoder
        if not getattr(lm, "causal", False):
            raise UserError(
                f"the next token is predicted from those before it, and {type(text_encoder).__name__} sees "
                "those behind: use --text_encoder language/causal"
            )
        if image_block >= 0 or (image_block < -1 and -image_block > functional.depth(encoder)):
            raise UserError(f"image_block={image_block}: give a block of the encoder from the last, -1")
        self.projector = nn.Sequential(
            nn.Linear(encoder.out_dim, lm.dim), nn.GELU(), nn.Linear(lm.dim, lm.dim)
        )
        self.task_tokens = nn.ParameterDict()
        words: Any = text_tokenizer
        self.start_id: int | None = words.start_id
        start = [] if self.start_id is None else [self.start_id]
        ids = torch.tensor([*start, *_words(words, prompt)], dtype=torch.int64)
        self.register_buffer("prompt_ids", ids, persistent=False)
        self.prompt_ids: Tensor

    @property
    def sites(self) -> int:
        """N."""
        return math.prod(self.tokenizer.provides["grid"])

    def freeze(self, train_language: bool) -> None:
        """Nothing of the image encoder trains, nor, unless told to, of the language model."""
        encoder: Any = self.encoder
        lm: Any = self.text_encoder
        encoder.requires_grad_(False)
        lm.requires_grad_(train_language)

    # --------------------------------------------------------------------------------- the sequence

    def sequence(self, tokens: Tokens, has_B: Tensor, text: Tokens | None = None) -> Interleaved:
        """Prompt, image, task tokens and text; samples without an image lack the two in the middle.

        Args:
            tokens: of the images.
            has_B: bool, which samples have an image.
            text: tokens of the texts.
        """

        def alike(x_nD: Tensor, real_B: Tensor) -> tuple[Tensor, Tensor]:
            shape = len(has_B), len(x_nD)
            return x_nD.expand(*shape, -1), real_B[:, None].expand(shape)

        words_nD = self.text_encoder.embed(self.prompt_ids[None, :, None])[0]
        image_BVD = self.projector(self.see(tokens))
        pieces = {
            "prompt": alike(words_nD, torch.ones_like(has_B)),
            "image": (image_BVD, has_B[:, None].expand(image_BVD.shape[:2])),
        }
        for name in (name for name in self.task_names if name in self.task_tokens):
            pieces[name] = alike(self.fed(name), has_B)
        if text is not None:
            pieces["text"] = self.text_encoder.embed(text.values), self.told(text)
        return Interleaved.of(pieces)

    @torch.no_grad()
    def see(self, tokens: Tokens) -> Tensor:
        """What the encoder makes of the image, ``[B, V, C]``."""
        if self.image_block == -1:
            return functional.encode_grid(self.encoder, tokens).values
        return functional.layers(self.encoder, tokens)[self.image_block][:, self.encoder.prefix :]

    def fed(self, name: str) -> Tensor:
        """The task tokens of a name that the language model gets, ``[n, D]``."""
        raise NotImplementedError

    def text(self, batch: Batch) -> Tokens:
        """Tokens of the texts."""
        if self.text_tokenizer.key not in batch:
            raise UserError(
                "texts about images are learned, and samples of this data have none: use data that has "
                "captions, with --data.text_vocab bpe"
            )
        return self.text_tokenizer(batch)

    def told(self, text: Tokens) -> Tensor:
        """Which tokens of a text are part of it: not padding, nor its start, which leads the prompt."""
        return text.real if self.start_id is None else text.real & (text.values[..., 0] != self.start_id)

    def has_image(self, batch: Batch) -> Tensor:
        """Which samples have one, bool ``[B]``."""
        image = batch[self.tokenizer.key]
        whole = torch.full((len(image),), self.with_images, device=image.device)
        return whole & batch[HAS_IMAGE] if HAS_IMAGE in batch else whole

    def states(self, sequence: Interleaved) -> list[Tensor]:
        """What leaves each block of the language model, ``[B, K, D]``; of the last one normed."""
        lm: Any = self.text_encoder
        found: list[Tensor] = lm.layers(sequence.values, sequence.position, sequence.valid)
        return found

    def next_token(
        self, batch: Batch, sequence: Interleaved, last_BKD: Tensor
    ) -> tuple[Tensor, Tensor, Mask]:
        """Logits ``[B, L, vocabulary]``, the ids ``[B, L]``, and which of these are to be told.

        These are the tokens of responses where the batch marks any, else of whole texts.
        """
        text, before_BL = self.text(batch), sequence.before("text")
        asked = self.told(text) & (before_BL >= 0)
        if RESPONSE in batch:
            asked = asked & batch[RESPONSE]
        at = before_BL.clamp(min=0)[..., None].expand(-1, -1, last_BKD.shape[-1])
        lm: Any = self.text_encoder
        return lm.logits(last_BKD.gather(1, at)), text.values[..., 0], Mask(asked)

    def right(self, batch: Batch) -> Tensor:
        """Whether each response is what it gives itself, the likeliest token each time, bool ``[B]``."""
        sequence = self.sequence(self.tokenizer(batch), self.has_image(batch), self.text(batch))
        logits_BLC, ids_BL, asked = self.next_token(batch, sequence, self.states(sequence)[-1])
        # behind right tokens it has the same in front of it as where it gave them itself
        wrong_BL = asked.hidden & (logits_BLC.argmax(-1) != ids_BL)
        return asked.hidden.any(1) & ~wrong_BL.any(1)

    def encode(self, batch: Batch) -> Tokens:
        """What the language model makes of the tokens of the image, whatever the text."""
        return self.image_states(batch)[-1]

    def image_states(self, batch: Batch) -> list[Tokens]:
        """The same of each of its layers."""
        tokens = self.tokenizer(batch)
        sequence = self.sequence(tokens, torch.ones_like(tokens.real[:, 0]))
        with torch.no_grad():
            whole = functional.encode_grid(self.encoder, tokens)
        span = sequence.spans["image"]
        return [Tokens(x[:, span], whole.position, whole.grid) for x in self.states(sequence)]

    def exports(self) -> dict[str, Exporter]:
        """Formats of ``polymask export`` beside those of the encoder: all that answers, without teachers."""
        return {"vlm": lambda facts, out: save_vlm(self, facts, out)}

    def require_room(self, task_tokens: int) -> None:
        """Refuse a language model with fewer places than a sequence may have.

        Args:
            task_tokens: how many of them there are in a sequence.
        """
        lm: Any = self.text_encoder
        image = self.sites // self.encoder.downsample**2
        longest = len(self.prompt_ids) + image + task_tokens + self.text_tokenizer.provides["length"]
        room = lm.model.config.max_position_embeddings
        if longest > room:
            raise UserError(
                f"a sequence has up to {longest} tokens, and this language model has {room} places: give "
                f"--text_encoder.length {longest}, larger patches or a shorter --data.text_length"
            )


def _words(tokenizer: Any, prompt: str) -> list[int]:
    """Ids of a prompt, without what begins and ends a text."""
    if not prompt:
        return []
    if tokenizer.tokenizer_file is None:
        raise UserError("a prompt needs the vocabulary of the data: give --data.text_vocab")
    made = tokenizer.of_texts([prompt], [prompt], vocab=tokenizer.tokenizer_file, length=tokenizer.length)
    return [i for i in made[0]["text"].tolist() if i not in tokenizer.special_ids]
