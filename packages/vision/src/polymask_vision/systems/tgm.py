"""TGM: Text-Guided Video Masked Autoencoder (Fan et al. 2024, arXiv 2408.00759).

Hide of each moment of a video the patches that match its caption best, by a frozen image and text encoder;
reconstruct them from the others as VideoMAE does; and draw the mean of the visible tokens to the caption.

    pip install 'polymask-vision[language]'
    polymask recipe vision/tgm --data moving-digits --data.coloured true
    polymask pretrain vision/tgm --preset small --data moving-digits --guide RUN --score.guide RUN

The recipe trains the guide, vision/dual, where the paper has CLIP (``transformers:NAME`` takes one), then the
masked autoencoder. Data have captions (``--data.text_vocab``, in all presets); of several of one clip, one is
drawn each time it is read. Captions of the same words in a batch match each other's clips; others are taken
for different, whatever they say.

No code was published. These are ours: how maps of frames become scores of tubelets (vision/text-similarity);
one linear map on each side of the contrast; its temperature, learned from 0.07 on; and that it goes both
ways. Both losses weigh 1, as published. ``--match_weight 0`` is the masked autoencoder alone. What the paper
compares with:

    --masking core/tube --masking.masking.ratio 0.9 --score null    VideoMAE
    --score vision/motion                                           motion-guided, by differences of frames
    --masking.largest false                                         what matches least

Predicting zero costs (n - 1) / n for the n numbers of a channel of a tubelet: learning starts below 1. The
contrast starts at the logarithm of the batch size, and stays there if one of its sides collapses.

Shapes: B clips, N tubelets, K visible, M hidden, C encoder width, T target width, D width of what is matched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError, functional
from polymask.config import relative_to_run
from polymask.nn.decoders import LightDecoder
from polymask.nn.teachers import Frozen
from polymask.objectives.matching import require_matching
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.recipes import Stage, divided
from polymask.types import Count, Fact, NotNegative, Place, Share
from polymask_vision.datasets.texts import IDENTITY
from polymask_vision.text_guide import TEXT, open_guide
from polymask_vision.video_scores import heat


class TGM(System):
    """Masked autoencoder of clips, hidden by their captions, whose visible part is matched with these.

    Args:
        tokenizer: cuts clips into tubelets.
        encoder: encodes the visible tokens alone.
        target: what to predict of each hidden token (paper: its pixels, normalised by channel).
        masking: what to hide (paper: 60 % of each slot of time, those of highest score).
        objective: how a prediction is scored over hidden tokens.
        match_objective: how visible parts and captions of a batch are matched (paper: InfoNCE).
        score: evidence per token for the masking (paper: likeness with the caption); None for maskings that
            go by none.
        guide: whose embedding of captions is matched: folder of a finished run of vision/dual;
            ``transformers:NAME`` for a CLIP, with ``--data.text_vocab NAME``; or ``random``, to try things
            out.
        match_weight: weight of the match (paper: 1); with 0 captions are not read but by the score.
        dim: width of what is matched.
        decoder_dim: width of the decoder (VideoMAE: 384).
        decoder_depth: blocks of the decoder (VideoMAE: 4).
        decoder_heads: attention heads of the decoder (VideoMAE: 6).
        channels: of frames, from the data.
        mean: per channel, what was subtracted from values in [0, 1], from the data.
        std: per channel, what they were divided by, from the data.
        text: what the data says of its captions.
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        match_objective: Objective,
        score: Target | None = None,
        guide: Place = None,
        match_weight: NotNegative = 1.0,
        dim: Count = 512,
        decoder_dim: Count = 384,
        decoder_depth: Count = 4,
        decoder_heads: Count = 6,
        channels: Fact[Count] = 3,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
        text: Fact[Mapping[str, Any] | None] = None,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.decoder: Any = LightDecoder.behind(
            encoder, tokenizer, target.dim, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads
        )
        self.match_weight = match_weight
        self.guide: Frozen | None = None
        if not match_weight:
            return
        if guide is None:
            raise UserError(
                "tgm matches clips with embedded captions: give --guide FOLDER, a run of vision/dual as "
                "polymask recipe vision/tgm trains it; or --match_weight 0 to do without"
            )
        self.match_objective = require_matching("tgm matches clips and captions of a batch", match_objective)
        opened: Any = open_guide(guide, channels=channels, mean=mean, std=std, text=text)
        self.guide = Frozen(opened)
        self.clip_map = nn.Linear(encoder.out_dim, dim)
        self.text_map = nn.Linear(opened.dim, dim)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        target = Tokens(self.target(batch, tokens), tokens.position)
        mask = self.draw(tokens, batch, step)
        visible = mask.keep(tokens)
        encoded_BKC = functional.encode_tokens(self.encoder, visible)
        prediction_BMT = self.decoder(encoded_BKC, mask, tokens.position)
        hidden = mask.invert().keep(target)
        losses = {"reconstruction": functional.masked_loss(self.objective, prediction_BMT, hidden)}
        if self.guide is not None:
            clip_BD, text_BD = self.embed_visible(encoded_BKC, visible), self.embed_text(batch)
            identity = batch[IDENTITY][:, None] if IDENTITY in batch else None
            match = self.match_objective(clip_BD[:, None], text_BD[:, None], identity=identity)
            losses["match"] = self.match_weight * match
        return losses

    def embed_visible(self, encoded_BKC: Tensor, visible: Tokens) -> Tensor:
        """The mean of encoded visible tokens, ``[B, D]``, to compare with captions by cosine."""
        mean_BC = functional.as_tokens(self.encoder, encoded_BKC, visible).pool()
        clip_BD: Tensor = self.clip_map(mean_BC)
        return clip_BD

    def embed_text(self, batch: Batch) -> Tensor:
        """Captions, ``[B, D]``; gradient reaches their linear map, and not the guide."""
        if TEXT not in batch:
            raise UserError(
                "tgm matches clips with captions, and those of this data have none: use data that has "
                "captions, with --data.text_vocab bpe; or --match_weight 0"
            )
        assert self.guide is not None
        guide: Any = self.guide.module
        known_BG = guide.text(batch)
        text_BD: Tensor = self.text_map(known_BG.to(self.text_map.weight.dtype))
        return text_BD

    def example(self, n: int, seed: int = 0) -> Batch:
        batch = super().example(n, seed)
        guide: Any = None if self.guide is None else self.guide.module
        return batch if guide is None else batch | guide.example(n, seed)

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        if self.guide is None:
            return {}
        tokens = self.tokenizer(batch)
        with torch.no_grad():
            visible = self.draw(tokens, batch, step).keep(tokens)
            encoded_BKC = functional.encode_tokens(self.encoder, visible)
            return {"clips": self.embed_visible(encoded_BKC, visible), "captions": self.embed_text(batch)}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = functional.at_hidden(self.predict(tokens, mask), mask)
        media = functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT)
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if self.score is not None and inverse is not None:
            score_BN = self.score(batch, tokens)[..., 0]
            media["score to hide by (bright: high)"] = inverse(heat(score_BN, tokens))
        return Preview(media)

    def predict(self, tokens: Tokens, mask: Mask) -> Tensor:
        """Predictions ``[B, M, T]`` at the hidden tokens, from the visible ones."""
        encoded_BKC = functional.encode_visible(self.encoder, tokens, mask)
        prediction_BMT: Tensor = self.decoder(encoded_BKC, mask, tokens.position)
        return prediction_BMT


def tgm(
    stage: Stage,
    /,
    *,
    preset: str = "small",
    steps: Count | None = None,
    share: Share = 1 / 3,
) -> None:
    """An image and a text encoder that share a space, and a masked autoencoder that they guide.

    Args:
        stage: trains a run.
        preset: of both stages.
        steps: of both stages together; by default those of the presets.
        share: of ``steps`` that are the guide's.
    """
    first, rest = ({}, {}) if steps is None else ({"steps": n} for n in divided(steps, share))
    guide = relative_to_run(stage("guide", "vision/dual", preset=preset, **first).folder.name)
    stage("tgm", "vision/tgm", preset=preset, **{"guide": guide, "score.guide": guide, **rest})
