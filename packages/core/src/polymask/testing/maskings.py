"""Checks of maskings.

Tags that declare a property absent on purpose: ``shared`` (rows may be alike), ``fixed`` (the same
at every step), ``variable-count`` (rows differ in how many sites are hidden), ``uneven`` (some
places are hidden more often than others), ``learned`` (gradient flows into the score), ``unbounded`` (all
sites of a sample may be hidden, or none).
``score`` says that the masking goes by ``request.score``.
"""

from __future__ import annotations

import dataclasses
import pickle

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.step import Step
from polymask.testing.requests import ODD, accelerator, accepted, change, hidden_of, request
from polymask.testing.subject import Subject, generator_states, seeded
from polymask.testing.suite import Skip, check, require


@check("maskings")
def check_masking_shape(subject: Subject) -> None:
    """Draws bool or [0, 1] over every site, and counts its visible sites right."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        mask = masking(asked)
        require(isinstance(mask, Mask), f"{where}: returned {type(mask).__name__}, not a polymask.Mask")
        hidden = hidden_of(mask)
        shape = (len(asked.ids), asked.sites)
        require(hidden.shape == shape, f"{where}: hidden has shape {[*mask.hidden.shape]}, not {shape}")
        if hidden.dtype != torch.bool:
            require(hidden.is_floating_point(), f"{where}: hidden is {hidden.dtype}; use bool, or float")
            require(((hidden >= 0) & (hidden <= 1)).all(), f"{where}: a soft mask leaves [0, 1]")
        elif mask.visible is not None:
            real = torch.ones_like(hidden) if asked.valid is None else asked.valid
            counts = (~hidden & real).sum(1).tolist()
            require(set(counts) == {mask.visible}, f"{where}: visible={mask.visible}, but rows have {counts}")


@check("maskings")
def check_masking_is_a_function_of_the_request(subject: Subject) -> None:
    """Draws the same mask for the same request, whatever was drawn before or by which instance."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        with seeded(1):
            first = hidden_of(masking(asked))
        masking(dataclasses.replace(asked, step=Step(7, 100, 9)))
        with seeded(2):
            again, fresh = hidden_of(masking(asked)), hidden_of(subject.make()(asked))
        require(torch.equal(first, again), f"{where}: a second draw differs: use request.step alone")
        require(torch.equal(first, fresh), f"{where}: another instance draws another mask")


@check("maskings")
def check_masking_leaves_global_generators(subject: Subject) -> None:
    """Does not touch the global generators of Python, numpy and torch."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        # Another state than that of the draw before, or one who seeds would look like one who leaves be.
        with seeded(918_273):
            before = generator_states()
            masking(asked)
            moved = [name for name, state in generator_states().items() if state != before[name]]
        require(not moved, f"{where}: moved the global generator of {' and '.join(moved)}")


@check("maskings")
def check_masking_leaves_the_request(subject: Subject) -> None:
    """Changes nothing in the request."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        names = [f.name for f in dataclasses.fields(asked) if isinstance(getattr(asked, f.name), Tensor)]
        before = {name: getattr(asked, name).clone() for name in names}
        masking(asked)
        for name in names:
            require(torch.equal(before[name], getattr(asked, name)), f"{where}: overwrites request.{name}")


@check("maskings", unless=("score", "fixed"))
def check_masking_varies(subject: Subject) -> None:
    """Another seed, another step and another stream draw other masks."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        first = hidden_of(masking(asked))
        step = asked.step
        others = {
            "seed": dataclasses.replace(asked, step=dataclasses.replace(step, seed=step.seed + 1)),
            "step": dataclasses.replace(asked, step=dataclasses.replace(step, index=step.index + 1)),
            "stream": dataclasses.replace(asked, stream=asked.stream + 1),
        }
        for what, other in others.items():
            same = torch.equal(first, hidden_of(masking(other)))
            require(not same, f"{where}: another {what} draws the same masks")


@check("maskings", unless=("shared",))
def check_masking_differs_between_samples(subject: Subject) -> None:
    """Draws samples of one batch masks of their own."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        hidden = hidden_of(masking(asked))
        require((hidden != hidden[0]).any(), f"{where}: all {len(asked.ids)} samples got the same mask")


