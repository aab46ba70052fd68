"""What is predicted about sound: features of its frames, or the numbers of codes nearest to them.

Features come at a rate of their own, so many a second. The token that begins at a time gets the
frame that is due then: frame floor(i * frames per second / tokens per second) of token i.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.codebooks import Codebook, nearest
from polymask.types import Count, Fact, Place
from polymask_audio.features import Features, Mel, open_features, take
from polymask_audio.multi_codebook import load

SLACK = 5
"""Frames by which features may end before or behind the tokens."""


class _OfFrames(nn.Module):
    """Features, aligned to tokens.

    Args:
        features: what gives them.
        rate: samples per second.
        hop: samples from one token to the next.
    """

    def __init__(self, features: Features, rate: int, hop: int) -> None:
        super().__init__()
        self.features = features
        self.per_token = features.per_second * hop / rate

    def aligned(self, batch: Mapping[str, Tensor], tokens: Tokens, reach: int = 1) -> list[Tensor]:
        """What is due at each token, ``[B, N, reach * D]`` float32 for each layer.

        Args:
            batch: with the unmasked sound.
            tokens: of the same.
            reach: so many frames from there on, side by side; the last one again where they end.

        Raises:
            UserError: tokens and features do not go together.
        """
        found: list[Tensor]
        found, counts = self.features(batch)
        if self.features.bands > 1 or (tokens.position.shape[2] > 1 and found[0].shape[1] == tokens.shape[1]):
            if found[0].shape[1] != tokens.shape[1]:
                raise UserError(
                    f"{found[0].shape[1]} features of patches, {tokens.shape[1]} tokens: use the tokenizer "
                    "that the features were learned with"
                )
            return found
        frames = found[0].shape[1]
        if tokens.position.shape[2] == 1:
            self._confirm(frames, tokens.shape[1])
        # a product like 3 * 0.9999999 is meant to be 3
        first = (tokens.position[..., 0].double() * self.per_token + 1e-6).floor().long()
        last = frames - 1 if counts is None else counts[:, None] - 1
        at = [first + k for k in range(reach)]
        at = [torch.minimum(i, torch.as_tensor(last, device=i.device)) for i in at]
        return [torch.cat([take(x, i) for i in at], dim=2) for x in found]

    def _confirm(self, frames: int, tokens: int) -> None:
        due = tokens * self.per_token
        if abs(frames - due) > SLACK + 2 * self.per_token + 2 / max(self.per_token, 1e-9):
            raise UserError(
                f"{frames} frames of features for {tokens} tokens, at {self.per_token:.3g} frames a token: "
                "the rate of the data, of the tokens or of the features is not what it is taken for"
            )


class LogMel(_OfFrames):
    """Log energies of mel filters over the time of each token, standardised over the recording.

    Args:
        rate: samples per second, from the data.
        hop: samples from one token to the next, from the tokenizer.
        mels: filters.
        norm: subtract the mean of the recording and divide by its standard deviation.
    """

    def __init__(
        self, *, rate: Fact[Count] = 16000, hop: Fact[Count] = 320, mels: Fact[Count] = 80, norm: bool = True
    ) -> None:
        super().__init__(Mel(rate, mels), rate, hop)
        self.norm = norm
        self.reach = max(math.ceil(self.per_token - 1e-6), 1)
        self.dim = self.reach * mels

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, dim]`` float32, a spectrum after the other."""
        x = self.aligned(batch, tokens, self.reach)[0]
        if not self.norm:
            return x
        weight = torch.ones_like(x[..., :1]) if tokens.valid is None else tokens.valid[..., None].float()
        total = weight.sum((1, 2), keepdim=True) * x.shape[2]
        mean = (weight * x).sum((1, 2), keepdim=True) / total
        std = ((weight * (x - mean).square()).sum((1, 2), keepdim=True) / total + 1e-5).sqrt()
        return (x - mean) / std


