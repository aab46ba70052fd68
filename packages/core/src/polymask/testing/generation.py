"""The check of what systems generate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask import functional
from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings import Random
from polymask.protocols import Batch
from polymask.step import Step
from polymask.systems.base import Generates, Generation
from polymask.systems.host import implementing
from polymask.testing.loop import FIRST, built
from polymask.testing.subject import Subject, generator_states, identical, rows, seeded
from polymask.testing.suite import Skip, check, require


@check("systems")
def check_system_generates(subject: Subject) -> None:
    """``generate`` gives each sample its own, whatever is beside it, and keeps what a mask leaves visible.

    Samples have the shape of those in the batch, whose content counts only where a mask leaves it visible.
    The global generators stay untouched.
    """
    system, batch = built(subject)
    system.eval()
    maker: Generates | None = implementing(system, Generates)
    if maker is None:
        raise Skip("generates nothing")

    def generated(batch: Batch, step: Step = FIRST, mask: Mask | None = None) -> Batch:
        with torch.no_grad():
            return maker.generate(batch, step, mask).samples

    with seeded(918_273), torch.no_grad():
        before = generator_states()
        whole = maker.generate(batch, FIRST)
        moved = [name for name, state in generator_states().items() if state != before[name]]
    require(not moved, f"generate moves the global generator of {' and '.join(moved)}")
    require(isinstance(whole, Generation), f"generate returned {type(whole).__name__}, not Generation")
    for name, found in {
        "samples": whole.samples,
        **{f"frame {k}": x for k, x in enumerate(whole.frames)},
    }.items():
        for key, x in found.items():
            shape = list(batch[key].shape) if key in batch else "absent"
            require(list(x.shape) == shape, f"{key!r} of {name} is {list(x.shape)}, in the batch {shape}")
            require(bool(x.isfinite().all()), f"{key!r} of {name} is not finite")
    others = {
        "the samples beside": (generated(rows(batch, [2, 1])), [2, 1]),
        "what the batch holds, without a mask": (
            generated({k: v.flip(0) if k in whole.samples else v for k, v in batch.items()}),
            [0, 1, 2, 3],
        ),
    }
    again, new = generated(batch), generated(batch, Step(0, FIRST.total, 1))
    for key, x in whole.samples.items():
        require(identical(x, again[key]), f"a second call at the same step gives another {key!r}")
        require(not torch.equal(x, new[key]), f"another seed gives the same {key!r}")
        for what, (other, which) in others.items():
            require(_close(x[which], other[key]), f"{key!r} depends on {what}")
    tokenizer: Any = getattr(system, "tokenizer", None)
    if tokenizer is None:
        return
    tokens = tokenizer(batch)
    mask = functional.draw_mask(Random(ratio=0.5), tokens, batch, FIRST)
    for what, unfit in {
        "of other sites": Mask(mask.hidden[:, 1:]),
        "soft": Mask(mask.hidden.float()),
    }.items():
        try:
            generated(batch, mask=unfit)
        except UserError:
            continue
        require(False, f"generate takes a mask that is {what}: see polymask.mask.require_over")
    completed = tokenizer({**batch, **generated(batch, mask=mask)})
    kept, known = mask.keep(completed).values, mask.keep(tokens).values
    require(_close(kept, known), "what a mask leaves visible is not kept")
    changed = not torch.equal(mask.invert().keep(completed).values, mask.invert().keep(tokens).values)
    require(changed, "what a mask hides is not generated")


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-3)
