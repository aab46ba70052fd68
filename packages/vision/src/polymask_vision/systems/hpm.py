"""HPM: Hard Patches Mining for masked image modelling (Wang et al. 2023, arXiv 2304.05919, 2312.13714).

A masked autoencoder with a second decoder that ranks hidden patches by their expected reconstruction loss. An
EMA teacher of encoder and ranker scores the patches of the whole image, and a growing share of the next mask
is the patches that it ranks hardest.

    polymask pretrain vision/hpm --preset small --data fashion-mnist

The target is raw pixels, as in the published scripts. A random order costs ln 2 in the term ``ranking``. As
published, the teacher scores patches that it sees with a ranker that was trained on hidden patches; with few
patches per image this order can be worse than one by position, or than chance. ``--scoring complementary``
(not of the paper) runs the teacher four times, each on a different quarter, and averages a patch's scores
over the passes in which it is hidden. ``--preset prediction-only`` is the paper's ablation without mining:
random masks, no teacher. ``--score NAME`` mines by another score.

The teacher holds encoder and ranker, not the reconstruction decoder, whose copy would be unused. The head of
the released ranker averages as many outputs as a patch has numbers; here it has one output, of the same scale
at initialisation. A step takes more than twice as long as one of vision/mae.

Shapes: B samples, N tokens, M of them hidden, T target width.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Request, Step, System, Tokens, UserError, functional
from polymask.maskings import Disjoint, Random
from polymask.nn.decoders import LightDecoder
from polymask.nn.teachers import EMATeacher
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Whole

PASSES = 4
"""Teacher passes of complementary scoring; each shows 1 / PASSES of the patches."""


class HPM(System):
    """Masked autoencoder that learns to predict its own loss and hides the hardest patches.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes only the visible tokens.
        target: what to predict of each hidden token (published scripts: raw pixels).
        masking: what to hide, given the score (paper: 75 %; the share of hardest patches among them
            rises from 0 to a half over the run).
        objective: loss of a prediction at each hidden token; it must have ``sites``.
        ranking_objective: loss of the ranker against the reconstruction losses of hidden tokens:
            core/pairwise, which of two is higher (the paper's relative loss), or
            core/standardised-mse, the value itself (its absolute loss).
        score: score to mine by in place of the teacher's; no teacher is built then.
        scoring: input of the teacher: the ``"whole"`` image, or four ``"complementary"`` parts of it;
            ``"none"`` is for maskings that use no score.
        momentum: EMA momentum of the teacher at the start of the run.
        final_momentum: momentum after the rise.
        momentum_rise: share of the run over which momentum rises (paper: 100 of 200 or of 800 epochs).
        decoder_dim: width of both decoders (paper: 512).
        decoder_depth: blocks of each decoder (paper: 8).
        decoder_heads: attention heads of each decoder (paper: 16).
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
        ranking_objective: Objective,
        score: Target | None = None,
        scoring: Literal["whole", "complementary", "none"] = "whole",
        momentum: float = 0.999,
        final_momentum: float = 0.9999,
        momentum_rise: float = 0.5,
        decoder_dim: Count = 512,
        decoder_depth: Whole = 8,
        decoder_heads: Count = 16,
    ) -> None:
        super().__init__()
        if not hasattr(objective, "sites"):
            raise UserError(
                f"hpm ranks patches by what each costs, and {type(objective).__name__} gives one number for "
                "all: use core/mse, core/l1 or another objective that has `sites`"
            )
        if scoring not in ("whole", "complementary", "none"):
            raise UserError(f"scoring={scoring!r}: choose 'whole', 'complementary' or 'none'")
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.score, self.scoring = masking, score, scoring
        self.objective: Any = objective
        self.ranking_objective = ranking_objective

        def decoder(out_dim: int) -> LightDecoder:
            return LightDecoder.behind(
                encoder, tokenizer, out_dim, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads
            )

        self.decoder, self.ranker = decoder(target.dim), decoder(1)
        # both read the same sequence; only their blocks are their own
        self.ranker.embed, self.ranker.mask_token = self.decoder.embed, self.decoder.mask_token
        nn.init.normal_(self.ranker.head.weight, std=math.sqrt(2 / ((decoder_dim + target.dim) * target.dim)))
        self.teacher: EMATeacher | None = None
        if score is None and scoring != "none":
            self.teacher = EMATeacher(
                self.student(),
                momentum=momentum,
                final=final_momentum,
                curve="linear",
                rise=momentum_rise,
            )

    def student(self) -> nn.ModuleList:
        """The modules that the teacher averages."""
        return nn.ModuleList([self.encoder, self.ranker])  # type: ignore[list-item]

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        encoded = functional.encode_visible(self.encoder, tokens, mask)
        prediction_BMT = self.decoder(encoded, mask, tokens.position)
        guess_BM1 = self.ranker(encoded, mask, tokens.position)
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        loss_BM = self.objective.sites(prediction_BMT, hidden.values)
        # rows of different length are padded to the longest: their padding counts as visible
        real = Mask(torch.ones_like(loss_BM, dtype=torch.bool) if hidden.valid is None else hidden.valid)
        return {
            "reconstruction": real.mean(loss_BM),
            # no gradient through the target, so that no patch is made harder to be ranked better
            "ranking": self.ranking_objective(guess_BM1, loss_BM.detach()[..., None], real),
        }

    def after_step(self, step: Step) -> None:
        if self.teacher is not None:
            self.teacher.follow(self.student(), step)

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        evidence = self.score if self.teacher is None else self.difficulty(tokens, batch, step)
        mask = functional.draw_mask(self.masking, tokens, batch, step, evidence, stream)
        return functional.require_hard_mask("hpm", self.masking, mask)

    @torch.no_grad()
    def difficulty(self, tokens: Tokens, batch: Batch, step: Step) -> Tensor:
        """Difficulty of each token by the teacher, ``[B, N]``; only the order matters."""
        assert self.teacher is not None
        encoder, ranker = cast(tuple[Any, Any], tuple(self.teacher.module.children()))
        if self.scoring == "whole":
            shape, device = tokens.shape, tokens.values.device
            nothing = Mask(
                torch.zeros(shape, dtype=torch.bool, device=device),
                shape[1] if tokens.valid is None else None,
                tokens.valid,
            )
            answer = ranker(
                functional.encode_visible(encoder, tokens, nothing),
                nothing,
                tokens.position,
                at=nothing.invert(),
            )
            return nothing.restore(answer.float(), answer.new_zeros(1))[..., 0]
        # the visible parts of these views partition the sample: each token is visible in exactly one
        views = Disjoint(masking=Random(ratio=1 - 1 / PASSES), views=PASSES)
        total = tokens.values.new_zeros(tokens.shape, dtype=torch.float32)
        times = torch.zeros_like(total)
        for view in range(PASSES):
            mask = views(Request.of(tokens, batch, step, stream=PASSES + view))
            answer = ranker(functional.encode_visible(encoder, tokens, mask), mask, tokens.position)
            total = total + mask.invert().restore(answer.float(), answer.new_zeros(1))[..., 0]
            times = times + mask.hidden
        return total / times.clamp(min=1)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        encoded = functional.encode_visible(self.encoder, tokens, mask)
        prediction_BNT = functional.at_hidden(self.decoder(encoded, mask, tokens.position), mask)
        media = functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNT)
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is not None and self.teacher is not None:
            # brightness is the rank in the teacher's order, from the darkest to the brightest value
            place_BN = self.difficulty(tokens, batch, step).argsort(1).argsort(1) / tokens.shape[1]
            dark, bright = tokens.values.aminmax()
            heat = torch.lerp(dark, bright, place_BN)[..., None].expand_as(tokens.values)
            media["thought hard before masking (bright: hardest)"] = inverse(heat)
        return Preview(media)
