"""Codes are learned from which whole poses can be read, with joints hidden or not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from polymask import Batch, Mask, Run, RunConfig, Step, UserError, build
from polymask.training import fit
from polymask_vision.datasets.camera_poses import camera_poses
from polymask_vision.poses import SEEN
from polymask_vision.stick_figures import storyboards
from polymask_vision.systems.pose_tokenizer import PoseTokenizer

FACTS = {"frames": 3, "persons": 2, "joints": 17, "views": 2}
TINY = {
    "codes": 16,
    "pose_tokens": 4,
    "dim": 12,
    "depth": 1,
    "decoder_dim": 8,
    "token_hidden": 8,
    "channel_hidden": 16,
}
STEP = Step(6, 10, seed=1)
SIZE = {"token_hidden": 16, "channel_hidden": 32, "commitment": 1.0}
"""Of what learns in a hundred steps; under PCT's commitment, 15, that takes several times as long."""


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return build("vision/pose-tokenizer", facts=FACTS, **(TINY | options))


def shaken(system: Any) -> Any:
    """All parameters moved, so that nothing is equal by initialisation."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def windows(system: Any, n: int = 4) -> Batch:
    return {**system.tokenizer.example(n), "id": torch.arange(n)}


def test_losses_are_those_of_pct_by_hand() -> None:
    system = shaken(make())
    batch = windows(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    shown = (tokens.real & ~mask.hidden).view(-1, 17)
    joints, real = tokens.values.view(-1, 17, 2), tokens.real.view(-1, 17)
    z = system.coder.points(joints, shown)
    code = system.coder.codebook.book[
        torch.cdist(z, system.coder.codebook.book.expand(len(z), -1, -1)).argmin(-1)
    ]
    guess = system.coder.decode(code)
    losses = system(batch, STEP)
    # of all joints that are seen, hidden ones too; of persons who are there
    expected = F.smooth_l1_loss(guess[real], joints[real], beta=0.05)
    torch.testing.assert_close(losses["joints"], expected)
    there = real.any(-1)
    assert not there.all()
    torch.testing.assert_close(losses["commitment"], 15 * (z - code)[there].square().mean())


def test_gradient_passes_the_choice_and_the_commitment_draws_vectors_to_codes() -> None:
    system = shaken(make())
    batch = windows(system)
    for name in ("joints", "commitment"):
        system.zero_grad()
        system(batch, STEP)[name].backward()
        assert system.coder.embed.weight.grad.any() and system.coder.unseen.grad.any()
        assert (system.coder.head.weight.grad is not None) == (name == "joints")
    tokens = system.tokenizer(batch)
    z = system.points(tokens).detach().requires_grad_()
    code = system.coder.vectors(system.coder.codebook.nearest(z))
    system.points = lambda *args: z
    system(batch, STEP)["commitment"].backward()
    there = tokens.real.view(-1, 17).any(-1)
    wanted = torch.where(there[:, None, None], 2 * 15 * (z - code) / (there.sum() * z[0].numel()), 0)
    torch.testing.assert_close(z.grad, wanted.detach())


def test_codes_move_in_training_alone_by_persons_who_are_seen() -> None:
    system = make()
    batch = windows(system)
    before = system.coder.codebook.book.clone()
    with torch.no_grad():
        system(batch, STEP)
    system.after_step(STEP)
    system.eval()(batch, STEP)
    system.after_step(STEP)
    assert torch.equal(system.coder.codebook.book, before)
    system.coder.codebook.restart = 0.0
    system.train()(batch, STEP)
    system.after_step(STEP)
    assert not torch.equal(system.coder.codebook.book, before)
    tokens = system.tokenizer(batch)
    there = tokens.real.view(-1, 17).any(-1)
    assert 0 < there.sum() < len(there)
    points = system.points(tokens, system.draw(tokens, batch, STEP))
    chosen = torch.cdist(points, before.expand(len(points), -1, -1)).argmin(-1)
    # a tenth of what chose
    count = system.coder.codebook.count
    torch.testing.assert_close(count, 0.1 * chosen[there].flatten().bincount(minlength=16))


def test_joints_that_are_hidden_or_not_seen_do_not_reach_codes() -> None:
    system = shaken(make()).eval()
    batch = windows(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    assert (
        0.15 < float(mask.hidden.sum() / tokens.real.sum()) < 0.25 and not (mask.hidden & ~tokens.real).any()
    )
    other = type(tokens)(mask.fill(tokens.values, torch.tensor(9.0)), tokens.position, valid=tokens.valid)
    assert torch.equal(system.points(tokens, mask), system.points(other, mask))
    assert not torch.equal(system.points(tokens), system.points(other))
    assert torch.equal(system.read(tokens, mask), system.read(other, mask))
    nothing = Mask(torch.zeros_like(mask.hidden), valid=tokens.valid)
    assert torch.equal(system.points(tokens), system.points(tokens, nothing))
    moved = {**batch, "pose": torch.where(batch[SEEN][..., None] > 0, batch["pose"], 7.0)}
    assert torch.equal(system.encode(moved).values, system.encode(batch).values)


def test_features_are_of_persons_who_are_seen() -> None:
    system = make().eval()
    batch = windows(system)
    tokens = system.encode(batch)
    assert tokens.values.shape == (4, 12, 48) and torch.equal(
        tokens.real.view(4, 2, 3, 2), batch[SEEN].any(-1)
    )
    assert tokens.position.shape == (4, 12, 3) and tokens.position[0, 7].tolist() == [1.0, 0.0, 1.0]


def test_reports_tell_joints_that_were_hidden_from_others() -> None:
    system = shaken(make()).eval()
    batch = windows(system)
    system.coder.codebook.count.copy_(torch.tensor([3.0, 3.0] + 14 * [0.0]))
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    found, off = system.monitor(batch, STEP), system.read(tokens, mask) - tokens.values
    for name, which in (("visible", tokens.real & ~mask.hidden), ("hidden", mask.hidden)):
        torch.testing.assert_close(found[f"error of {name} joints"], off[which].norm(dim=1).mean().detach())
    assert found["codes in use"] == pytest.approx(2)
    # poses that are read off perfectly are drawn where they are, and nobody else is
    whole = {**batch, SEEN: batch[SEEN].any(-1, keepdim=True).expand_as(batch[SEEN]).long()}
    system.read = lambda tokens, mask: tokens.values
    media = system.preview(whole, STEP).media
    torch.testing.assert_close(media["read off their codes"], media["poses"], atol=1e-3, rtol=0)
    hidden = system.draw(system.tokenizer(whole), whole, STEP).hidden.view_as(whole[SEEN])
    assert torch.equal(
        media["limbs with visible joints"], storyboards(whole["pose"], (whole[SEEN] > 0) & ~hidden)
    )


def test_options_reach_the_coder() -> None:
    system = build("vision/pose-tokenizer", facts={**FACTS, "joints": 5}, **(TINY | {"depth": 2}))
    assert system.coder.joints == 5 and len(system.coder.encoder) == 2
    coder = make(decoder_depth=3, decay=0.5).coder
    assert len(coder.decoder) == 3 and coder.codebook.decay == 0.5
    assert coder.encoder[0].across[0].out_features == 8 and coder.encoder[0].within[0].out_features == 16


def test_tokens_of_persons_and_masks_of_parts_are_refused() -> None:
    with pytest.raises(UserError, match="--tokenizer.each joint"):
        make(**{"tokenizer.each": "person"})
    points = SimpleNamespace(provides={"in_dim": 2})
    with pytest.raises(UserError, match="makes tokens of 2 numbers"):
        PoseTokenizer(tokenizer=points, masking=make().masking, objective=make().objective)  # type: ignore[arg-type]
    soft = make()
    soft.masking = lambda request: Mask(torch.full((4, request.sites), 0.5))
    with pytest.raises(UserError, match="hides them in part"):
        soft(windows(soft), STEP)


@pytest.mark.slow
def test_poses_are_read_off_their_codes_far_better_than_guessed_and_hidden_joints_too() -> None:
    source = camera_poses(windows=64, test_windows=16, noise=0.0, missing=0.1).train.source
    # two of the eight times
    poses = [[x[:, ::4] for x in source.poses(i, 2)] for i in range(80)]
    batch = {"pose": torch.stack([p for p, _ in poses]), SEEN: torch.stack([s for _, s in poses]).long()}
    facts = {"frames": 2, "persons": 3, "joints": 17, "views": 2}
    errors = {}
    for tokens_each in (8, 1):
        torch.manual_seed(0)
        system: Any = build(
            "vision/pose-tokenizer",
            facts=facts,
            **(TINY | {"codes": 32, "pose_tokens": tokens_each, "dim": 32, "decoder_dim": 16} | SIZE),
        )
        assert isinstance(system, PoseTokenizer)
        optimiser = torch.optim.AdamW(system.parameters(), 1e-2)
        for index in range(100):
            rows = torch.randperm(64, generator=torch.Generator().manual_seed(index))[:16]
            optimiser.zero_grad()
            step = Step(index, 100)
            part = {**{key: value[rows] for key, value in batch.items()}, "id": rows}
            torch.autograd.backward(list(system(part, step).values()))
            optimiser.step()
            system.after_step(step)
        system.eval()
        held = {**{key: value[64:] for key, value in batch.items()}, "id": torch.arange(64, 80)}
        tokens = system.tokenizer(held)
        mask = system.draw(tokens, held, Step(100, 100))
        train = system.tokenizer({key: value[:64] for key, value in batch.items()})
        joints, real = train.values.view(-1, 17, 2), train.real.view(-1, 17, 1)
        mean = torch.where(real, joints, 0).sum(0) / real.sum(0)
        with torch.no_grad():
            off = (system.read(tokens, mask) - tokens.values).norm(dim=-1)
        guess = (mean.repeat(len(off[0]) // 17, 1) - tokens.values).norm(dim=-1)
        errors[tokens_each] = [
            float(Mask(real).mean(x))
            for real in (tokens.real & ~mask.hidden, mask.hidden)
            for x in (off, guess)
        ]
        assert system.coder.codebook.perplexity > 0.1 * 32
    (seen, mean_pose, hidden, mean_hidden), (one_code, *_) = errors[8], errors[1]
    assert seen < 0.6 * mean_pose and hidden < 0.7 * mean_hidden and seen < 0.9 * one_code, errors


def test_a_run_names_poses_for_other_systems(tmp_path: Any) -> None:
    data = {"name": "vision/camera-poses", "windows": 16, "test_windows": 8, "size": 16}
    config = {"system": "vision/pose-tokenizer", "preset": "tiny", "data": data, "steps": 2}
    run = Run.create(RunConfig.resolve(config), tmp_path / "run")
    fit(run, progress=False)
    options = {"run": str(tmp_path / "run")}
    tokenizer: Any = build("vision/pose-tokens", "tokenizers", facts=run.facts, **options)
    coder: Any = run.system.coder
    assert torch.equal(tokenizer.coder.codebook.book, coder.codebook.book)
    assert tokenizer.provides["in_dim"] == 4 * 16 + 3
    with pytest.raises(UserError, match="17 joints, and these have 5"):
        build("vision/pose-codes", "targets", joints=5, **options)
    mae = {
        "system": "vision/mae",
        "preset": "tiny",
        "data": {"name": "vision/digits", "limit": 8},
        "steps": 1,
    }
    fit(Run.create(RunConfig.resolve(mae), tmp_path / "mae"), progress=False)
    with pytest.raises(UserError, match="no run of vision/pose-tokenizer"):
        build("vision/pose-tokens", "tokenizers", facts=run.facts, run=str(tmp_path / "mae"))
