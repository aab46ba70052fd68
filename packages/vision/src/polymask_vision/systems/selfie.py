"""Selfie: Self-supervised Pretraining for Image Embedding (Trinh, Luong and Le 2019, arXiv 1906.02940).

Hide some patches of an image and choose, for each hidden place, the patch that belongs there among all those
hidden in the same image. A network encodes each patch by itself; attention pools the visible ones to a vector
u; the embedding of the place, added to it, is compared with each hidden patch by a dot product.

    polymask pretrain vision/selfie --preset small --data fashion-mnist
    polymask finetune RUN

Guessing among M hidden patches costs ln M and is right once in M. Training logs how often the choice is
right, and how often without context: where images are aligned, a place alone says much of what is there. The
score of patch k at place j is u.h_k + e_j.h_k: u makes a patch likelier at all places and cannot say where it
belongs, so that what the published query knows of places is a prior, the same for all images. ``--query
token`` deviates: a token of its own for each hidden place attends to the visible patches. ``--query
position`` is the control without context, u = 0.

Fine-tuning, probes and exports run the same network on whole images; ``--encoder.stages 4`` adds a stage
drawn anew in fine-tuning, as published. The ResNets here normalise after their convolutions, the paper's
before, and AdamW trains them in place of SGD. The share of hidden patches, the sizes of attention pooling,
where it normalises, and whether queries share its positions could not be verified.

Shapes: B samples, N patches, K visible, M hidden, D width of a patch's features.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError, functional
from polymask.nn.blocks import initialise
from polymask.protocols import Encoder, Masking, Target, Tokenizer
from polymask.types import Count, Share
from polymask_vision.positions import grid_index

Query = Literal["additive", "token", "position"]
"""What a place asks with: u + e_j, the output of a token of its own in the attention pooling, or e_j."""


class Selfie(System):
    """Chooses which of its own hidden patches belongs to each hidden place of an image.

    Args:
        tokenizer: cuts the input into patches.
        encoder: encodes each patch by itself: vision/patch-resnet.
        masking: what to hide: at least two patches.
        score: evidence per token for maskings that go by score; null for those that do not.
        query: what a place asks with: ``"additive"``, as published; ``"token"``, a token of its own that
            attends to the visible patches; ``"position"``, the place alone.
        positions: one embedding for each of the ``"cells"`` of the grid, or the sum of one for its row and
            one for its column, ``"axes"`` (paper: cells of 4 x 4, axes of 7 x 7).
        depth: blocks of the attention pooling.
        heads: its attention heads.
        mlp_dim: width between the two layers of its feed-forward networks.
        dropout: in its attention and behind the layers of each block.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        score: Target | None = None,
        query: Query = "additive",
        positions: Literal["cells", "axes"] = "cells",
        depth: Count = 3,
        heads: Count = 32,
        mlp_dim: Count = 640,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if not hasattr(encoder, "of_patches"):
            raise UserError(
                f"selfie encodes each patch as an image of its own, and {type(encoder).__name__} has no "
                "`of_patches`: use vision/patch-resnet"
            )
        dim = encoder.out_dim
        if query != "position" and dim % heads:
            raise UserError(f"{heads} heads cannot share features of {dim} numbers: choose other --heads")
        self.tokenizer, self.masking, self.score = tokenizer, masking, score
        self.encoder: Any = encoder
        self.query, self.by_axis = query, positions == "axes"
        self.grid: tuple[int, ...] = tokenizer.provides["grid"]
        sizes = self.grid if self.by_axis else (math.prod(self.grid),)
        tables = [nn.Embedding(n, dim) for n in sizes]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        self.positions = nn.ModuleList(tables)
        if query != "position":
            self.summary = nn.Parameter(nn.init.normal_(torch.empty(dim), std=0.02))
            # timm rounds down the width that it is given as a ratio
            ratio, size = (mlp_dim + 0.5) / dim, {"qkv_bias": True, "attn_drop": dropout}
            self.pooling = nn.ModuleList(
                Block(dim, heads, ratio, proj_drop=dropout, **size)  # type: ignore[arg-type]
                for _ in range(depth)
            )
            self.norm = nn.LayerNorm(dim)
            initialise(self.pooling)

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        mask = super().draw(tokens, batch, step, stream)
        return functional.require_hard_mask("selfie", self.masking, mask)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        seen, asked = self.encoded(tokens, self.draw(tokens, batch, step))
        return {"choice": choice_loss(self.scores(seen, asked), asked.valid)}

    def encoded(self, tokens: Tokens, mask: Mask) -> tuple[Tokens, Tokens]:
        """The visible patches ``[B, K, D]`` and the hidden ones ``[B, M, D]``, each encoded by itself."""
        patches = Tokens(self.encoder.of_patches(tokens.values), tokens.position, valid=tokens.valid)
        seen, asked = mask.keep(patches), mask.invert().keep(patches)
        if asked.shape[1] < 2:
            raise UserError(
                f"selfie chooses among the hidden patches of an image, and {type(self.masking).__name__} "
                f"hides {asked.shape[1]} of {tokens.shape[1]}: hide more, or choose a smaller "
                "--tokenizer.patch_size"
            )
        return seen, asked

    def scores(self, seen: Tokens | None, asked: Tokens) -> Tensor:
        """How well each hidden patch fits each hidden place, float32 ``[B, M places, M patches]``.

        Args:
            seen: the visible patches; None for none, where ``"additive"`` has u = 0.
            asked: the hidden patches. What they hold is compared; queries know where they lie alone.
        """
        query_BMD = self.queries(seen, asked)
        with torch.autocast(query_BMD.device.type, enabled=False):
            return query_BMD.float() @ asked.values.float().transpose(1, 2)

    def queries(self, seen: Tokens | None, asked: Tokens) -> Tensor:
        """What each hidden place asks with, ``[B, M, D]``."""
        place_BMD = self.place(asked.position)
        if self.query == "position" or (seen is None and self.query == "additive"):
            return place_BMD
        b = len(asked.values)
        own = self.query == "token"
        slots = self.summary + place_BMD if own else self.summary.expand(b, 1, -1)
        real = asked.real if own else asked.real.new_ones(b, 1)
        attend = None
        x_BLD = slots
        if seen is not None:
            x_BLD = torch.cat([slots, seen.values + self.place(seen.position)], dim=1)
            real = torch.cat([real, seen.real], dim=1)
        if asked.valid is not None or (seen is not None and seen.valid is not None):
            attend = real[:, None, None, :]
        for block in self.pooling:
            x_BLD = block(x_BLD, attn_mask=attend)
        out_BLD: Tensor = self.norm(x_BLD[:, : slots.shape[1]])
        return out_BLD if own else out_BLD + place_BMD

    def place(self, position: Tensor) -> Tensor:
        """Embeddings ``[B, K, D]`` of places ``[B, K, 2]``."""
        if not self.by_axis:
            place_BKD: Tensor = self.positions[0](grid_index(position, self.grid))
            return place_BKD
        at = position.long()
        return torch.stack([table(at[..., axis]) for axis, table in enumerate(self.positions)]).sum(0)

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        seen, asked = self.encoded(tokens, self.draw(tokens, batch, step))
        chance_B1 = 1 / asked.real.sum(1, keepdim=True)
        found = {"accuracy": accuracy(self.scores(seen, asked), asked.valid)}
        if self.query != "position":
            found["accuracy_without_context"] = accuracy(self.scores(None, asked), asked.valid)
        return {**found, "chance": Mask(asked.real).mean(chance_B1.expand(asked.shape))}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is None:
            return Preview()
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        seen, asked = self.encoded(tokens, mask)
        chosen_BM = among(self.scores(seen, asked), asked.valid).argmax(-1)
        hidden = mask.invert().keep(tokens).values
        chosen_BMC = hidden.gather(1, chosen_BM[..., None].expand_as(hidden))
        right_BM = chosen_BM == torch.arange(chosen_BM.shape[1], device=chosen_BM.device)
        right_BN = functional.at_hidden(right_BM[..., None].float(), mask)[..., 0] > 0
        wrong = Mask(mask.hidden & ~right_BN)
        placed_BNC = mask.fill(tokens.values, functional.at_hidden(chosen_BMC, mask))
        blank = tokens.values.new_zeros(1)
        return Preview(
            {
                "original": inverse(tokens.values),
                "visible": inverse(mask.fill(tokens.values, blank)),
                "hidden patches where they were chosen to belong": inverse(placed_BNC),
                "those that belong there": inverse(wrong.fill(placed_BNC, blank)),
            }
        )


def among(scores: Tensor, valid: Tensor | None) -> Tensor:
    """Scores ``[B, M, M]`` of which no padding is chosen, bool ``[B, M]``."""
    return scores if valid is None else scores.masked_fill(~valid[:, None], torch.finfo(scores.dtype).min)


def choice_loss(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy of choosing patch j at place j, from scores ``[B, M places, M patches]``: a scalar."""
    loss_BM = -among(scores, valid).log_softmax(-1).diagonal(dim1=1, dim2=2)
    return loss_BM.mean() if valid is None else Mask(valid).mean(loss_BM)


def accuracy(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """How often the best patch is the right one, equal ones chosen from by chance: a scalar in [0, 1]."""
    scores = among(scores, valid)
    best = scores == scores.amax(-1, keepdim=True)
    share_BM = best.diagonal(dim1=1, dim2=2) / best.sum(-1)
    return share_BM.mean() if valid is None else Mask(valid).mean(share_BM)