@check("maskings", unless=("variable-count", "soft"))
def check_masking_hides_as_much_in_every_sample(subject: Subject) -> None:
    """Hides the same number of sites in every sample, and says so in ``visible``."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        if asked.valid is None:
            mask = masking(asked)
            counts = set(hidden_of(mask).sum(1).tolist())
            require(len(counts) == 1, f"{where}: hides {min(counts)} to {max(counts)} sites")
            require(mask.visible is not None, f"{where}: rows are alike but Mask.visible is None")


@check("maskings", unless=("unbounded",))
def check_masking_hides_some_and_not_all(subject: Subject) -> None:
    """Leaves no sample whole and none empty."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        hidden = hidden_of(masking(asked))
        real = torch.ones_like(hidden, dtype=torch.bool) if asked.valid is None else asked.valid
        require((hidden * real).sum(1).gt(0).all(), f"{where}: hides nothing in some sample")
        require(((hidden < 1) & real).any(1).all(), f"{where}: hides everything in some sample")


@check("maskings")
def check_masking_keeps_padding_out(subject: Subject) -> None:
    """Never hides padding, and hands ``valid`` on in the mask."""
    masking, asked_any = subject.make(), False
    for where, asked in accepted(subject, masking):
        if asked.valid is not None:
            asked_any = True
            mask = masking(asked)
            padding = hidden_of(mask)[~asked.valid]
            require((padding == 0).all(), f"{where}: hides {int((padding != 0).sum())} sites of padding")
            carried = mask.valid is not None and torch.equal(mask.valid.flatten(1), asked.valid)
            require(carried, f"{where}: the mask does not carry request.valid, so padding counts as visible")
    if not asked_any:
        raise Skip("refuses padding")


