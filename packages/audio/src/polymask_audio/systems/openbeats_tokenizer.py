"""The tokenizer of OpenBEATs (Bharadwaj et al. 2025, arXiv 2507.14129), distilled from an encoder.

Assign each patch the nearest code of a codebook, and learn encoder and codes so that a decoder can predict
the features of a frozen teacher from the codes; nothing is masked.

    polymask pretrain audio/openbeats-tokenizer --preset small --data prompts --target.run RUN

As BEATs has it (Chen et al. 2022, arXiv 2212.09058): gradient passes the choice straight through, and
codes are moving averages of what chose them, on the unit sphere. The loss is one minus a cosine, and
falls from 1; beside it stands how far the patches are from their codes.

Shapes: B samples, N tokens, C code width, K codes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Step, System, Tokens, UserError, distributed, functional
from polymask.nn.blocks import Block
from polymask.nn.positions import SinCos
from polymask.nn.teachers import Frozen
from polymask.protocols import Encoder, Objective, Target, Tokenizer
from polymask.run import Run
from polymask.types import Count, Fact, NotNegative, Place, Share, Whole
from polymask_audio.encoders import ViT


class OpenBEATsTokenizer(System):
    """Vector quantisation from which a teacher's features can be predicted.

    Args:
        tokenizer: cuts sound into patches, as the teacher's does.
        encoder: encodes all patches.
        target: the teacher's features of each patch, float ``[B, N, target.dim]``.
        objective: how the decoder's guess of them is scored (paper: one minus their cosine).
        codes: how many (paper: 1,024).
        code_dim: width of a code (paper: 256).
        decay: weight of a code's past at each step.
        commitment: weight of the mean square of what a patch and its code differ by (recipe: 10). It is
            a mean over ``code_dim`` numbers of unit vectors: of a shorter code it weighs more, and all
            patches may end at one.
        decoder_depth: blocks of the decoder, as wide as the encoder (paper: 3).
        decoder_heads: its attention heads (paper: 12).
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        objective: Objective,
        codes: Count = 1024,
        code_dim: Count = 256,
        decay: Share = 0.99,
        commitment: NotNegative = 10.0,
        decoder_depth: Whole = 3,
        decoder_heads: Count = 12,
    ) -> None:
        super().__init__()
        self.tokenizer, self.target, self.objective = tokenizer, target, objective
        self.commitment = commitment
        dim = encoder.out_dim
        self.quantiser = Quantiser(encoder, codes, code_dim, decay)
        self.codebook = self.quantiser.codebook
        self.from_code = nn.Linear(code_dim, dim)
        self.positions = SinCos(dim, None)
        self.blocks = nn.ModuleList(Block(dim, decoder_heads) for _ in range(decoder_depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, target.dim)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        z_BNC = self.quantiser.points(tokens)
        real = torch.ones_like(z_BNC[..., 0], dtype=torch.bool) if tokens.valid is None else tokens.valid
        learns = self.training and torch.is_grad_enabled()
        if learns and step.index == 0:
            self.codebook.start(z_BNC[real].detach())
        ids_BN = self.codebook.nearest(z_BNC)
        if learns:
            self.codebook.watch(z_BNC, ids_BN, real, step)
        code_BNC = self.codebook.book[ids_BN]
        through_BNC = z_BNC + (code_BNC - z_BNC).detach()
        guess, truth = self.decode(through_BNC, tokens), self.target(batch, tokens).detach()
        if truth.shape != guess.shape or not truth.is_floating_point():
            raise UserError(
                f"openbeats-tokenizer distils features {list(guess.shape)}, and {type(self.target).__name__} "
                f"gives {truth.dtype} {list(truth.shape)}: use audio/teacher, or another target of values"
            )
        everything = Mask(real)
        return {
            "teacher": self.objective(guess, truth, everything),
            "commitment": self.commitment * everything.mean((z_BNC - code_BNC).square().mean(-1)),
        }

    def after_step(self, step: Step) -> None:
        self.codebook.follow()

    def decode(self, codes: Tensor, tokens: Tokens) -> Tensor:
        """Codes ``[B, N, C]`` to the teacher's features ``[B, N, target.dim]``."""
        x = self.from_code(codes) + self.positions(tokens.position)
        real = None if tokens.valid is None else tokens.valid[:, None, None, :]
        for block in self.blocks:
            x = block(x, attn_mask=real)
        features: Tensor = self.head(self.norm(x))
        return features

    def encode(self, batch: Batch) -> Tokens:
        return functional.encode(self.tokenizer, self.quantiser.encoder, batch)


class Quantiser(nn.Module):
    """Tokens to codes.

    Args:
        encoder: of all tokens.
        codes: how many.
        dim: width of a code.
        decay: weight of a code's past.
    """

    def __init__(self, encoder: Encoder, codes: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.encoder, width = encoder, encoder.out_dim
        self.to_code = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, dim))
        self.codebook = Codebook(codes, dim, decay)

    def points(self, tokens: Tokens) -> Tensor:
        """Where each token lies on the unit sphere of codes, float32 ``[B, N, C]``."""
        encoder = self.encoder
        x = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)[:, encoder.prefix :]
        return F.normalize(self.to_code(x).float(), dim=-1)

    def forward(self, tokens: Tokens) -> Tensor:
        """The nearest code of each token, int64 ``[B, N]``."""
        return self.codebook.nearest(self.points(tokens))


