"""An image and a text encoder that share a space: what tells vision/tgm where its captions are.

A stand-in for CLIP (Radford et al. 2021, arXiv 2103.00020), small enough to be trained on the clips at hand:
draw each clip to its own caption, and away from the others of the batch. With a text encoder that was
trained before and stays as it is, that is LiT (Zhai et al. 2022, arXiv 2111.07991).

    pip install 'polymask-vision[language]'
    polymask pretrain vision/dual --preset small --data moving-digits --data.coloured true
    polymask pretrain vision/dual --preset small --data moving-digits --data.text_vocab FOLDER \\
        --text_encoder language/transformer --text_encoder.pretrained FOLDER --lock_text true

It sees single frames, one at random of each clip in training. An image stands for the mean of its patches
after they were projected, where CLIP projects one class token: so each patch lies in the space of captions
itself, and its cosine with one says whether it shows that. A caption stands for the mean of its words.

Shapes: B clips, T slots of time, S patches of a frame, D width of what is matched, L words of a caption.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Preview, Step, System, Tokens, UserError, functional, sample_ids
from polymask.objectives.matching import Matching
from polymask.protocols import Encoder, Objective, Tokenizer
from polymask.teachers import Frozen
from polymask.types import Count
from polymask_vision.datasets.texts import IDENTITY, words_of
from polymask_vision.video_scores import heat


class Dual(System):
    """Frames and captions, each drawn to its own.

    Args:
        tokenizer: cuts clips into tokens, one frame deep as a rule.
        encoder: encodes each frame, whole.
        text_tokenizer: makes tokens of captions.
        text_encoder: encodes captions.
        match_objective: how frames and captions of a batch are matched (CLIP: InfoNCE, both ways).
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
        if not isinstance(match_objective, Matching):
            raise UserError(
                f"dual matches clips and captions of a batch, which {type(match_objective).__name__} does "
                "not: use --match_objective core/infonce or core/sdm"
            )
        self.tokenizer, self.encoder = tokenizer, encoder
        self.text_tokenizer, self.match_objective, self.dim = text_tokenizer, match_objective, dim
        text: Any = text_encoder
        self.text_encoder: Any = Frozen(text) if lock_text else text
        self.locked = lock_text
        self.image_map = nn.Linear(encoder.out_dim, dim, bias=False)
        self.text_map = nn.Linear(text_encoder.out_dim, dim, bias=False)

    def forward(self, batch: Batch, step: Step) -> Losses:
        frames = self.frames(self.tokenizer(batch))
        ids = sample_ids(batch)
        slots = len(frames.values) // len(ids)
        drawn = step.bits(ids, 1)[:, 0] % slots + slots * torch.arange(len(ids), device=ids.device)
        one = Tokens(frames.values[drawn], frames.position[drawn], frames.grid)
        image_BD, text_BD = self.project(one).mean(1), self.embed_text(batch)
        identity = batch[IDENTITY][:, None] if IDENTITY in batch else None
        return {"match": self.match_objective(image_BD[:, None], text_BD[:, None], identity=identity)}

    def frames(self, tokens: Tokens) -> Tokens:
        """Each slot of time by itself, ``[B T, S, ...]``, as if it were the first."""
        grid = tokens.grid
        if grid is None or len(grid) != 3:
            raise UserError("dual takes clips apart into frames: use --tokenizer vision/tubelets")
        sites = grid[1] * grid[2]
        values = tokens.values.reshape(-1, sites, tokens.values.shape[-1])
        return Tokens(values, tokens.position[:1, :sites].expand(len(values), -1, -1), (1, *grid[1:]))

    def see(self, frames: Tokens) -> Tensor:
        """Frames encoded, each by itself, ``[B T, S, ...]``."""
        return functional.encode_tokens(self.encoder, frames)[:, self.encoder.prefix :]

    def project(self, frames: Tokens) -> Tensor:
        """Patches in the space of captions, ``[B T, S, D]``."""
        patches: Tensor = self.image_map(self.see(frames))
        return patches

    def maps(self, batch: Batch) -> Tensor:
        """The same for each frame of each clip, at the places of its patches: ``[B, T, h, w, D]``."""
        tokens = self.tokenizer(batch)
        assert tokens.grid is not None
        return self.project(self.frames(tokens)).view(len(tokens.values), *tokens.grid, -1)

    def embed_image(self, batch: Batch) -> Tensor:
        """Clips, the mean of their frames, ``[B, D]``, to compare with captions by cosine."""
        return self.maps(batch).flatten(1, -2).mean(1)

    def embed_text(self, batch: Batch) -> Tensor:
        """Captions, ``[B, D]``."""
        tokens = words_of(batch, self.text_tokenizer, "dual")
        encoder = self.text_encoder.module if self.locked else self.text_encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
            x_BLC = functional.encode_tokens(encoder, tokens)[:, encoder.prefix :]
        return Tokens(self.text_map(x_BLC), tokens.position, valid=tokens.valid).pool()

    def encode(self, batch: Batch) -> Tokens:
        tokens = self.tokenizer(batch)
        values = self.see(self.frames(tokens))
        return Tokens(values.reshape(*tokens.shape, -1), tokens.position, tokens.grid)

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
        likeness_BN = F.cosine_similarity(self.maps(batch).flatten(1, -2), text_BD[:, None], dim=-1)
        caption = "where the caption is (bright: most like it)"
        return Preview({"original": inverse(tokens.values), caption: inverse(heat(likeness_BN, tokens))})
