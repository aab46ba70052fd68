"""GA-DMS: Gradient-Attention Guided Dual-Masking Synergetic Framework for Text-based Person Retrieval (2025).

Match images with captions that are partly wrong: score how much each word pushed the cosine of image and
caption up, hide words of low score where the two are matched, and hide words of high score to predict them
from the image.

    pip install 'polymask-vision[language,persons]'
    polymask pretrain vision/ga-dms --preset small --data persons --data.false 0.3
    polymask evaluate RUN vision/text-retrieval
    polymask evaluate RUN vision/planted-words

arXiv 2509.09118; read with its release. Data needs captions (``--data.text_vocab bpe``, in all presets):
``folder:`` with captions, ``stamps``, ``emoji``, ``clipart``, ``persons``.

Scores of a caption are kept until it is met again; before it was, all words count as informative
(``prior``), so that at first one word of each is left out of matching, and all are predicted at one
rate. In evaluation they count so too, which makes losses of runs comparable. Captions that say the same are
one identity; the paper takes each for its own. Where the release differs from the paper
(``--evidence gradient-released``), attention is divided by the sum of importance, which may be negative and
then turns all scores of a caption around. It also runs eight heads as one, which nothing here does, and
starts from CLIP, which is not at hand: encoders start untrained, or from ``--text_encoder.pretrained``.

``forward`` waits for the device to know how many words are hidden, and scores by a gradient: it does not
compile whole. It takes one more pass of the text encoder, and its gradient, than matching alone.

Shapes: B pairs, N tokens of a caption, V those of an image with the one that stands for it, D width of what
is matched, K words hidden in a row at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask import (
    Batch,
    Losses,
    Mask,
    MaskView,
    Preview,
    Step,
    System,
    Tokens,
    UserError,
    functional,
    sample_ids,
)
from polymask.nn.corruption import STREAM, corrupt, maskable
from polymask.objectives.matching import require_matching
from polymask.protocols import Encoder, Masking, Objective, Tokenizer
from polymask.types import Count, Fact, NotNegative, Share, Whole
from polymask_vision.datasets.texts import IDENTITY, words_of
from polymask_vision.score_memory import ScoreMemory
from polymask_vision.word_reader import WordReader
from polymask_vision.word_scores import EVIDENCE, Evidence, Read, word_scores

NOISE = 1
"""Stream of the words that are left out of matching; those to predict are drawn from stream 0."""


class GADMS(System):
    """Image and text encoders that are matched, words being masked by how they bear on it.

    Args:
        tokenizer: cuts the image into tokens.
        encoder: encodes the image, all of it: the one that is kept.
        text_tokenizer: makes tokens of the caption.
        text_encoder: encodes the caption, and shows what its attention does.
        masking: which words to predict (paper: each with a chance that rises with its score).
        noise_masking: which words to leave out of matching (paper: a chance that falls with it); none for
            whole captions.
        objective: how a predicted word is scored.
        match_objective: how images and captions of a batch are matched (paper: SDM).
        evidence: what scores words: ``gradient`` (paper), ``gradient-released``, ``cosine`` or ``attention``.
        last_blocks: blocks of the text encoder that scores are read from, the last ones (paper: 8 of 12).
        prior: score of all words of a caption that was not met before (release: 0.85).
        words_weight: weight of the predicted words (paper: 0.4; released command: 0.3).
        dim: width of what is matched (paper: 512).
        heads: attention heads where words look at the image (paper: 8).
        depth: blocks behind that (paper: 4).
        shares: of hidden words: masked, replaced at random, left.
        samples: captions to remember scores of, from the data.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        text_tokenizer: Tokenizer,
        text_encoder: Encoder,
        masking: Masking,
        noise_masking: Masking | None = None,
        objective: Objective,
        match_objective: Objective,
        evidence: Evidence = "gradient",
        last_blocks: Count = 8,
        prior: Share = 0.85,
        words_weight: NotNegative = 0.4,
        dim: Count = 512,
        heads: Count = 8,
        depth: Whole = 4,
        shares: Sequence[float] = (0.8, 0.1, 0.1),
        samples: Fact[Count] = 1,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder
        self.text_tokenizer, self.text_encoder = text_tokenizer, text_encoder
        self.masking, self.noise_masking, self.objective = masking, noise_masking, objective
        matching = require_matching(
            "ga-dms matches images and captions of a batch", match_objective, "core/sdm or core/infonce"
        )
        if not hasattr(text_encoder, "attending"):
            raise UserError(
                f"ga-dms scores words by attention, which {type(text_encoder).__name__} does not show: use "
                "--text_encoder language/causal or language/transformer"
            )
        if evidence not in EVIDENCE:
            raise UserError(f"evidence={evidence!r}: choose one of {', '.join(EVIDENCE)}")
        self.match_objective, self.evidence = matching, evidence
        self.last_blocks, self.prior = last_blocks, prior
        self.words_weight, self.shares = words_weight, tuple(shares)
        words = text_tokenizer.provides
        self.vocabulary, self.mask_id = words["vocabulary"], words["mask_id"]
        self.special_ids = tuple(words["special_ids"])
        self.image_map = nn.Linear(encoder.out_dim, dim, bias=False)
        self.text_map = nn.Linear(text_encoder.out_dim, dim, bias=False)
        self.reader = WordReader(dim, heads, depth, self.vocabulary)
        self.memory = ScoreMemory(samples, words["length"], prior)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.words(batch)
        image_BVD = self.see(batch)
        mask, noise = (self.draw(tokens, batch, step, stream) for stream in (0, NOISE))

        # both views of a caption in one pass; the place of its last token is that of the whole one
        shown = [self.corrupt(tokens, one, batch, step, k) for k, one in enumerate((noise, mask))]
        whole_BND, asked_BND = self.read(torch.cat(shown), _twice(tokens)).chunk(2)
        one_B1D, other_B1D = image_BVD[:, :1], _ends(whole_BND, tokens)[:, None]
        identity = batch[IDENTITY][:, None] if IDENTITY in batch else None
        match = self.match_objective(one_B1D, other_B1D, identity=identity)

        told_BND = self.reader(asked_BND, image_BVD, tokens.real)
        hidden = mask.invert().keep(dataclasses.replace(tokens, values=told_BND))
        assert hidden.ids is not None and hidden.valid is not None
        words = self.objective(self.reader.head(hidden.values), hidden.ids, Mask(hidden.valid))

        if self.training and torch.is_grad_enabled():
            self.memory.note(batch, self.word_scores(batch, image_BVD[:, 0]), step)
        return {"match": match, "words": self.words_weight * words}

    def words(self, batch: Batch) -> Tokens:
        """Tokens of the captions."""
        return words_of(batch, self.text_tokenizer, "ga-dms")

    def see(self, batch: Batch) -> Tensor:
        """The image, ``[B, V, D]``: what stands for it, then its tokens."""
        x_BVC = functional.encode_tokens(self.encoder, self.tokenizer(batch))
        if not self.encoder.prefix:
            x_BVC = torch.cat([x_BVC.mean(1, keepdim=True), x_BVC], dim=1)
        x_BVD: Tensor = self.image_map(x_BVC)
        return x_BVD

    def read(self, ids_BN: Tensor, tokens: Tokens) -> Tensor:
        """Captions of these ids, ``[B, N, D]``."""
        x_BNC = self.text_encoder(self.text_encoder.embed(ids_BN[..., None]), tokens.position, tokens.valid)
        x_BND: Tensor = self.text_map(x_BNC[:, self.text_encoder.prefix :])
        return x_BND

    def embed_image(self, batch: Batch) -> Tensor:
        """``[B, D]``, to compare with those of captions by cosine."""
        return self.see(batch)[:, 0]

    def embed_text(self, batch: Batch) -> Tensor:
        """``[B, D]``, of whole captions."""
        tokens = self.words(batch)
        assert tokens.ids is not None
        return _ends(self.read(tokens.ids, tokens), tokens)

    # ------------------------------------------------------------------------------ their words

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        """Words to predict, or with stream :data:`NOISE` those that are left out of matching."""
        masking: Any = self.noise_masking if stream == NOISE else self.masking
        offered = dataclasses.replace(tokens, valid=maskable(tokens, self.special_ids))
        if masking is None:
            return Mask(torch.zeros_like(tokens.real), None, offered.valid)
        scores = self.remembered(tokens, batch)
        mask = functional.draw_mask(masking, offered, batch, step, scores, stream)
        return functional.require_hard_mask("ga-dms", masking, mask)

    def corrupt(self, tokens: Tokens, mask: Mask, batch: Batch, step: Step, view: int) -> Tensor:
        """What the text encoder sees, ids ``[B, N]``."""
        assert tokens.ids is not None
        return corrupt(
            tokens.ids,
            mask,
            step,
            sample_ids(batch),
            mask_id=self.mask_id,
            vocabulary=self.vocabulary,
            special_ids=self.special_ids,
            shares=self.shares,
            stream=STREAM - view,
        )

    # ------------------------------------------------------------------------------ their scores

    def remembered(self, tokens: Tokens, batch: Batch) -> Tensor:
        """What is known of each word, ``[B, N]``."""
        if not self.training:
            return torch.full(tokens.shape, self.prior, device=tokens.values.device)
        return self.memory.recall(batch, tokens.shape[1])

    def word_scores(
        self, batch: Batch, image_BD: Tensor | None = None, evidence: Evidence | None = None
    ) -> Tensor:
        """How much each word has to do with the image, in [0, 1], float32 ``[B, N]``, as the model is now.

        Args:
            batch: pairs.
            image_BD: the images, where they are known.
            evidence: what scores words; that of the constructor by default.
        """
        tokens = self.words(batch)
        with torch.enable_grad():
            x = self.text_encoder.embed(tokens.values).detach().requires_grad_()
            encoder: Any = self.text_encoder
            x_BNC, blocks = encoder.attending(x, tokens.position, tokens.valid, self.last_blocks)
            if image_BD is None:
                image_BD = self.embed_image(batch)
            read = Read(
                image=image_BD.detach(),
                text=self.text_map(x_BNC[:, encoder.prefix :]),
                blocks=blocks,
                last=_last(tokens),
                content=maskable(tokens, self.special_ids),
            )
            return word_scores(read, evidence or self.evidence)

    def after_step(self, step: Step) -> None:
        self.memory.write()

    # ---------------------------------------------------------------------------------- reports

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        tokens = self.words(batch)
        views = {"words to predict": MaskView(self.draw(tokens, batch, step), tokens)}
        if self.noise_masking is not None:
            views["words left out"] = MaskView(self.draw(tokens, batch, step, NOISE), tokens)
        return views

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"images": self.embed_image(batch), "captions": self.embed_text(batch)}

    def preview(self, batch: Batch, step: Step) -> Preview:
        shown: Any = self.text_tokenizer
        if not hasattr(shown, "compared"):
            return Preview()
        tokens = self.words(batch)
        content, scores = maskable(tokens, self.special_ids), self.word_scores(batch)
        with torch.no_grad():
            mask, image_BVD = self.draw(tokens, batch, step), self.see(batch)
            asked_BND = self.read(self.corrupt(tokens, mask, batch, step, 1), tokens)
            guess = self.reader.head(self.reader(asked_BND, image_BVD, tokens.real)).argmax(-1)
        return Preview(
            {
                "scores of words": shown.weighted(tokens, scores, content),
                "words predicted from the image": shown.compared(tokens, mask.hidden, guess),
            }
        )


def _last(tokens: Tokens) -> Tensor:
    """The token that ends a caption and stands for it, int64 ``[B]``."""
    return tokens.real.sum(1) - 1


def _ends(x_BND: Tensor, tokens: Tokens) -> Tensor:
    """What the last token of each caption has, ``[B, D]``."""
    return x_BND[torch.arange(len(x_BND), device=x_BND.device), _last(tokens)]


def _twice(tokens: Tokens) -> Tokens:
    """Tokens of the same captions, twice."""
    valid = None if tokens.valid is None else tokens.valid.repeat(2, 1)
    position = tokens.position.repeat(2, 1, 1)
    return dataclasses.replace(tokens, values=tokens.values.repeat(2, 1, 1), position=position, valid=valid)
