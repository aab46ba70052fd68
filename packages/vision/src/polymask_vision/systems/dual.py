"""An encoder of patches and one of captions that share a space: it tells vision/tgm where its captions are.

A stand-in for CLIP (Radford et al. 2021, arXiv 2103.00020), small enough to be trained on the clips at hand:
draw each clip to its own caption, and away from the others of the batch. With a text encoder that was
trained before and stays as it is, that is LiT (Zhai et al. 2022, arXiv 2111.07991).

    pip install 'polymask-vision[language]'
    polymask pretrain vision/dual --preset small --data moving-digits --data.coloured true

For LiT, FOLDER holds a BERT in the layout of transformers, such as a sentence encoder, and its tokenizer:
``--data.text_vocab FOLDER --text_encoder.pretrained FOLDER --lock_text true``.

Each patch of each frame is encoded by itself, a clip stands for the mean of its patches, and a caption for
that of its words. So the cosine of a patch with a caption is about that patch (BagNet: Brendel and Bethge
2019, arXiv 1904.00760). Were patches to attend to one another, as CLIP's do, the ground would come to speak
for the object that it surrounds: on moving digits, in 120 steps, 93 % of the digit lay in the 60 % of least
score. The price is that only what a patch can show is matched, colours and strokes rather than whole things:
choose patches of a size that fits.

Shapes: B clips, N patches, C encoder width, D width of what is matched, L words of a caption.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Preview, Step, System, Tokens, functional
from polymask.nn.teachers import Frozen
from polymask.objectives.matching import require_matching
from polymask.protocols import Encoder, Objective, Tokenizer
from polymask.types import Count
from polymask_vision.datasets.texts import IDENTITY, words_of
from polymask_vision.video_scores import heat


class Dual(System):
    """Clips and captions, each drawn to its own.

    Args:
        tokenizer: cuts clips into patches, of one frame as a rule.
        encoder: encodes each patch by itself.
        text_tokenizer: makes tokens of captions.
        text_encoder: encodes captions.
        match_objective: how clips and captions of a batch are matched (CLIP: InfoNCE, both ways).
        lock_text: leave the text encoder as it is (LiT); for one that was trained before.
        dim: width of what is matched.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        text_tokenizer: Tokenizer,
        text_encoder: Encoder,
        match_objective: Objective,
        lock_text: bool = False,
        dim: Count = 512,
    ) -> None:
        super().__init__()
        matching = require_matching("dual matches clips and captions of a batch", match_objective)
        self.tokenizer, self.encoder = tokenizer, encoder
        self.text_tokenizer, self.match_objective, self.dim = text_tokenizer, matching, dim
        text: Any = text_encoder
        self.text_encoder: Any = Frozen(text) if lock_text else text
        self.locked = lock_text
        self.image_map = nn.Linear(encoder.out_dim, dim, bias=False)
        self.text_map = nn.Linear(text_encoder.out_dim, dim, bias=False)

    def forward(self, batch: Batch, step: Step) -> Losses:
        image_BD, text_BD = self.embed_image(batch), self.embed_text(batch)
        identity = batch[IDENTITY][:, None] if IDENTITY in batch else None
        return {"match": self.match_objective(image_BD[:, None], text_BD[:, None], identity=identity)}

    def encode(self, batch: Batch) -> Tokens:
        tokens = self.tokenizer(batch)
        # sequences of one token each, all at one place
        values_MC = tokens.values.flatten(0, 1)[:, None]
        place = torch.zeros_like(tokens.position[:1, :1]).expand(len(values_MC), -1, -1)
        encoded = functional.encode_tokens(self.encoder, Tokens(values_MC, place))[:, self.encoder.prefix]
        return Tokens(encoded.view(*tokens.shape, -1), tokens.position, tokens.grid, valid=tokens.valid)

    def project(self, batch: Batch) -> Tokens:
        """Patches in the space of captions, ``[B, N, D]``."""
        tokens = self.encode(batch)
        return dataclasses.replace(tokens, values=self.image_map(tokens.values))

    def embed_image(self, batch: Batch) -> Tensor:
        """Clips, ``[B, D]``, to compare with captions by cosine."""
        return self.project(batch).pool()

    def embed_text(self, batch: Batch) -> Tensor:
        """Captions, ``[B, D]``."""
        tokens = words_of(batch, self.text_tokenizer, "dual")
        encoder = self.text_encoder.module if self.locked else self.text_encoder
        x_BLC = functional.encode_tokens(encoder, tokens)[:, encoder.prefix :]
        return Tokens(self.text_map(x_BLC), tokens.position, valid=tokens.valid).pool()

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"clips": self.embed_image(batch), "captions": self.embed_text(batch)}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is None:
            return Preview()
        tokens = self.tokenizer(batch)
        text_BD = self.embed_text(batch)
        likeness_BN = F.cosine_similarity(self.project(batch).values, text_BD[:, None], dim=-1)
        caption = "where the caption is (bright: most like it)"
        return Preview({"original": inverse(tokens.values), caption: inverse(heat(likeness_BN, tokens))})
