"""data2vec 2.0: learning with contextualized target representations (Baevski et al. 2022, arXiv 2212.07525).

An EMA teacher encodes the whole input once. The mean of what the feed-forward layers of its last blocks
return, normalised, is the target for several masks of the same sample: the student encodes the visible tokens
of each, and a small convolutional decoder, given noise where tokens are hidden, predicts the target there.

    polymask pretrain vision/data2vec2 --preset small --data fashion-mnist

The paper's blocks have their norms behind the shortcuts (``--encoder.norm_first false``); other encoders work
if they name their ``feed_forwards``. Targets have unit variance, so that predicting zero costs the square
root of their width: learning starts below that. Both networks can collapse to a constant; training reports
the spread of targets and predictions. The student is what probes measure and export writes, as published.

Where samples differ in length, each hides its share; in the release all rows of a batch hide the same number.
Padding counts in no statistic here, and as zeros there. The release's teacher of text has the student's
positions and embedding norm, here averages of its own. Its class loss is a sum over the batch of one device;
here it is a mean, whose weight 2.56 is that of 16 images in 16 views. Of masks that hide different numbers,
torch.compile breaks its graph where tokens are kept.

Shapes: B samples, N tokens, V views, R = V B rows, K visible tokens, M hidden ones, D encoder width.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, functional
from polymask.nn.decoders import ConvDecoder
from polymask.nn.teachers import EMATeacher, Norm, normalise, record, recorded
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer, sample_ids
from polymask.types import Count, NotNegative, Positive, Share

NOISE = 1 << 32
"""Streams from here on are those of noise, below are those of masks."""


class Data2Vec2(System):
    """Predicts an EMA teacher's contextualised features of several masked views of each sample.

    Defaults are those of images.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the visible tokens alone; one that names its ``feed_forwards``.
        masking: what to hide (paper: images, all but blocks of 3 x 3; audio, spans; text, single tokens).
        objective: how a prediction is scored over hidden tokens (paper: squared error).
        score: score per token, for maskings that need one.
        views: masks per sample and step, all with one pass of the teacher (paper: 16; audio and text 8).
        layers: the teacher's last blocks, whose mean is the target (paper: 10; audio 8, text 12).
        layer_norm: normalisation of each of them.
        target_norm: normalisation of their mean (paper: of images alone).
        loss_scale: factor on the error summed over features; 1 / sqrt(D) if none (paper: text 1).
        class_weight: weight of the class token's loss, which predicts the mean target of the sample.
        shared_embedding: the teacher encodes the student's embedded tokens (paper: audio and text).
        momentum: EMA momentum of the teacher at the start of the run.
        final_momentum: momentum after the rise, which is linear.
        momentum_rise: share of the run over which it rises (paper: 100,000 of 375,300 steps).
        noise: standard deviation of what the decoder gets at hidden tokens.
        decoder_dim: channels of the decoder.
        decoder_depth: convolutions of the decoder.
        decoder_kernel: tokens that a convolution reaches across, an odd number.
        decoder_groups: groups of each convolution.
        decoder_residual: add the input of a convolution to its output (paper: not for text).
        decoder_head_depth: linear layers behind the convolutions (paper: 2 for text).
        decoder_dropout: of the encoder's output (paper: 0.1 for audio and text).
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        score: Target | None = None,
        views: Count = 16,
        layers: Count = 10,
        layer_norm: Norm = "instance",
        target_norm: Norm = "layer",
        loss_scale: Positive | None = None,
        class_weight: NotNegative = 0.0,
        shared_embedding: bool = False,
        momentum: Share = 0.9998,
        final_momentum: Share = 0.99999,
        momentum_rise: Share = 100_000 / 375_300,
        noise: NotNegative = 0.01,
        decoder_dim: Count = 768,
        decoder_depth: Count = 6,
        decoder_kernel: Count = 3,
        decoder_groups: Count = 16,
        decoder_residual: bool = True,
        decoder_head_depth: Count = 1,
        decoder_dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.objective = tokenizer, encoder, objective
        student: Any = encoder
        blocks = len(getattr(student, "feed_forwards", ()))
        if not blocks:
            raise UserError(
                "data2vec2 predicts what feed-forward layers return, and "
                f"{type(encoder).__name__} names none: use an encoder of Transformer blocks"
            )
        if layers > blocks:
            raise UserError(
                f"data2vec2 averages the last {layers} blocks, and {type(encoder).__name__} has {blocks}: "
                f"choose --layers {blocks} or fewer"
            )
        if class_weight and not encoder.prefix:
            raise UserError(
                f"the class loss needs a class token, and {type(encoder).__name__} has none: choose "
                "--class_weight 0"
            )
        self.masking, self.score = masking, score
        self.views, self.layers, self.class_weight = views, layers, class_weight
        self.layer_norm, self.target_norm, self.noise = layer_norm, target_norm, noise
        width = encoder.out_dim
        # objectives are means over features
        self.scale = math.sqrt(width) if loss_scale is None else width * loss_scale
        self.shared_embedding = shared_embedding
        self.teacher = EMATeacher(
            student, momentum=momentum, final=final_momentum, curve="linear", rise=momentum_rise
        )
        teacher: Any = self.teacher.module
        record(teacher.feed_forwards[-layers:])
        self.decoder = ConvDecoder(
            in_dim=width,
            out_dim=width,
            prefix=encoder.prefix,
            grid=tokenizer.provides.get("grid"),
            dim=decoder_dim,
            depth=decoder_depth,
            kernel=decoder_kernel,
            groups=decoder_groups,
            residual=decoder_residual,
            head_depth=decoder_head_depth,
            dropout=decoder_dropout,
        )

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        # each token by itself, so once for all views
        embedded = dataclasses.replace(tokens, values=self.encoder.embed(tokens.values))
        target = Tokens(self.latents(tokens, embedded.values), tokens.position, valid=tokens.valid)
        mask = Mask.join(self.draw_views(tokens, batch, step))
        encoded_RKD = self.encode_visible(embedded, mask)
        prediction_RMD = self.predict(encoded_RKD, mask, tokens, batch, step)
        hidden = mask.invert().keep(target)
        losses = {"regression": self.scale * functional.masked_loss(self.objective, prediction_RMD, hidden)}
        if self.class_weight:
            mean_RD = target.pool().repeat(self.views, 1)
            loss = self.objective(encoded_RKD[:, :1], mean_RD[:, None])
            losses["class"] = self.class_weight * self.scale * loss
        return losses

    def draw_views(self, tokens: Tokens, batch: Batch, step: Step) -> list[Mask]:
        """One mask per view; of core/multi-block that of the context."""
        apart = 1 + getattr(self.masking, "targets", 0)
        return [self.draw(tokens, batch, step, apart * view) for view in range(self.views)]

    @torch.no_grad()
    def latents(self, tokens: Tokens, embedded_BND: Tensor) -> Tensor:
        """What is to be predicted of each token of the whole input, ``[B, N, D]``."""
        teacher: Any = self.teacher.module
        if not self.shared_embedding:
            embedded_BND = teacher.embed(tokens.values)
        teacher(embedded_BND, tokens.position, tokens.valid)
        outputs = [x[:, teacher.prefix :] for x in recorded(teacher.feed_forwards[-self.layers :])]
        norms = [normalise(x_BND, self.layer_norm, tokens.valid) for x_BND in outputs]
        return normalise(torch.stack(norms).mean(0), self.target_norm, tokens.valid)

    def encode_visible(self, embedded: Tokens, mask: Mask) -> Tensor:
        """The visible tokens of each row, encoded: ``[R, prefix + K, D]``."""
        seen = mask.keep(embedded)
        encoded_RKD: Tensor = self.encoder(seen.values, seen.position, seen.valid)
        return encoded_RKD

    def predict(self, encoded_RKD: Tensor, mask: Mask, tokens: Tokens, batch: Batch, step: Step) -> Tensor:
        """Predictions ``[R, M, D]`` at the hidden tokens of each row."""
        ids, (b, n), d = sample_ids(batch), tokens.shape, encoded_RKD.shape[-1]
        draws = [step.normal(ids, n * d, NOISE + view) for view in range(len(mask.hidden) // b)]
        fill_RND = self.noise * torch.cat(draws).view(-1, n, d)
        prediction_RMD: Tensor = self.decoder(encoded_RKD, mask, tokens.position, fill_RND)
        return prediction_RMD

    def after_step(self, step: Step) -> None:
        student: Any = self.encoder
        self.teacher.follow(student, step)

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        tokens = self.tokenizer(batch)
        views = enumerate(self.draw_views(tokens, batch, step), 1)
        return {f"view {number}": MaskView(mask, tokens) for number, mask in views}

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        prediction_BMD, target_BMD = self.first_view(tokens, self.draw(tokens, batch, step), batch, step)
        # one token of each sample: the mean of instance-normalised tokens is 0
        return {"prediction": prediction_BMD[:, 0], "target": target_BMD[:, 0]}

    def first_view(self, tokens: Tokens, mask: Mask, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Predictions and targets ``[B, M, D]`` at the hidden tokens of one mask, that of the first view."""
        embedded = dataclasses.replace(tokens, values=self.encoder.embed(tokens.values))
        target = Tokens(self.latents(tokens, embedded.values), tokens.position)
        prediction_BMD = self.predict(self.encode_visible(embedded, mask), mask, tokens, batch, step)
        return prediction_BMD, mask.invert().keep(target).values

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        tokens = self.tokenizer(batch)
        if inverse is None or not tokens.values.is_floating_point():
            return Preview()
        mask = self.draw(tokens, batch, step)
        prediction_BMD, target_BMD = self.first_view(tokens, mask, batch, step)
        error_BM1 = (prediction_BMD.float() - target_BMD).square().mean(-1, keepdim=True)
        error_BN = functional.at_hidden(error_BM1, mask)[..., 0]
        return Preview(
            {
                "original": inverse(tokens.values),
                "visible in the first view": inverse(mask.fill(tokens.values, tokens.values.new_zeros(1))),
                "error of the predicted features (bright: large)": inverse(
                    functional.bright(error_BN, tokens, mask)
                ),
            }
        )
