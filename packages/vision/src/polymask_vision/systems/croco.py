"""CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion (Weinzaepfel et al. 2022).

Hide 90 % of one picture, encode what is left of it and all of a second picture of the same scene with one
encoder, and let a decoder that attends to the second predict the pixels hidden in the first.

    polymask pretrain vision/croco --preset small --data rendered-rooms --tokenizer.patch_size 8
    polymask evaluate RUN vision/dense
    polymask evaluate RUN vision/other-view

arXiv 2210.10716. Pairs are two cameras' (``pairs:FOLDER``, ``motorcycle``, ``rendered-rooms``) or two frames
of a video (``video-pairs:FOLDER``). Of any other images two crops are
taken (``--data.views 2``, in all presets), between which nothing but place and colours differs. How much two
pictures of a pair see of one another is for the data to say: the paper asks for half, and pairs of equal
pictures teach to copy. Pictures are neither flipped nor scaled, and each has a jitter of its own.

``--conditioning none`` is vision/mae on the first picture, bit for bit. ``concatenate`` lets ordinary blocks
attend to both, which the paper found about as good (CatBlock); what tells the pictures apart there could not
be verified, and is a learned vector at all tokens of the second. The encoder's class token is that of MAE;
the paper has none (preset ``paper``), and that of the second picture takes no part.

The encoder's features are those of one picture. ``encode_pair`` gives those of the decoder, which has seen
both: vision/dense measures them too where samples are pairs. Training logs the loss of the samples that it
watches with their other picture, with that of another sample, and with none; vision/other-view measures the
same on held-out samples.

Shapes: B samples, N tokens, M of them hidden, D decoder width, T target width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, functional
from polymask.nn.decoders import LightDecoder
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Whole
from polymask_vision.decoders import MemoryDecoder
from polymask_vision.views import OTHER, other_view

Conditioning = Literal["cross", "concatenate", "none"]


class CroCo(System):
    """Masked autoencoder whose decoder sees a second picture.

    Args:
        tokenizer: cuts either picture into tokens.
        encoder: encodes the visible tokens of the first picture, and all of the second, each alone.
        target: what to predict of each hidden token.
        masking: what to hide of the first picture (paper: 0.9 at random); nothing is hidden of the second.
        objective: how a prediction is scored, over hidden tokens.
        score: evidence per token for maskings that go by score.
        conditioning: blocks of the decoder attend to the second picture beside their own tokens
            (``"cross"``), among them (``"concatenate"``), or not (``"none"``).
        decoder_dim: width of the decoder (paper: 512).
        decoder_depth: blocks of the decoder (paper: 8).
        decoder_heads: attention heads of the decoder (paper: 16).
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
        score: Target | None = None,
        conditioning: Conditioning = "cross",
        decoder_dim: Count = 512,
        decoder_depth: Whole = 8,
        decoder_heads: Count = 16,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.conditioning = conditioning
        kind = MemoryDecoder if conditioning == "cross" else LightDecoder
        self.decoder = kind(
            in_dim=encoder.out_dim,
            out_dim=target.dim,
            prefix=encoder.prefix,
            # tables of positions are of one picture
            grid=None if conditioning == "concatenate" else tokenizer.provides.get("grid"),
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
        )
        if conditioning == "concatenate":
            self.second = nn.Parameter(torch.empty(encoder.out_dim))
            nn.init.normal_(self.second, std=0.02)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        prediction_BMT = self.predict(tokens, mask, self.other(batch))
        return {"reconstruction": functional.masked_loss(self.objective, prediction_BMT, hidden)}

    def other(self, batch: Batch) -> Tokens | None:
        """The second picture, encoded, nothing of it hidden; None where the decoder does not see it."""
        if self.conditioning == "none":
            return None
        why = (
            "croco completes a picture from a second one of the same scene, and samples of this data have "
            "only one: use pairs:FOLDER, two crops of each image (--data.views 2 --data.augment "
            "crop-jitter), or --conditioning none"
        )
        return functional.encode(self.tokenizer, self.encoder, other_view(self.tokenizer, batch, why))

    def predict(self, tokens: Tokens, mask: Mask, other: Tokens | None) -> Tensor:
        """Predictions ``[B, M, T]`` at the hidden tokens, from the visible ones and the second picture."""
        prediction_BMT: Tensor = self.decoder.head(self.decode(tokens, mask, other, mask))
        return prediction_BMT

    def decode(self, tokens: Tokens, mask: Mask, other: Tokens | None, at: Mask) -> Tensor:
        """The decoder's features ``[B, M, D]`` where ``at`` hides."""
        encoded, position = functional.encode_visible(self.encoder, tokens, mask), tokens.position
        if other is None:
            return self.decoder.features(encoded, mask, position, at)
        if isinstance(self.decoder, MemoryDecoder):
            return self.decoder.features(encoded, mask, position, at, memory=self.decoder.memory(other))
        # the second picture leads, so that rows with fewer visible tokens may end in padding
        r = self.encoder.prefix
        both = torch.cat([encoded[:, :r], other.values + self.second, encoded[:, r:]], dim=1)
        position = torch.cat([other.position, position], dim=1)
        return self.decoder.features(both, _behind(other, mask), position, _behind(other, at))

    def encode_pair(self, batch: Batch) -> Tokens:
        """Features of the decoder, ``[B, N, D]``, of the first picture beside the second, nothing hidden."""
        tokens = self.tokenizer(batch)
        nothing = Mask(torch.zeros_like(tokens.real), tokens.shape[1])
        features_BND = self.decode(tokens, nothing, self.other(batch), nothing.invert())
        return Tokens(features_BND, tokens.position, tokens.grid)

    @torch.no_grad()
    def compare(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The loss with the second picture of each sample, with that of the one before it, and with none."""
        tokens, other = self.tokenizer(batch), self.other(batch)
        if other is None:
            return {}
        mask = self.draw(tokens, batch, step)
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        another = Tokens(other.values.roll(1, 0), other.position, other.grid)
        seen = {"own_other": other, "another_other": another, "no_other": None}
        return {
            name: functional.masked_loss(self.objective, self.predict(tokens, mask, one), hidden)
            for name, one in seen.items()
        }

    def example(self, n: int, seed: int = 0) -> Batch:
        return {**super().example(n, seed), OTHER: super().example(n, seed + 1)[self.tokenizer.key]}

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        return self.compare(batch, step)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens, other = self.tokenizer(batch), self.other(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BNT = functional.at_hidden(self.predict(tokens, mask, other), mask)
        media = functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT)
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is not None and other is not None:
            second = self.tokenizer({**batch, self.tokenizer.key: batch[OTHER]})
            media = {"other picture": inverse(second.values), **media}
        return Preview(media)


def _behind(other: Tokens, mask: Mask) -> Mask:
    """A mask over tokens of which none is hidden, and then those of another mask."""
    clear = torch.zeros_like(other.real)
    visible = None if mask.visible is None else mask.visible + clear.shape[1]
    valid = None if mask.valid is None else torch.cat([~clear, mask.valid], dim=1)
    return Mask(torch.cat([clear, mask.hidden], dim=1), visible, valid)