class Teacher(_OfFrames):
    """Features of a frozen model, which sees the whole of a recording.

    Args:
        run: folder of a finished run whose encoder is the teacher.
        model: another teacher in its place: ``torchaudio:NAME``, a bundle of ``torchaudio.pipelines``;
            ``transformers:NAME``, a model of the hub or a folder; or plain ``mel`` or ``mfcc``.
        layer: which block, from 1; None for the last.
        norm: standardise each feature vector.
        rate: samples per second, from the data.
        hop: samples from one token to the next, from the tokenizer.
    """

    def __init__(
        self,
        *,
        run: Place = None,
        model: str | None = None,
        layer: int | None = None,
        norm: bool = False,
        rate: Fact[Count] = 16000,
        hop: Fact[Count] = 320,
    ) -> None:
        if (run is None) == (model is None):
            raise UserError("which teacher? give --target.run FOLDER or --target.model NAME, one of them")
        name = f"run:{run}" if model is None else model
        super().__init__(open_features(name, rate, (layer,)), rate, hop)
        self.norm, self.dim = norm, self.features.dim

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, dim]`` float32."""
        x = self.aligned(batch, tokens)[0]
        return F.layer_norm(x, x.shape[-1:]) if self.norm else x


class Clusters(_OfFrames):
    """Numbers of codes of features: clusters, residual stages, codebooks that add up, or several layers.

    Args:
        file: codebooks, as ``polymask recipe audio/speech-targets``, ``audio/spear`` or
            :mod:`polymask_audio.fitting` make them; it names the features too. ``random:K`` draws K codes
            of cepstra instead, ``random:KxN`` N times as many in stages, to try things out.
        frames: of features for each token, one after another, where there are more of them than tokens;
            each has streams of its own.
        rate: samples per second, from the data.
        hop: samples from one token to the next, from the tokenizer.

    Raises:
        UserError: no file, or one that holds something else.
    """

    def __init__(
        self, *, file: Place = None, frames: Count = 1, rate: Fact[Count] = 16000, hop: Fact[Count] = 320
    ) -> None:
        if frames < 1:
            raise UserError(f"a token has 1 frame of features or more, got frames={frames}")
        if file is None:
            raise UserError(
                "clusters of what? give --target.file CODEBOOK; polymask recipe audio/speech-targets fits "
                "one, and audio/random-projection needs none"
            )
        name, layers, books = _random(file) if file.startswith("random:") else _read(file)
        super().__init__(open_features(name, rate, layers), rate, hop)
        widths = {book.centers.shape[2] for book in books}
        if widths != {self.features.dim} or len({book.codes for book in books}) > 1:
            raise UserError(f"{file} is of features of width {widths}, {name} has {self.features.dim}")
        self.books, self.frames = nn.ModuleList(books), frames
        self.dim, self.streams = books[0].codes, frames * sum(book.stages for book in books)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """int64 ``[B, N]``, or ``[B, N, streams]`` of several: by frame, then by layer, then by stage."""
        found = self.aligned(batch, tokens, self.frames)
        found = [x.view(*x.shape[:2], self.frames, -1) for x in found]
        ids = torch.cat([book(x) for book, x in zip(self.books, found, strict=True)], dim=-1).flatten(2)
        return ids[..., 0] if self.streams == 1 else ids


class RandomProjection(nn.Module):
    """The nearest of random codes to a frozen random projection (Chiu et al. 2022, arXiv 2202.01855).

    As BEATs and OpenBEATs have it (Chen et al. 2022, arXiv 2212.09058): a linear map, a norm, a second
    linear map, a norm, then the nearest of normally distributed codes. Both maps are Xavier normal. Several
    codebooks, each with maps of its own, are as in USM (Zhang et al. 2023, arXiv 2303.01037).

    Args:
        in_dim: numbers per token, from the tokenizer.
        codes: how many.
        codebooks: how many times so many.
        width: of a code.
        hidden: width between the maps; None for one map only, as in the original.
        seed: of the maps and the codes.
        raw: tokens are samples of sound, from the tokenizer; their log-mel spectra are projected then.
        rate: samples per second, from the data.
        hop: samples from one token to the next, from the tokenizer.
    """

    codes: Tensor

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 256,
        codes: Count = 1024,
        codebooks: Count = 1,
        width: Count = 256,
        hidden: Count | None = 512,
        seed: int = 0,
        raw: Fact[bool] = False,
        rate: Fact[Count] = 16000,
        hop: Fact[Count] = 320,
    ) -> None:
        super().__init__()
        if min(codes, codebooks, width, hidden or 1) < 1:
            raise UserError(
                f"codes, codebooks, width and hidden are 1 or more, got {codes}, {codebooks}, {width} and "
                f"{hidden}"
            )
        self.dim, self.streams = codes, codebooks
        self.mel = LogMel(rate=rate, hop=hop) if raw else None
        in_dim = in_dim if self.mel is None else self.mel.dim
        generator = torch.Generator().manual_seed(seed)
        widths = [in_dim, width] if hidden is None else [in_dim, hidden, width]
        for i, (old, new) in enumerate(itertools.pairwise(widths)):
            std = math.sqrt(2 / (old + new))
            self.register_buffer(f"map_{i}", std * torch.randn(codebooks, old, new, generator=generator))
        self.maps = len(widths) - 1
        self.register_buffer("codes", torch.randn(codebooks, codes, width, generator=generator))

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """int64 ``[B, N]``, or ``[B, N, codebooks]`` of several."""
        x = tokens.values.float() if self.mel is None else self.mel(batch, tokens)
        found = []
        with torch.autocast(x.device.type, enabled=False):
            for j in range(self.streams):
                z = x
                for i in range(self.maps):
                    z = z @ self.get_buffer(f"map_{i}")[j]
                    z = F.layer_norm(z, z.shape[-1:])
                found.append(nearest(z, self.codes[j]))
        return found[0] if self.streams == 1 else torch.stack(found, dim=-1)


def _read(file: str) -> tuple[str, tuple[int | None, ...], tuple[Codebook, ...]]:
    units = load(file)
    return units.features, units.layers, units.books


def _random(file: str) -> tuple[str, tuple[int | None, ...], tuple[Codebook, ...]]:
    count, x, stages = file.removeprefix("random:").partition("x")
    stages = stages if x else "1"
    if not (count.isdigit() and stages.isdigit()) or int(count) < 2 or int(stages) < 1:
        raise UserError(f"file={file!r}: random:K takes a number of codes, 2 or more, or give a file")
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(int(stages), int(count), 39, generator=generator)
    return "mfcc", (None,), (Codebook(centers, torch.zeros(39), torch.ones(39)),)
