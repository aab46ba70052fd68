"""MaskGIT: Masked Generative Image Transformer (Chang et al. 2022, arXiv 2202.04200).

Hide a share of an image's codes that is drawn anew for each sample, from few to all, and predict them from
the others. Then generate: draw all codes at once, keep those of which the network is surest, and draw the
others anew given these, step by step, until none is left.

    polymask recipe vision/maskgit --data fashion-mnist
    polymask pretrain vision/maskgit --preset small --data fashion-mnist

The recipe fits codes to patches by k-means and trains with them; the paper's tokenizer is a VQGAN, whose
decoder makes one picture of neighbouring codes. Here a code is a patch, and edges between patches show. The
presets ``small`` and ``tiny`` have random codes, which need no data: their samples are no pictures. Guessing
by frequency costs the entropy of the codes, at most ln K of K. ``--conditional true`` learns from labels.

Numbers of tokens are rounded up, as the paper has it; the release rounds down in generation (``rounding``),
and its configuration names a least ratio of 0.5 in training that the paper lacks. The network is BERT's
(``--encoder.norm_first false``) without dropout, of which the paper has 0.1. Labels are embedded and added to
all tokens; in the paper they are a token of their own.

Shapes: B samples, N tokens, D width, K codes, T steps of decoding, S tokens of a group of steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import (
    Batch,
    Generation,
    Losses,
    Mask,
    Preview,
    Step,
    System,
    Tokens,
    UserError,
    sample_ids,
)
from polymask.config import RunConfig
from polymask.mask import require_over
from polymask.maskings.choose import hide_last_valid
from polymask.maskings.drawn_ratio import Curve
from polymask.nn.blocks import initialise
from polymask.protocols import Encoder, Masking, Objective, Tokenizer
from polymask.recipes import Stage
from polymask.types import Count, Fact, NotNegative, Positive
from polymask_vision.codes import fitted
from polymask_vision.decoding import CHOSEN, DRAFTED, DRAWN, Decoding, Passes, doubt, drawn, left_after


class MaskGIT(System):
    """Masked modelling of codes, with a ratio drawn for each sample, which can generate.

    Args:
        tokenizer: makes codes, numbers from a vocabulary.
        encoder: encodes the whole sequence; one with an embedding matrix, to which the head is tied.
        masking: what to hide (paper: random tokens, their share by a cosine of a uniform number).
        objective: how a prediction is scored over hidden tokens (paper: cross-entropy, smoothed by 0.1).
        conditional: tell the encoder the label of each sample, to generate by label; -1 is none.
        classes: number of classes, from the data.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        conditional: bool = False,
        classes: Fact[Count] = 10,
    ) -> None:
        super().__init__()
        codes, table = tokenizer.provides.get("vocabulary"), getattr(encoder, "weight", None)
        if codes is None:
            raise UserError(
                f"maskgit predicts codes, and {type(tokenizer).__name__} makes none: choose a tokenizer of "
                "codes (--tokenizer vision/code-patches)"
            )
        if table is None or encoder.out_dim != table.shape[1]:
            raise UserError(
                f"maskgit predicts codes by their embedding, and {type(encoder).__name__} has none: choose "
                "--encoder vision/vit"
            )
        self.tokenizer, self.encoder = tokenizer, encoder
        self.masking, self.objective = masking, objective
        self.codes, self.supervised = codes, conditional
        self.label = nn.Embedding(classes + 1, encoder.dim) if conditional else None
        dim = encoder.dim
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, eps=1e-6))
        self.bias = nn.Parameter(torch.zeros(codes))
        initialise(self.head)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        assert tokens.ids is not None
        return {"codes": self.objective(self.predict(tokens, mask, batch), tokens.ids, mask)}

    def predict(self, tokens: Tokens, mask: Mask, batch: Batch) -> Tensor:
        """Logits ``[B, N, K]`` at all tokens, from those that are visible."""
        z_BND = self.encoder(self.embed(tokens, mask, batch), tokens.position, tokens.valid)
        return self.classify(z_BND[:, self.encoder.prefix :])

    def embed(self, tokens: Tokens, mask: Mask, batch: Batch) -> Tensor:
        """What the encoder adds positions to, ``[B, N, D]``."""
        x_BND = mask.fill(self.encoder.embed(tokens.values), self.mask_token)
        if self.label is None:
            return x_BND
        label_B = batch["label"] if "label" in batch else x_BND.new_full((len(x_BND),), -1, dtype=torch.int64)
        label_BD: Tensor = self.label(label_B % self.label.num_embeddings)  # -1 is the last row
        return x_BND + label_BD[:, None].to(x_BND.dtype)

    def classify(self, z_BND: Tensor) -> Tensor:
        """The encoder's output at tokens to logits ``[B, N, K]``."""
        table: Any = self.encoder
        logits_BNK: Tensor = F.linear(self.head(z_BND), table.weight[: self.codes], self.bias)
        return logits_BNK

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        step: Step,
        mask: Mask | None = None,
        *,
        steps: Count = 12,
        temperature: Positive = 1.0,
        choice_temperature: NotNegative = 4.5,
        redraw: bool = False,
        curve: Curve = "cosine",
        rounding: Literal["up", "down"] = "up",
    ) -> Generation:
        """Draw codes in a few steps, at each of them those of which the network is surest.

        Args:
            batch: sample ids, labels, and samples, of which what the mask leaves visible is kept.
            step: the source of chance.
            mask: what to generate; everything by default.
            steps: of decoding, each a pass of the encoder.
            temperature: of the draws at the last step, coming from 1 at the first by a root.
            choice_temperature: scale of the Gumbel noise on which codes to keep, falling linearly to 0.
            redraw: draw codes anew once it is chosen where to keep them (MaskGIT-r).
            curve: how the share of hidden tokens falls: ``cosine``, or the exponent p of 1 - t^p.
            rounding: of numbers of hidden tokens; the release rounds down.
        """
        how = Decoding(temperature, choice_temperature, redraw, curve, rounding)
        groups = [range(k, k + 1) for k in range(steps)]
        return self.shown(self.decode(batch, step, mask, groups, how), batch, mask)

    def shown(self, states: Iterable[tuple[Tokens, Tensor]], batch: Batch, mask: Mask | None) -> Generation:
        """What :meth:`decode` yields as samples of the data, a frame for each step.

        Raises:
            UserError: the tokenizer does not turn codes back.
        """
        tokenizer: Any = self.tokenizer
        if not hasattr(tokenizer, "inverse"):
            raise UserError(f"{type(tokenizer).__name__} does not turn codes back: nothing can be generated")
        frames = []
        for tokens, hidden_BN in states:
            values = Mask(hidden_BN).fill(tokens.values, tokens.values.new_tensor(-1))
            # visible patches keep their own pixels, not those of their codes
            picture = tokenizer.inverse(values) if mask is None else tokenizer.complete(values, batch, mask)
            frames.append({tokenizer.key: picture})
        return Generation(frames[-1], frames)

    def decode(
        self,
        batch: Batch,
        step: Step,
        mask: Mask | None,
        groups: Sequence[range],
        how: Decoding,
        passes: Passes | None = None,
    ) -> Iterator[tuple[Tokens, Tensor]]:
        """Decode in groups of steps, each of which chooses at its first step which tokens it draws.

        Args:
            batch: samples, of which what the mask leaves visible is kept.
            step: the source of chance.
            mask: what to generate; everything by default.
            groups: numbers of their steps.
            how: codes are drawn.
            passes: what computes groups of several steps.

        Yields:
            The tokens, and bool ``[B, N]``, which of them are still hidden, after each step.
        """
        tokens, sample_B, steps = self.tokenizer(batch), sample_ids(batch), groups[-1].stop
        require_over(tokens, mask)
        n = tokens.shape[1]

        def uniform(stream: int) -> Tensor:
            return step.noise(sample_B, n, stream)

        assert tokens.ids is not None
        ids_BN, hidden_BN = tokens.ids, tokens.real if mask is None else mask.hidden & tokens.real
        left_TB = left_after(hidden_BN.sum(dim=1), steps, how)
        # where all rows have as many, tokens of a group are kept without padding
        sizes = [n, *left_TB[:, 0].tolist()] if mask is None and tokens.valid is None else None
        for g, group in enumerate(groups):
            first, noise = group.start, how.choice_temperature * (1 - (g + 1) / len(groups))
            full = self.predict if passes is None or len(group) == 1 else passes.full
            logits_BNK = full(tokens, Mask(hidden_BN), batch)
            code_BN = drawn(
                logits_BNK, uniform(DRAFTED + first), 1.0 if how.redraw else how.heat(first, steps)
            )
            order_BN = doubt(logits_BNK, code_BN, uniform(CHOSEN + first), noise)
            then = [hide_last_valid(order_BN, left_TB[k], hidden_BN).hidden for k in group]
            asked = Mask(~hidden_BN | then[-1], sizes[first] - sizes[group.stop] if sizes else None)
            for k, then_BN in zip(group, then, strict=True):
                if k > first:
                    assert passes is not None
                    logits_BSK = passes.light(tokens, Mask(hidden_BN), batch, asked)
                    own = asked.keep(dataclasses.replace(tokens, values=uniform(DRAWN + k)[..., None]))
                    code_BS = drawn(logits_BSK, own.values[..., 0], how.heat(k, steps))
                    code_BN = asked.restore(code_BS[..., None], code_BN[..., None])[..., 0]
                elif how.redraw:
                    code_BN = drawn(logits_BNK, uniform(DRAWN + k), how.heat(k, steps))
                ids_BN = torch.where(hidden_BN & ~then_BN, code_BN, ids_BN)
                hidden_BN = then_BN
                tokens = dataclasses.replace(tokens, values=ids_BN[..., None], ids=ids_BN)
                yield tokens, hidden_BN

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is None:
            return Preview()
        mask, none = self.draw(tokens, batch, step), tokens.values.new_tensor(-1)
        likeliest_BN1 = self.predict(tokens, mask, batch).argmax(-1, keepdim=True)
        return Preview(
            {
                "original": batch[self.tokenizer.key],
                "its codes": inverse(tokens.values),
                "visible": inverse(mask.fill(tokens.values, none)),
                "hidden predicted (the likeliest code)": inverse(mask.fill(tokens.values, likeliest_BN1)),
            }
        )


def maskgit(
    stage: Stage,
    /,
    *,
    codes: Count = 512,
    patches: Count = 200_000,
    preset: str = "small",
    steps: Count | None = None,
) -> None:
    """Fit codes to patches of the training images by k-means, then train a system that generates by them.

    Args:
        stage: trains a run.
        codes: how many (paper: 1,024, of a VQGAN).
        patches: how many to cluster, at most.
        preset: of the system.
        steps: of training; by default the preset's.
    """
    options: dict[str, Any] = {
        "preset": preset,
        **stage.shared,
        **({} if steps is None else {"steps": steps}),
    }
    # a tokenizer of any codes says what its patches are
    given = {"system": "vision/maskgit", "data": stage.given, **options, "tokenizer.file": "random:2"}
    file = fitted(stage, RunConfig.resolve(given), codes=codes, patches=patches)
    stage("pretrain", "vision/maskgit", **{**options, "tokenizer.file": file})
