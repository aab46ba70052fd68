"""What the tests of several systems need: twins in transformers, and a short training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Mask, Step, System, Tokens

View = Callable[[Tensor], Tensor]


def whole(x: Tensor) -> Tensor:
    return x


@dataclass
class Pair:
    """A tensor that both models hold, perhaps as parts of larger ones or in another order."""

    ours: nn.Parameter
    theirs: nn.Parameter
    view: View = whole
    their_view: View = whole


class Twins:
    """Pairs of parameters; every trainable parameter of either model must be in one.

    Args:
        ours: our system.
        theirs: transformers' model.
    """

    def __init__(self, ours: nn.Module, theirs: nn.Module) -> None:
        self.ours, self.theirs = dict(ours.named_parameters()), dict(theirs.named_parameters())
        self.pairs: list[Pair] = []

    def pair(self, ours: str, theirs: str, view: View = whole, their_view: View = whole) -> None:
        theirs = theirs if theirs in self.theirs else before_v5(theirs)
        self.pairs.append(Pair(self.ours[ours], self.theirs[theirs], view, their_view))

    def both(self, ours: str, theirs: str, view: View = whole) -> None:
        """Weight and bias."""
        for kind in ("weight", "bias"):
            self.pair(f"{ours}.{kind}", f"{theirs}.{kind}", view)

    def block(self, ours: str, theirs: str) -> None:
        """A Transformer block of timm, whose query, key and value are one projection."""
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            self.both(f"{ours}.attn.qkv", f"{theirs}.attention.{name}", lambda x, i=i: x.chunk(3)[i])
        self.both(f"{ours}.attn.proj", f"{theirs}.attention.o_proj")
        self.both(f"{ours}.norm1", f"{theirs}.layernorm_before")
        self.both(f"{ours}.norm2", f"{theirs}.layernorm_after")
        self.both(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1")
        self.both(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")

    @torch.no_grad()
    def copy(self) -> None:
        """Our weights into theirs, after moving ours off initial values that hide mistakes (0, 1)."""
        for parameter in self.ours.values():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        for pair in self.pairs:
            view = pair.their_view(pair.theirs)
            view.copy_(pair.view(pair.ours).reshape(view.shape))

    def check_gradients(self, tolerance: float = 1e-5) -> None:
        """Every gradient agrees, and none was left out."""
        for models, mine in ((self.ours, "ours"), (self.theirs, "theirs")):
            paired = {id(getattr(pair, mine)) for pair in self.pairs}
            left = [n for n, p in models.items() if p.requires_grad and id(p) not in paired]
            assert not left, f"not compared: {left}"
        for pair in self.pairs:
            if pair.ours.requires_grad:
                assert pair.ours.grad is not None and pair.theirs.grad is not None
                theirs = pair.their_view(pair.theirs.grad)
                ours = pair.view(pair.ours.grad).reshape(theirs.shape)
                torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def before_v5(name: str) -> str:
    """What a parameter of a Transformer block was called in transformers 4."""
    old = {
        "vit.layers": "vit.encoder.layer",
        "o_proj": "output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        "attention.relative_position_bias": "attention.self",
    }
    part = "self" if name.startswith("swin") else "attention"
    old |= {f"{k[0]}_proj": f"{part}.{k}" for k in ("query", "key", "value")}
    for new, before in old.items():
        name = name.replace(new, before)
    return name


@pytest.fixture
def twins() -> type[Twins]:
    return Twins


def errors_on_one_pattern(system: Any, steps: int = 100) -> tuple[float, dict[str, float]]:
    """Train on one pattern at normally distributed strengths, then score new ones under fixed masks.

    Visible patches tell the strength, and the place of a hidden one which part of the pattern it is.

    Args:
        system: one with ``draw``, ``objective`` and raw pixels as target, for grey 8 x 8 images.
        steps: of 64 images each.

    Returns:
        The loss, and that of guesses which need no learning, by name.
    """
    generator = torch.Generator().manual_seed(5)
    pattern = torch.randn(8, 8, generator=generator)
    images = torch.randn(1000, 1, 1, 1, generator=generator) * pattern
    images = (images - images.mean()) / images.std()
    train, held_out = images[:800], images[800:]
    _train(system, train, steps)
    batch, step = {"image": held_out, "id": torch.arange(len(held_out))}, Step(steps, steps, seed=9)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, step)
    for_mse = system.tokenizer({"image": train.mean(0, keepdim=True)}).values
    for_l1 = system.tokenizer({"image": train.median(0, keepdim=True).values}).values
    guesses = {
        "zero": torch.zeros(()),
        "the visible mean": _visible_mean(tokens, mask),
        "the nearest visible patch": _nearest(tokens, mask),
        "the mean image": for_mse,
        "the median image": for_l1,
    }
    with torch.no_grad():
        learned = system.eval()(batch, step)["reconstruction"].item()
    target = mask.invert().keep(tokens.values)
    return learned, {
        name: system.objective(mask.invert().keep(guess.expand_as(tokens.values)), target).item()
        for name, guess in guesses.items()
    }


def _train(system: System, images: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(0)
    for i in range(steps):
        index = torch.randint(len(images), (64,), generator=generator)
        loss = system({"image": images[index], "id": index}, Step(i, steps))["reconstruction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _visible_mean(tokens: Tokens, mask: Mask) -> Tensor:
    return mask.keep(tokens.values).mean((1, 2), keepdim=True)


def _nearest(tokens: Tokens, mask: Mask) -> Tensor:
    distance = torch.cdist(tokens.position, tokens.position)
    nearest = torch.where(mask.hidden[:, None], torch.inf, distance).argmin(-1)
    return tokens.values.gather(1, nearest[..., None].expand_as(tokens.values))


@pytest.fixture
def on_one_pattern() -> Callable[..., tuple[float, dict[str, float]]]:
    return errors_on_one_pattern
