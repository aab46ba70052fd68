"""The check of what systems say that their answers depend on."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.protocols import Batch
from polymask.step import Step
from polymask.systems.base import Explains, System
from polymask.systems.host import implementing
from polymask.testing.loop import FIRST, built
from polymask.testing.subject import Subject, generator_states, identical, rows, seeded
from polymask.testing.suite import Skip, check, require


@check("systems")
def check_system_explains(subject: Subject) -> None:
    """``explain`` gives each sample a map in [0, 1], the same in any batch and whatever its label.

    It is over the tokens, or over places that divide them evenly. The global generators and the system stay
    as they are.
    """
    system, batch = built(subject)
    system.eval()
    maker: Explains | None = implementing(system, Explains)
    if maker is None:
        raise Skip("explains nothing")

    def explained(batch: Batch, step: Step = FIRST) -> Tensor:
        return maker.explain(batch, step)

    state = {name: x.clone() for name, x in system.state_dict().items()}
    with seeded(918_273):
        before = generator_states()
        whole = explained(batch)
        moved = [name for name, generator in generator_states().items() if generator != before[name]]
    require(not moved, f"explain moves the global generator of {' and '.join(moved)}")
    require(isinstance(whole, Tensor), f"explain returned {type(whole).__name__}, not a tensor")
    require(whole.dtype == torch.float32, f"the map is {whole.dtype}, not float32")
    require(not whole.requires_grad, "the map carries gradient")
    _confirm_shape(system, batch, whole)
    require(bool(whole.isfinite().all()), "the map is not finite")
    low, high = whole.aminmax()
    require(low >= 0 and high <= 1, f"the map goes from {low:.3g} to {high:.3g}, not from 0 to 1")
    require(identical(whole, explained(batch)), "a second call at the same step gives another map")
    unlabelled = {key: x for key, x in batch.items() if key != "label"}
    require(identical(whole, explained(unlabelled)), "the map depends on the label")
    few = explained(rows(batch, [2, 1]))
    require(torch.allclose(whole[[2, 1]], few, rtol=1e-3, atol=1e-3), "the map depends on the samples beside")
    changed = [name for name, x in system.state_dict().items() if not torch.equal(x, state[name])]
    require(not changed, f"explain changes {', '.join(changed)}")


def _confirm_shape(system: System, batch: Batch, found: Tensor) -> None:
    tokens = system.tokenizer(batch)
    grid = tokens.grid or tokens.shape[1:]
    sites = tuple(found.shape[1:])
    fits = len(sites) == len(grid) and all(n % m == 0 for n, m in zip(sites, grid, strict=True))
    require(
        len(found) == tokens.shape[0] and fits,
        f"the map is {list(found.shape)}, and {len(tokens.values)} samples have tokens on a grid of {grid}",
    )
