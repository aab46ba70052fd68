"""Checks of the outputs of systems beside the loss: features, masks, previews, monitored values.

Tags: ``sees-hidden`` (hidden content reaches the prediction on purpose), ``moving-target`` (it reaches the
loss by features that are learned).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymask.mask import Mask
from polymask.protocols import Batch
from polymask.slots import filled, substitute
from polymask.systems.base import MaskView
from polymask.testing.loop import FIRST, built, loss
from polymask.testing.subject import Subject, rows, seeded
from polymask.testing.suite import Skip, check, require
from polymask.tokens import Tokens


@check("systems")
def check_system_encodes_the_whole_input(subject: Subject) -> None:
    """``encode`` in eval mode gives finite features, the same at every call and in any batch."""
    system, batch = built(subject)
    system.eval()
    with seeded(1):
        first = system.encode(batch)
    with seeded(2):
        second = system.encode(batch)
    require(isinstance(first, Tokens), f"encode returned {type(first).__name__}, not polymask.Tokens")
    pooled = first.pool()
    require(
        pooled.dim() == 2 and len(pooled) == len(batch["id"]), f"pooled features are {list(pooled.shape)}"
    )
    require(pooled.isfinite().all(), "features are not finite")
    require(
        torch.equal(first.values, second.values), "encode gives other features at a second call: it masks"
    )
    few = system.encode(rows(batch, slice(1, 3))).pool()
    require(torch.allclose(pooled[1:3], few, rtol=1e-3, atol=1e-4), "features depend on the samples beside")


@check("systems", unless=("sees-hidden", "moving-target"))
def check_system_predicts_without_looking(subject: Subject) -> None:
    """Changing hidden input leaves the prediction bit-equal (seen through a constant target)."""
    system, batch = built(subject)
    tokenizer, target = getattr(system, "tokenizer", None), getattr(system, "target", None)
    if target is None or not hasattr(tokenizer, "inverse") or not hasattr(system, "masking"):
        raise Skip("needs the slots tokenizer (with an inverse), masking and target")
    assert tokenizer is not None
    masks = [view.mask for view in system.masks(batch, FIRST).values()]
    tokens = tokenizer(batch)
    if len(masks) != 1 or masks[0].hidden.shape != tokens.shape or masks[0].hidden.dtype != torch.bool:
        raise Skip("draws no single mask over the tokens")
    noise = torch.randn(tokens.values.shape, generator=torch.Generator().manual_seed(3))
    changed = {**batch, tokenizer.key: tokenizer.inverse(masks[0].fill(tokens.values, noise))}
    for kind, instead in {
        "maskings": lambda request: masks[0],
        "targets": _Constant(target.dim, target(batch, tokens)),
    }.items():  # in the slots of the system, or of the one that it hosts
        for owner, slot, _ in list(filled(system, kind)):
            if slot in ("masking", "target"):
                substitute(owner, slot, instead)
    before, after = loss(system, batch), loss(system, changed)
    require(torch.equal(before, after), f"hidden input changed the loss from {before:.6f} to {after:.6f}")


@dataclass
class _Constant:
    """Answers with what a target said once, whatever it is asked."""

    dim: int
    answer: Tensor

    def __call__(self, batch: Batch, tokens: Tokens) -> Tensor:
        return self.answer


class _Spy:
    """A masking that remembers what it drew; in all else the one it is made of."""

    def __init__(self, masking: Any) -> None:
        self.masking, self.drawn = masking, list[Tensor]()

    def __call__(self, request: Any) -> Mask:
        mask: Mask = self.masking(request)
        self.drawn.append(mask.hidden)
        return mask

    def __getattr__(self, name: str) -> Any:
        return getattr(self.masking, name)


@check("systems")
def check_system_masks(subject: Subject) -> None:
    """``masks`` gives views of the masks that ``forward`` draws at that step, one row per sample.

    Where ``forward`` changes what was drawn before it hides anything, it is the changed mask: drawn in the
    first place, it gives the same loss. With the tag ``more-masks`` it gives others beside. A view of tokens
    has one site per token.
    """
    system, batch = built(subject)
    views = system.masks(batch, FIRST)
    if not views:
        raise Skip("shows no masks")
    for name, view in views.items():
        require(isinstance(view, MaskView), f"masks()[{name!r}] is {type(view).__name__}, not MaskView")
        require(
            len(view.mask.hidden) == len(batch["id"]), f"masks()[{name!r}] has {len(view.mask.hidden)} rows"
        )
        if view.tokens is not None:
            sites, masked = tuple(view.tokens.shape), tuple(view.mask.hidden.flatten(1).shape)
            require(sites == masked, f"masks()[{name!r}] has {sites} tokens and {masked} sites")
    shown = {name: view.mask for name, view in views.items()}
    spies = [(owner, slot, _Spy(getattr(owner, slot))) for owner, slot, _ in filled(system, "maskings")]
    for owner, slot, spy in spies:
        substitute(owner, slot, spy)
    before = loss(system, batch)
    # sites may be laid out on their grid, so that they are drawn as one
    drawn = [(owner, slot, hidden.flatten(1)) for owner, slot, spy in spies for hidden in spy.drawn]
    if "more-masks" in subject.part.tags:
        for _, slot, hidden in drawn:
            found = any(torch.equal(hidden, mask.hidden.flatten(1)) for mask in shown.values())
            require(found, f"masks() has none that forward drew by {slot}")
        return
    for name, mask in shown.items():
        found = any(torch.equal(hidden, mask.hidden.flatten(1)) for _, _, hidden in drawn)
        if not found and len(drawn) == 1:
            owner, slot, _ = drawn[0]
            instead = Mask(mask.hidden.flatten(1), mask.visible)
            substitute(owner, slot, lambda request, instead=instead: instead)
            found = torch.equal(loss(system, batch), before)
        require(not drawn or found, f"masks()[{name!r}] is none of the masks that forward drew")


@check("systems")
def check_system_preview(subject: Subject) -> None:
    """``preview`` gives finite images or HTML, one row per sample, and lines; it changes nothing."""
    system, batch = built(subject)
    system.eval()
    state = copy.deepcopy(system.state_dict())
    preview = system.preview(batch, FIRST)
    if not preview.media and not preview.lines:
        raise Skip("shows nothing")
    for caption, media in preview.media.items():
        require(len(media) == len(batch["id"]), f"{caption!r} has {len(media)} rows")
        if not isinstance(media, torch.Tensor):
            require(all(isinstance(x._repr_html_(), str) for x in media), f"{caption!r} is no HTML")
            continue
        require(media.isfinite().all(), f"{caption!r} is not finite")
        require(not media.requires_grad, f"{caption!r} carries gradient")
    for title, found in preview.lines.items():
        lines = [found] if isinstance(found, torch.Tensor) else [*found.values()]
        require(len({line.shape for line in lines}) == 1, f"{title!r} has lines of several lengths")
        for line in lines:
            require(line.dim() == 1 and not line.requires_grad, f"{title!r} is no line of numbers")
    moved = [name for name, x in system.state_dict().items() if not torch.equal(x, state[name])]
    require(not moved, f"preview changes {', '.join(moved)}")


@check("systems")
def check_system_monitor(subject: Subject) -> None:
    """``monitor`` gives finite scalars, and features ``[B, D]`` or ``[B, N, D]``; it changes nothing."""
    system, batch = built(subject)
    system.eval()
    state = copy.deepcopy(system.state_dict())
    with torch.no_grad():
        found = system.monitor(batch, FIRST)
    if not found:
        raise Skip("monitors nothing")
    for name, value in found.items():
        require(value.dim() in (0, 2, 3), f"{name!r} is {list(value.shape)}, no scalar and no features")
        require(value.isfinite().all(), f"{name!r} is not finite")
    moved = [name for name, x in system.state_dict().items() if not torch.equal(x, state[name])]
    require(not moved, f"monitor changes {', '.join(moved)}")
