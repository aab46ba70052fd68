"""Poses as compositional tokens (PCT, Geng et al. 2023, arXiv 2303.11638): several codes for one person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymask import Batch, Tokens, UserError
from polymask.nn.blocks import Block, initialise
from polymask.nn.positions import coordinates
from polymask.nn.teachers import Frozen
from polymask.run import Run
from polymask.types import Count, Fact, Place
from polymask_vision.ema_codebook import EMACodebook
from polymask_vision.poses import Figures, Poses

RANDOM = "random:"


class MixerBlock(nn.Module):
    """An MLP across the tokens and one across the channels of each (MLP-Mixer, Tolstikhin et al. 2021).

    As PCT has it: the second one's shortcut begins at the input plus the output of the first.

    Args:
        tokens: how many.
        dim: channels.
        token_hidden: width of the first MLP.
        channel_hidden: width of the second.
    """

    def __init__(self, tokens: int, dim: int, token_hidden: int, channel_hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.across = _mlp(tokens, token_hidden)
        self.within = _mlp(dim, channel_hidden)

    def forward(self, x: Tensor) -> Tensor:
        """``[R, tokens, dim]`` to the same."""
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.within(self.norm2(x))
        return out


class PoseCoder(nn.Module):
    """One pose to codes, and back.

    Args:
        joints: of a pose.
        tokens: codes of a pose.
        codes: to choose from, one book for all tokens.
        dim: width of a code, and of the encoder.
        depth: mixer blocks of the encoder.
        decoder_dim: width of the decoder.
        decoder_depth: its mixer blocks.
        token_hidden: width of MLPs across tokens.
        channel_hidden: width of MLPs across channels.
        decay: weight of a code's past at each step.
    """

    def __init__(
        self,
        *,
        joints: int = 17,
        tokens: int = 34,
        codes: int = 2048,
        dim: int = 512,
        depth: int = 4,
        decoder_dim: int = 32,
        decoder_depth: int = 1,
        token_hidden: int = 64,
        channel_hidden: int = 512,
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        self.joints, self.tokens, self.dim = joints, tokens, dim
        self.embed, self.unseen = nn.Linear(2, dim), nn.Parameter(torch.empty(dim))
        size = (token_hidden, channel_hidden)
        self.encoder = nn.Sequential(*(MixerBlock(joints, dim, *size) for _ in range(depth)))
        self.to_tokens = nn.Linear(joints, tokens)
        self.codebook = EMACodebook(codes=codes, dim=dim, decay=decay)
        self.to_joints, self.narrow = nn.Linear(tokens, joints), nn.Linear(dim, decoder_dim)
        self.decoder = nn.Sequential(*(MixerBlock(joints, decoder_dim, *size) for _ in range(decoder_depth)))
        self.head = nn.Linear(decoder_dim, 2)
        nn.init.normal_(self.unseen, std=0.02)

    def points(self, joints: Tensor, shown: Tensor) -> Tensor:
        """What codes are chosen for, float32 ``[R, tokens, dim]``.

        Args:
            joints: ``[R, joints, 2]``, in the boxes of their persons.
            shown: bool ``[R, joints]``; one learned vector stands for each other joint.
        """
        x = torch.where(shown[..., None], self.embed(joints), self.unseen)
        # no norms at the ends: behind them poses, which differ by little, are all alike for long
        x = self.encoder(x)
        return self.to_tokens(x.transpose(1, 2)).transpose(1, 2).float()  # type: ignore[no-any-return]

    def decode(self, vectors: Tensor) -> Tensor:
        """Vectors of codes ``[R, tokens, dim]`` to joints in a box, ``[R, joints, 2]``."""
        x = self.narrow(self.to_joints(vectors.transpose(1, 2)).transpose(1, 2))
        joints: Tensor = self.head(self.decoder(x))
        return joints

    def forward(self, joints: Tensor, shown: Tensor) -> Tensor:
        """Poses to numbers of codes, int64 ``[R, tokens]``; arguments as :meth:`points`."""
        return self.codebook.nearest(self.points(joints, shown))

    def vectors(self, ids: Tensor) -> Tensor:
        """Codes by number, ``[..., dim]``."""
        return self.codebook.book[ids]


class _Coded(Frozen):
    """Poses of a batch by the codes of a finished run of ``vision/pose-tokenizer``, frozen."""

    def __init__(self, run: str | None, joints: int, slot: str) -> None:
        super().__init__(open_coder(run, joints, slot))

    @property
    def coder(self) -> Any:
        """What names poses."""
        return self.module

    @torch.no_grad()
    def codes(self, figures: Figures) -> Tensor:
        """int64 ``[..., tokens]`` of persons."""
        joints, seen = figures.joints, figures.seen
        ids: Tensor = self.coder(joints.flatten(0, -3), seen.flatten(0, -2))
        return ids.view(*seen.shape[:-1], -1)


class PoseTokens(_Coded):
    """Persons at times as vectors of their codes, in the order view, time, person.

    A token is the vectors of all codes of a pose side by side, the book brought to mean 0 and deviation 1;
    who is not seen is padding.

    Args:
        run: folder of a finished run of ``vision/pose-tokenizer``. ``random:KxM`` takes an untrained one of K
            codes, M for each pose, to try things out.
        box: add the centre and the side of a person's box, which codes do not tell.
        persons: places for persons in a frame, from the data.
        joints: of a person, from the data.
        frames: of a window, from the data.
        views: cameras at most, from the data.

    Raises:
        UserError: no such run, or one of another system.
    """

    key = Poses.key

    def __init__(
        self,
        *,
        run: Place = None,
        box: bool = True,
        persons: Fact[Count] = 3,
        joints: Fact[Count] = 17,
        frames: Fact[Count] = 8,
        views: Fact[Count] = 3,
    ) -> None:
        super().__init__(run, joints, "tokenizer")
        self.box = box
        self.poses = Poses(persons=persons, joints=joints, frames=frames, views=views)

    @property
    def provides(self) -> dict[str, Any]:
        return {**self.poses.provides, "in_dim": self.coder.tokens * self.coder.dim + 3 * self.box}

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``pose`` float ``[B, V, T, P, joints, 2]`` and ``pose_seen`` to tokens ``[B, V T P, D]``."""
        figures = Figures.of(batch)
        book = self.coder.codebook.book
        # codes lie as close together as their training left them, and encoders want numbers of a size about 1
        scaled = (book - book.mean(0)) / book.std().clamp(min=1e-6)
        values = scaled[self.codes(figures)].flatten(-2)
        if self.box:
            values = torch.cat([values, figures.box], dim=-1)
        place = coordinates(tuple(values.shape[1:4])).to(values.device)
        valid = figures.seen.any(-1).flatten(1)
        return Tokens(values.flatten(1, 3), place.expand(len(values), -1, -1), valid=valid)

    def example(self, n: int, seed: int = 0) -> Batch:
        """As of :class:`polymask_vision.poses.Poses`."""
        return self.poses.example(n, seed)


