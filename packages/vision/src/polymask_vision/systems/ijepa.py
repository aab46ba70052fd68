"""I-JEPA: a Joint-Embedding Predictive Architecture for images (Assran et al. 2023, arXiv 2301.08243).

Encode one large block of patches, the context, and predict from it what an EMA teacher, which sees the whole
image, makes of several target blocks. A narrow Transformer predicts each block on its own from the positions
of its patches.

    polymask pretrain vision/ijepa --preset small --data fashion-mnist

Targets are layer-normalised over features, so that predicting zero costs about 0.42 by the smooth L1 error of
the release (the paper writes a squared error): learning starts below that. Features can collapse to a
constant, where the loss is 0 too; training reports their spread, and that of the predictions. The teacher is
what probes measure and export writes. Weight decay is constant here; the release raises it from 0.04 to 0.4.

``--masking core/random`` has one target, all hidden patches, as in the paper's ablation; ``--target
vision/pixels`` predicts pixels and needs no teacher, its other one.

Shapes: B samples, N tokens, K of them in the context, M in a target, T targets, D encoder width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, functional
from polymask.nn.teachers import EMATeacher, normalise
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.types import Count, Share
from polymask_vision.decoders import LatentPredictor


class IJEPA(System):
    """Predicts an EMA teacher's features of target blocks from a context block.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the context alone (paper: without a class token).
        masking: draws context and targets, as core/multi-block does; with a masking of one mask per sample,
            the context is what it leaves visible and the only target what it hides.
        objective: how a prediction is scored over the patches of a target (release: smooth L1).
        target: what to predict in place of the teacher's features; no teacher is built then.
        score: score per token, for maskings that need one.
        momentum: EMA momentum of the teacher at the start of the run.
        final_momentum: momentum at its end; it rises linearly.
        predictor_dim: width of the predictor (paper: 384).
        predictor_depth: blocks of the predictor (paper: 12 behind ViT-H).
        predictor_heads: attention heads of the predictor (release: those of the encoder).
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        target: Target | None = None,
        score: Target | None = None,
        momentum: Share = 0.996,
        final_momentum: Share = 1.0,
        predictor_dim: Count = 384,
        predictor_depth: Count = 12,
        predictor_heads: Count = 12,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.objective = tokenizer, encoder, objective
        self.masking, self.target, self.score = masking, target, score
        self.targets: int = getattr(masking, "targets", 0)
        size = {"dim": predictor_dim, "depth": predictor_depth, "heads": predictor_heads}
        width = encoder.out_dim if target is None else target.dim
        self.predictor: Any = LatentPredictor.behind(encoder, tokenizer, width, **size)
        self.teacher: EMATeacher | None = None
        if target is None:
            student: Any = encoder
            self.teacher = EMATeacher(student, momentum=momentum, final=final_momentum, curve="linear")

    @property
    def backbone(self) -> Encoder:
        """The teacher, where there is one."""
        kept: Any = self.encoder if self.teacher is None else self.teacher.module
        encoder: Encoder = kept
        return encoder

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        context, targets = self.blocks(tokens, batch, step)
        latents = Tokens(self.latents(batch, tokens), tokens.position)
        predictions = self.predict(tokens, context, targets)
        losses = [
            functional.masked_loss(self.objective, prediction_BMD, target.invert().keep(latents))
            for prediction_BMD, target in zip(predictions, targets, strict=True)
        ]
        return {"prediction": torch.stack(losses).mean()}

    def blocks(self, tokens: Tokens, batch: Batch, step: Step) -> tuple[Mask, list[Mask]]:
        """The mask whose visible tokens are the context, and one per target whose hidden tokens are it."""
        context = self.draw(tokens, batch, step)
        targets = [self.draw(tokens, batch, step, stream) for stream in range(1, 1 + self.targets)]
        return context, targets or [context]

    @torch.no_grad()
    def latents(self, batch: Batch, tokens: Tokens) -> Tensor:
        """What is to be predicted of each token of the whole image, ``[B, N, D]``."""
        if self.target is not None:
            return self.target(batch, tokens)
        encoded = functional.encode_tokens(self.backbone, tokens)
        return normalise(encoded[:, self.backbone.prefix :], "layer")

    def predict(self, tokens: Tokens, context: Mask, targets: list[Mask]) -> list[Tensor]:
        """Predictions ``[B, M, D]`` at the tokens of each target, each on its own."""
        encoded_BKD = self.encode_context(context.keep(tokens))
        seen = self.predictor.context(encoded_BKD, context, tokens.position)
        return [self.predictor.answer(seen, tokens.position, target) for target in targets]

    def encode_context(self, seen: Tokens) -> Tensor:
        """What the predictor gets of the tokens of the context, ``[B, prefix + K, D]``."""
        return functional.encode_tokens(self.encoder, seen)

    def after_step(self, step: Step) -> None:
        if self.teacher is not None:
            student: Any = self.encoder
            self.teacher.follow(student, step)

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        tokens = self.tokenizer(batch)
        context, targets = self.blocks(tokens, batch, step)
        named = {f"target {number}": target for number, target in enumerate(targets, 1) if self.targets}
        return {name: MaskView(mask, tokens) for name, mask in {"context": context, **named}.items()}

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        context, targets = self.blocks(tokens, batch, step)
        # one token of each sample, since shorter rows of a masking of one mask are padded
        prediction_BD = self.predict(tokens, context, targets[:1])[0][:, 0]
        return {"prediction": prediction_BD, "target": self.latents(batch, tokens)}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is None:
            return Preview()
        tokens = self.tokenizer(batch)
        context, targets = self.blocks(tokens, batch, step)
        latents_BND, blank = self.latents(batch, tokens), tokens.values.new_zeros(1)
        predictions = self.predict(tokens, context, targets)
        union = torch.stack([target.hidden for target in targets]).any(dim=0)
        media = {
            "original": inverse(tokens.values),
            "context": inverse(context.fill(tokens.values, blank)),
            "targets": inverse(Mask(~union).fill(tokens.values, blank)),
        }
        if predictions[0].shape[-1] == latents_BND.shape[-1]:  # not of codes
            error_BN = torch.zeros_like(latents_BND[..., 0])
            for prediction_BMD, target in zip(predictions, targets, strict=True):
                apart = (functional.at_hidden(prediction_BMD.float(), target) - latents_BND).square().mean(-1)
                error_BN = torch.where(target.hidden, apart, error_BN)
            bright = functional.bright(error_BN, tokens, Mask(union))
            media["error of the predicted features (bright: large)"] = inverse(bright)
        return Preview(media)