class Codebook(nn.Module):
    """Codes on the unit sphere that follow what chooses them, on all processes; no gradient.

    Args:
        codes: how many.
        dim: width.
        decay: weight of a code's past.
    """

    book: Tensor

    def __init__(self, codes: int, dim: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("book", F.normalize(torch.randn(codes, dim), dim=-1))
        self._seen: list[tuple[int, Tensor]] = []

    def nearest(self, z: Tensor) -> Tensor:
        """The code of each unit vector ``[..., dim]``, int64 ``[...]``."""
        with torch.autocast(z.device.type, enabled=False):
            return (z @ self.book.T).argmax(-1)

    @torch.no_grad()
    def start(self, z: Tensor, rounds: int = 10) -> None:
        """Spherical k-means of unit vectors ``[n, dim]``, from some of them at equal distances."""
        z = distributed.gather(z)
        at = torch.arange(len(self.book), device=z.device) * len(z) // len(self.book)
        self.book.copy_(z[at])
        for _ in range(rounds):
            self._move(self._sums(z, self.nearest(z)), 0.0)

    @torch.no_grad()
    def watch(self, z: Tensor, ids: Tensor, real: Tensor, step: Step) -> None:
        """Remember what chose which code, for :meth:`follow`; all parts of one step count."""
        self._seen = [seen for seen in self._seen if seen[0] == step.index]
        weight = real[..., None].to(z.dtype)
        self._seen.append((step.index, self._sums((z * weight).flatten(0, 1), ids.flatten())))

    @torch.no_grad()
    def follow(self) -> None:
        """Move each code that was chosen towards the mean of what chose it."""
        if self._seen:
            sums = torch.stack([sums for _, sums in self._seen]).sum(0)
            # a direction alone counts: the mean over processes has that of their sum
            self._move(distributed.mean(sums), self.decay)
        self._seen = []

    def _sums(self, z: Tensor, ids: Tensor) -> Tensor:
        return torch.zeros_like(self.book).index_add(0, ids, z)

    def _move(self, sums: Tensor, decay: float) -> None:
        chosen = sums.abs().sum(-1, keepdim=True) > 0
        moved = F.normalize(torch.lerp(F.normalize(sums, dim=-1), self.book, decay), dim=-1)
        self.book.copy_(torch.where(chosen, moved, self.book))


class Distilled(Frozen):
    """The acoustic tokens of a finished run of ``audio/openbeats-tokenizer``, frozen.

    Args:
        run: its folder; ``random:K`` draws one of K codes, to try things out.
        in_dim: numbers per token, from the tokenizer.

    Raises:
        UserError: no such run, one of another system, or one on tokens of another kind.
    """

    def __init__(self, *, run: Place = None, in_dim: Fact[Count] = 256) -> None:
        if run is None:
            raise UserError(
                "distilled by what? give --target.run FOLDER of a run of audio/openbeats-tokenizer; "
                "polymask recipe audio/openbeats trains one"
            )
        kind, _, codes = run.partition(":")
        if kind == "random" and codes.isdigit():
            quantiser = Quantiser(ViT(in_dim=in_dim, dim=32, depth=1, heads=2), int(codes), 8)
        else:
            system = Run.open(run).system
            if not isinstance(system, OpenBEATsTokenizer):
                raise UserError(
                    f"{run} is a run of {type(system).__name__}, not of audio/openbeats-tokenizer"
                )
            width = system.tokenizer.provides["in_dim"]
            if width != in_dim:
                raise UserError(
                    f"{run} names tokens of {width} numbers, these have {in_dim}: give both systems the same "
                    "tokenizer"
                )
            quantiser = system.quantiser
        super().__init__(quantiser)
        self.dim = len(quantiser.codebook.book)

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """int64 ``[B, N]``."""
        ids: Tensor = super().forward(tokens)
        return ids
