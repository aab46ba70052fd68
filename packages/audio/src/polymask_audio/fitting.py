"""Fitting codebooks to features of a data set; those that add up are trained here."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from polymask import UserError
from polymask.codebooks import Codebook, Units
from polymask.data import Dataset, collate
from polymask_audio.features import Features, open_features
from polymask_audio.multi_codebook import MultiCodebook, refine


def fit_multi(
    x: Tensor,
    *,
    codebooks: int = 8,
    codes: int = 256,
    steps: int = 2000,
    batch_size: int = 256,
    seed: int = 0,
) -> MultiCodebook:
    """Train codebooks that add up to vectors.

    As SPEAR's are (Yang et al. 2025, arXiv 2510.25955; its released recipe takes 70,000 steps of
    1,024 vectors). For half of the steps twice as many codebooks of the square root of so many codes are
    trained; then the codes of two codebooks, each added to each, make one, and training goes on at half
    the rate. The quarters of either half have half the rate of the one before. One learned scale multiplies
    whole logits, bias and all.

    Args:
        x: ``[n, D]`` vectors; standardised per channel by numbers that the codebooks keep.
        codebooks: how many, a power of two.
        codes: of each, a power of four.
        steps: of Adam.
        batch_size: vectors per step.
        seed: of the start and of the draws.

    Raises:
        UserError: other numbers, or no vectors.
    """
    if codebooks < 1 or codebooks & (codebooks - 1) or codes not in (4, 16, 64, 256, 1024):
        raise UserError(
            f"{codebooks} codebooks of {codes} codes: give 1, 2, 4, 8, ... of 4, 16, 64, 256 or 1024 codes"
        )
    if len(x) < codes:
        raise UserError(f"{codes} codes cannot be fit to {len(x)} vectors: give fewer, or more data")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = x.detach().float()
    mean, std = x.mean(0), x.std(0).clamp(min=1e-5)
    x = ((x - mean) / std).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        learner = Learner(x.shape[1], 2 * codebooks, math.isqrt(codes)).to(device)
        for phase in (1, 2):
            if phase == 2:
                learner = learner.paired()
            _train(learner, x, steps // 2, batch_size, 5e-3 / phase)
    return learner.frozen(mean, std)


def _train(learner: Learner, x: Tensor, steps: int, batch_size: int, lr: float) -> None:
    optimizer = torch.optim.Adam(learner.parameters(), lr, betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(steps // 4, 1), 0.5)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (batch_size,), device=x.device)]
        loss = sum(learner(batch, rounds=1 + int(torch.rand(()) < 0.5)).values())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


class Learner(nn.Module):
    """Codebooks in training.

    Args:
        dim: width of vectors.
        codebooks: N.
        codes: K, of each.
    """

    def __init__(self, dim: int, codebooks: int, codes: int) -> None:
        super().__init__()
        self.to_logits = nn.Linear(dim, codebooks * codes)
        self.centers = nn.Parameter(self.to_logits.weight.detach().clone().view(codebooks, codes, dim))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.center_scale = nn.Parameter(torch.zeros(()))

    @property
    def book(self) -> Tensor:
        """Codes as they are used, ``[N, K, D]``."""
        return (10 * self.center_scale).exp() * self.centers

    def logits(self, x: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, N, K]``."""
        logits: Tensor = (10 * self.logit_scale).exp() * self.to_logits(x)
        return logits.view(len(x), *self.centers.shape[:2])

    def forward(self, x: Tensor, rounds: int = 1) -> dict[str, Tensor]:
        """Losses of standardised vectors ``[B, D]``: the first trains the codes, the others the proposals."""
        logits, book = self.logits(x), self.book
        with torch.no_grad():
            ids = logits.argmax(-1)
            for _ in range(rounds):
                ids = refine(x, ids, book)
            middle = book.mean(1).sum(0)
        found = book[torch.arange(len(book), device=x.device), ids].sum(1)
        log_p = logits.log_softmax(-1)
        usage, codes = log_p.exp().mean(0), book.shape[1]
        entropy = -(usage * usage.clamp(min=1e-20).log()).sum(-1).mean()
        return {
            "reconstruction": (found - x).square().sum() / (x - middle).square().sum(),
            "proposal": -log_p.gather(-1, ids[..., None]).mean(),
            "usage": 0.01 * (1 - entropy / math.log(codes)),
        }

    @torch.no_grad()
    def paired(self) -> Learner:
        """Half as many codebooks: each code of one added to each of its neighbour."""
        n, k, d = self.centers.shape
        new = Learner(d, n // 2, k * k).to(self.centers.device)

        def add(x: Tensor) -> Tensor:
            return (x[::2, :, None] + x[1::2, None, :]).flatten(1, 2)

        new.centers.copy_(add(self.centers))
        new.to_logits.weight.copy_(add(self.to_logits.weight.view(n, k, d)).flatten(0, 1))
        new.to_logits.bias.copy_(add(self.to_logits.bias.view(n, k, 1)).flatten())
        new.logit_scale.copy_(self.logit_scale)
        new.center_scale.copy_(self.center_scale)
        return new

    @torch.no_grad()
    def frozen(self, mean: Tensor, std: Tensor) -> MultiCodebook:
        """What was learned, for vectors that are not standardised yet."""
        scale = (10 * self.logit_scale).exp()
        weight, bias = scale * self.to_logits.weight, scale * self.to_logits.bias
        return MultiCodebook(self.book.cpu(), mean.cpu(), std.cpu(), weight.cpu(), bias.cpu())


def gather(features: Features, data: Dataset, *, most: int = 200_000, seed: int = 0) -> list[Tensor]:
    """Features of training recordings, drawn at random until there are enough.

    Args:
        features: of what layers.
        data: whose training split is read, without augmentation.
        most: frames to take.
        seed: of the draw.

    Returns:
        For each layer ``[n, D]``, real frames alone.
    """
    samples = data.split("train")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, found, count = features.to(device), [], 0
    for start in range(0, len(order), 16):
        batch = collate([samples[i] for i in order[start : start + 16]])
        layers, counts = features({key: value.to(device) for key, value in batch.items()})
        real = torch.ones(layers[0].shape[:2], dtype=torch.bool, device=device)
        if counts is not None:
            real = torch.arange(real.shape[1], device=device) < counts[:, None]
        found.append([x[real].cpu() for x in layers])
        count += len(found[-1][0])
        if count >= most:
            break
    return [torch.cat(layer)[:most] for layer in zip(*found, strict=True)]


def fit_units(
    file: Path,
    data: Dataset,
    features: str,
    layers: tuple[int | None, ...],
    how: Callable[[Tensor], Codebook],
    *,
    frames: int = 200_000,
    seed: int = 0,
) -> Path:
    """Fit a codebook to each layer of features of the training recordings, and write them.

    Args:
        file: to write.
        data: whose training split they are of.
        features: by name, see :mod:`polymask_audio.features`; a relative ``run:FOLDER`` is beside the file.
        layers: of them.
        how: fits one to ``[n, D]``.
        frames: how many to fit, at most.
        seed: of the draw of recordings.
    """
    kind, _, folder = features.partition(":")
    name = f"run:{file.parent / folder}" if kind == "run" else features
    found = gather(open_features(name, data.provides["rate"], layers), data, most=frames, seed=seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    return Units(features, layers, tuple(how(x) for x in found)).save(file)