class PoseCodes(_Coded):
    """The codes of each person at each time.

    Args:
        run: folder of a finished run of ``vision/pose-tokenizer``. ``random:KxM`` takes an untrained one of K
            codes, M for each pose, to try things out.
        joints: of a person, from the data.

    Raises:
        UserError: no such run, or one of another system.
    """

    def __init__(self, *, run: Place = None, joints: Fact[Count] = 17) -> None:
        super().__init__(run, joints, "target")
        self.dim, self.streams = len(self.coder.codebook.book), self.coder.tokens

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """int64 ``[B, N, streams]``, or ``[B, N]`` of one; of persons who are not seen, whatever comes."""
        ids = self.codes(Figures.of(batch)).flatten(1, 3)
        return ids[..., 0] if self.streams == 1 else ids

    @torch.no_grad()
    def joints(self, ids: Tensor) -> Tensor:
        """Joints in a box, ``[..., joints, 2]``, of codes ``[..., streams]``."""
        found: Tensor = self.coder.decode(self.coder.vectors(ids.flatten(0, -2)))
        return found.view(*ids.shape[:-1], -1, 2)


class CodeDecoder(nn.Module):
    """Predicts the codes of each pose from what an encoder made of the poses of its view.

    Args:
        dim: width of what the encoder made.
        depth: Transformer blocks; 0 for a linear map alone.
        heads: attention heads.
        streams: codes of a pose.
        codes: to choose from.
    """

    def __init__(self, dim: int, depth: int, heads: int, streams: int, codes: int) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"decoder width {dim}, the encoder's, is not divisible by {heads} heads")
        self.streams, self.codes = streams, codes
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, streams * codes)
        initialise(self)

    def forward(self, poses: Tokens) -> Tensor:
        """What logits are linear in, ``[R, N, dim]``; padding is not attended to."""
        x, real = poses.values, poses.real
        attend = (real | ~real.any(1, keepdim=True))[:, None, None, :]
        for block in self.blocks:
            x = block(x, attn_mask=attend)
        features: Tensor = self.norm(x)
        return features

    def logits(self, features: Tensor) -> Tensor:
        """``[..., dim]`` to ``[..., streams, codes]``."""
        logits: Tensor = self.head(features)
        return logits.view(*features.shape[:-1], self.streams, self.codes)


def open_coder(run: str | None, joints: int, slot: str) -> PoseCoder:
    """The coder of a finished run, or a random one.

    Args:
        run: folder of the run, or ``random:KxM``.
        joints: of the poses it is for.
        slot: where it is asked for, for messages.

    Raises:
        UserError: there is none.
    """
    if run is None:
        raise UserError(
            f"codes of what? give --{slot}.run FOLDER of a run of vision/pose-tokenizer, or random:64x8 for "
            "codes that are not learned; polymask recipe vision/previps trains one, then a system with it"
        )
    if run.startswith(RANDOM):
        numbers = run.removeprefix(RANDOM).split("x")
        if len(numbers) != 2 or not all(n.isdigit() and int(n) for n in numbers):
            raise UserError(f"run={run!r}: random:KxM takes K codes, M for each pose, such as random:64x8")
        return _random_coder(joints, tokens=int(numbers[1]), codes=int(numbers[0]))
    coder = getattr(Run.open(run).system, "coder", None)
    if not isinstance(coder, PoseCoder):
        raise UserError(f"{run} is no run of vision/pose-tokenizer: polymask pretrain vision/pose-tokenizer")
    if coder.joints != joints:
        raise UserError(f"{run} names poses of {coder.joints} joints, and these have {joints}")
    return coder


@torch.no_grad()
def _random_coder(joints: int, tokens: int, codes: int) -> PoseCoder:
    """One that is not learned, whose codes are what it makes of random poses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        coder = PoseCoder(joints=joints, tokens=tokens, codes=codes, dim=16, depth=1)
        poses = torch.rand(codes, joints, 2) - 0.5
    points = coder.points(poses, torch.ones(codes, joints, dtype=torch.bool))
    coder.codebook.book.copy_(points[torch.arange(codes), torch.arange(codes) % tokens])
    return coder


def _mlp(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