@check("maskings", unless=("shared",))
def check_masking_ignores_companions(subject: Subject) -> None:
    """Draws a sample the same mask in any batch and with any amount of padding."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        mask = hidden_of(masking(asked))
        alone = hidden_of(masking(change(asked, _few)))
        require(
            torch.equal(_few(mask), alone), f"{where}: the mask of a sample depends on the samples beside it"
        )
        if asked.valid is not None and asked.grid is None:
            wide = change(asked, _padded, "valid", "score", "position", sites=asked.sites + 7)
            longer = hidden_of(masking(wide))[:, : asked.sites]
            require(torch.equal(mask, longer), f"{where}: the mask depends on how much padding follows")


def _few(x: Tensor) -> Tensor:
    return x[[9, 2, 3]]


def _padded(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(len(x), 7, *x.shape[2:])], dim=1)


@check("maskings", unless=("score", "uneven", "fixed", "shared"))
def check_masking_covers_every_site_alike(subject: Subject) -> None:
    """Hides every place equally often, the border no less than the middle."""
    masking = subject.make()
    for where, asked in accepted(subject, masking, n=2048):
        if asked.valid is None:
            rate = hidden_of(masking(asked)).float().mean(0)
            mean = rate.mean()
            # Five standard errors of a proportion over 2,048 independent samples
            bound = 5 * (mean * (1 - mean) / len(asked.ids)).sqrt()
            far = (rate - mean).abs().argmax()
            require(
                (rate[far] - mean).abs() <= bound,
                f"{where}: site {int(far)} is hidden in {rate[far]:.1%} of samples, sites on average in "
                f"{mean:.1%}: tag it 'uneven' if that is meant",
            )


@check("maskings", unless=("variable-count",))
def check_masking_ratio_is_the_hidden_share(subject: Subject) -> None:
    """An option ``ratio`` is the share of sites that is hidden, not the share that is kept."""
    if "ratio" not in subject.parameters:
        raise Skip("has no option 'ratio'")
    masking = subject.make(ratio=0.25)
    for where, asked in accepted(subject, masking):
        if asked.valid is None:
            share = float(hidden_of(masking(asked)).float().mean())
            # Half a unit of the coarsest grid asked, 4 lines
            require(abs(share - 0.25) <= 0.13, f"{where}: ratio 0.25 hides {share:.0%} of the sites")


@check("maskings", when="score")
def check_masking_follows_the_score(subject: Subject) -> None:
    """Hides sites of high score rather than others; a higher score never saves a site."""
    masking = subject.make()
    for where, asked in accepted(subject, masking, n=256):
        assert asked.score is not None
        hidden = hidden_of(masking(asked)).float()
        real = torch.ones_like(asked.score, dtype=torch.bool) if asked.valid is None else asked.valid
        high, low = real & (asked.score > 2 / 3), real & (asked.score < 1 / 3)
        rates = float(hidden[high].mean()), float(hidden[low].mean())
        require(
            rates[0] > rates[1],
            f"{where}: hides {rates[0]:.0%} of sites of high score and {rates[1]:.0%} of sites of low score",
        )
        for site in (0, asked.sites // 2, asked.sites - 1):
            raised = asked.score.clone()
            raised[:, site] += 2.0
            after = hidden_of(masking(dataclasses.replace(asked, score=raised))).float()
            saved = (after[:, site] < hidden[:, site]).any()
            require(not saved, f"{where}: raising the score of site {site} made it visible")


@check("maskings", when="score")
def check_masking_asks_for_its_score(subject: Subject) -> None:
    """Refuses a request without a score with a UserError."""
    masking = subject.make()
    where, asked = next(accepted(subject, masking))
    try:
        masking(dataclasses.replace(asked, score=None))
    except UserError:
        return
    require(False, f"{where}: draws a mask without the score it is tagged to go by")


@check("maskings", unless=("learned",))
def check_masking_stops_gradient(subject: Subject) -> None:
    """Passes no gradient on to the score."""
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        if asked.score is None:
            raise Skip("goes by no score")
        mask = masking(change(asked, lambda x: x.clone().requires_grad_(), "score"))
        require(
            not mask.hidden.requires_grad,
            f"{where}: gradient flows through the mask: tag it 'learned' if meant",
        )


@check("maskings", unless=("unbounded",))
def check_masking_meets_odd_grids(subject: Subject) -> None:
    """Grids of one site, one line or two sites work or are refused with a UserError."""
    masking = subject.make()
    for grid in ODD:
        asked = request(subject, grid)
        try:
            hidden = hidden_of(masking(asked))
        except UserError:
            continue
        counts = hidden.sum(1)
        require(
            hidden.shape == (len(asked.ids), asked.sites) and ((counts > 0) & (counts < asked.sites)).all(),
            f"grid {grid}: hides {counts.tolist()} of {asked.sites} sites; hide some or raise a UserError",
        )


@check("maskings")
def check_masking_is_picklable(subject: Subject) -> None:
    """Survives pickling, as it must to reach another process."""
    masking = subject.make()
    copy = pickle.loads(pickle.dumps(masking))
    for where, asked in accepted(subject, masking):
        same = torch.equal(hidden_of(masking(asked)), hidden_of(copy(asked)))
        require(same, f"{where}: the copy draws otherwise")


@check("maskings")
def check_masking_draws_alike_on_every_device(subject: Subject) -> None:
    """Draws on the device of the ids, the same mask as on the CPU."""
    device = accelerator()
    if device is None:
        raise Skip("no accelerator here")
    masking = subject.make()
    for where, asked in accepted(subject, masking):
        there = hidden_of(masking(change(asked, lambda x: x.to(device))))
        on = there.device.type
        require(on == device.type, f"{where}: the mask is on {on}, the ids on {device.type}")
        same = torch.equal(there.cpu(), hidden_of(masking(asked)))
        require(same, f"{where}: on {device.type} it draws another mask")
