"""Frozen image and text encoders that share a space: where in a clip is what its caption says?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, UserError
from polymask.data import valid_of
from polymask.pretrained import from_pretrained, require_whole
from polymask_vision.networks import Images
from polymask_vision.pixel_scale import require_same_scale

RANDOM = "random"
"""In place of a folder: random maps of patches and of words, which know nothing of each other."""

TEXT = "text"
"""Entry of the batch that holds captions, ids int64 ``[B, L]``."""


class Guide(nn.Module):
    """An image and a text encoder.

    Attributes:
        dim: width of the space that both lead to.
    """

    dim: int

    def maps(self, video: Tensor) -> Tensor:
        """Patches in the space of captions: float32 ``[B, T, C, H, W]`` to ``[B, T, h, w, dim]``."""
        raise NotImplementedError

    def text(self, batch: Batch) -> Tensor:
        """The caption of each sample, ``[B, dim]``."""
        raise NotImplementedError

    def example(self, n: int, seed: int = 0) -> Batch:
        """Entries of ``n`` random captions."""
        ids = torch.randint(5, 60, (n, 8), generator=torch.Generator().manual_seed(seed))
        return {TEXT: ids, f"{TEXT}_length": torch.full((n,), 8)}


def open_guide(
    name: str,
    *,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    text: Mapping[str, Any] | None,
) -> Guide:
    """A guide by name.

    Args:
        name: folder of a finished run of vision/dual; ``transformers:NAME``, a CLIP of the Hugging Face hub
            or of a folder in its layout; or :data:`RANDOM`, to try things out.
        channels: of frames.
        mean: per channel, what was subtracted from values in [0, 1]; None if they are given as they are.
        std: per channel, what they were divided by.
        text: what the data says of its captions.

    Raises:
        UserError: it cannot be had, or reads ids of another vocabulary.
    """
    if name == RANDOM:
        return RandomGuide(channels)
    if name.startswith("transformers:"):
        return CLIPGuide(name.removeprefix("transformers:"), channels, mean, std)
    return RunGuide(name, text, mean, std)


class RunGuide(Guide):
    """The towers of a run of vision/dual."""

    def __init__(
        self,
        folder: str,
        text: Mapping[str, Any] | None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        from polymask.run import Run

        super().__init__()
        run = Run.open(folder)
        dual: Any = run.system
        if not hasattr(dual, "project") or not hasattr(dual, "embed_text"):
            raise UserError(
                f"the run {folder} does not match patches with captions: use one of vision/dual, as polymask "
                "recipe vision/tgm trains it"
            )
        require_same_scale(run, mean, std)
        self.folder, self.dual, self.dim = folder, dual, dual.dim
        own, asked = dual.text_tokenizer.tokenizer_file, (text or {}).get("tokenizer_file")
        if own is not None and asked is not None and Path(own).read_bytes() != Path(asked).read_bytes():
            raise UserError(
                f"the run {folder} reads ids of another vocabulary than that of these captions: use data of "
                f"the same captions, or --data.text_vocab {own}"
            )

    def maps(self, video: Tensor) -> Tensor:
        key, expected = self.dual.tokenizer.key, getattr(self.dual.tokenizer, "shape", None)
        if video.shape[1:] != expected:
            raise UserError(
                f"the run {self.folder} was trained on clips of {expected} (frames, channels, height, width) "
                f"and these are of {tuple(video.shape[1:])}: use the same data options"
            )
        patches = self.dual.project({key: video})
        maps: Tensor = patches.values.view(len(video), *patches.grid, -1)
        return maps

    def text(self, batch: Batch) -> Tensor:
        text: Tensor = self.dual.embed_text(batch)
        return text


class CLIPGuide(Guide):
    """A CLIP of transformers (Radford et al. 2021); all its patches take the way of its class token.

    That is the last norm and the projection to the joint space. CLIP was trained to match its class token
    alone, so that maps are noisy, and background may score above the object. Captions must be ids of its own
    vocabulary: ``--data.text_vocab NAME``.
    """

    statistics: Tensor

    def __init__(
        self, name: str, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> None:
        super().__init__()
        try:
            from transformers import AutoImageProcessor, CLIPModel

            self.model, lacking = from_pretrained(CLIPModel, name)
            require_whole(name, lacking)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            missing = getattr(error, "name", None) == "transformers"
            hint = "; pip install 'polymask-vision[transformers]'" if missing else ""
            raise UserError(f"transformers cannot load CLIP from {name!r}: {error}{hint}") from error
        if channels not in (1, 3):
            raise UserError(f"{name} takes 1 channel, repeated, or 3, and frames have {channels}")
        try:
            processor = AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
            known = {"mean": processor.image_mean, "std": processor.image_std}
        except (OSError, ValueError):
            known = {}  # a folder without preprocessing: frames as they are
        found = Images(channels, mean, std, "").statistics(known)
        self.register_buffer("statistics", found, persistent=False)
        config = self.model.config
        self.dim, self.size = config.projection_dim, config.vision_config.image_size
        self.side = self.size // config.vision_config.patch_size

    def maps(self, video: Tensor) -> Tensor:
        b, t = video.shape[:2]
        x = F.interpolate(video.flatten(0, 1), (self.size, self.size), mode="bicubic", antialias=True)
        mean, std, own_mean, own_std = self.statistics
        x = ((x * std + mean - own_mean) / own_std).expand(-1, 3, -1, -1)
        vision = self.model.vision_model
        patches = self.model.visual_projection(vision.post_layernorm(vision(x).last_hidden_state[:, 1:]))
        maps: Tensor = patches.view(b, t, self.side, self.side, -1)
        return maps

    def text(self, batch: Batch) -> Tensor:
        # words see those before them, and the first that ends a caption stands for it: padding says nothing
        text: Tensor = self.model.text_projection(self.model.text_model(batch[TEXT]).pooler_output)
        return text


class RandomGuide(Guide):
    """A random map of patches of 4 pixels, and a random vector for each of 1,021 words, added up."""

    def __init__(self, channels: int, dim: int = 16, patch: int = 4, words: int = 1021) -> None:
        super().__init__()
        self.dim, self.words = dim, words
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.vectors = nn.Embedding(words, dim)

    def maps(self, video: Tensor) -> Tensor:
        found: Tensor = self.patches(video.flatten(0, 1))
        return found.view(*video.shape[:2], *found.shape[1:]).movedim(2, -1)

    def text(self, batch: Batch) -> Tensor:
        valid, ids = valid_of(batch, TEXT), batch[TEXT]
        vectors = self.vectors(ids % self.words)
        return vectors.sum(1) if valid is None else torch.where(valid[..., None], vectors, 0).sum(1)
