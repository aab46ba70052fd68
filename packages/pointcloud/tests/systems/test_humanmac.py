"""HumanMAC: a diffusion model of cosines of motion, and what completes by it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.fft
import torch
from torch import Tensor, nn

from polymask import Mask, Step, UserError, build, default_registry
from polymask.nn.diffusion import times_of
from polymask_pointcloud.systems.humanmac import HumanMAC, cosines, hold, visible

FACTS = {"frames": 20, "joints": 5}
STEP = Step(3, 100, 0)


def system(**options: Any) -> HumanMAC:
    torch.manual_seed(0)
    made: HumanMAC = build("pointcloud/humanmac", preset="tiny", facts=FACTS, **options)
    return made.eval()


def moved(model: HumanMAC, scale: float = 0.05) -> HumanMAC:
    """The same with weights that are not 0 anywhere, in the average too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn_like(p))
    return model


def batch_of(n: int = 4, seed: int = 0) -> dict[str, Tensor]:
    return {**system().example(n, seed), "id": torch.arange(n) * 7 + 1}


def past(n: int, share: float = 0.5) -> Mask:
    """The first frames are visible, over joints of frames."""
    hidden = torch.ones(n, 20, 5, dtype=torch.bool)
    hidden[:, : round(20 * share)] = False
    return Mask(hidden.flatten(1))


# ------------------------------------------------------------------ transform


def test_the_transform_is_the_orthonormal_dct_of_scipy() -> None:
    x = torch.randn(50, 3, dtype=torch.float64)
    wanted = scipy.fft.dct(x.numpy(), axis=0, norm="ortho")
    assert torch.allclose(cosines(50, 50).double() @ x, torch.from_numpy(wanted), atol=1e-5)


def test_a_smooth_motion_survives_a_sixth_of_its_cosines() -> None:
    kept = cosines(20, 125).double()
    assert torch.allclose(kept @ kept.T, torch.eye(20, dtype=torch.float64), atol=1e-6)
    t = torch.arange(125, dtype=torch.float64)[:, None] / 50
    x = 0.4 + 0.3 * torch.sin(math.pi * t) * torch.tensor([[1.0, 0.5]])
    assert float((kept.T @ (kept @ x) - x).norm() / x.norm()) < 0.01


def test_a_past_fixes_about_four_of_twenty_coefficients() -> None:
    """Eigenvalues of the operator of completion, as the sheet of the method has them."""
    kept = cosines(20, 125).double()
    found = torch.linalg.eigvalsh(kept @ torch.diag((torch.arange(125) < 25).double()) @ kept.T).flip(0)
    assert found[:6].tolist() == pytest.approx([1, 1, 0.999, 0.914, 0.227, 0.004], abs=1e-3)
    assert float(found.sum()) == pytest.approx(4.14, abs=0.01)


def test_there_are_no_more_cosines_than_frames() -> None:
    with pytest.raises(UserError, match="a motion of 20 frames has 1 to 20 coefficients, got 21"):
        system(coefficients=21)


# ----------------------------------------------------------------- observation


def test_what_is_hidden_is_held_where_it_was_seen_last() -> None:
    x = torch.arange(1.0, 7)[None, :, None].expand(1, 6, 4) * torch.tensor([1.0, 10, 100, 1000])
    seen = torch.zeros(1, 6, 4, dtype=torch.bool)
    seen[0, :2, 0] = True  # a past
    seen[0, [1, 4], 1] = True  # a frame between, and one before which nothing is seen
    seen[0, :, 2] = True  # all
    held = hold(x, seen)[0].T.tolist()
    assert held == [[1, 2, 2, 2, 2, 2], [20, 20, 20, 20, 50, 50], [100, 200, 300, 400, 500, 600], [0] * 6]


def test_a_mask_is_over_frames_or_over_their_joints() -> None:
    motion = torch.zeros(1, 2, 6)
    frames = visible(Mask(torch.tensor([[False, True]])), motion)
    joints = visible(Mask(torch.tensor([[False, True, True, True]])), motion)
    assert frames.int().tolist() == [[[1] * 6, [0] * 6]]
    assert joints.int().tolist() == [[[1, 1, 1, 0, 0, 0], [0] * 6]]


def test_tokens_of_frames_give_the_same_loss_as_tokens_of_joints() -> None:
    one, other = system(), system(tokenizer="pointcloud/frames")
    other.load_state_dict(one.state_dict())
    batch = batch_of()
    assert torch.equal(one(batch, STEP)["noise"], other(batch, STEP)["noise"])


def test_the_hidden_part_reaches_the_network_by_its_noised_coefficients_alone() -> None:
    """What the network is told of an observation does not depend on what is hidden."""
    model, batch = moved(system()), batch_of()
    mask = past(4)
    one = model.seen(batch["motion"].flatten(2), mask)
    batch["motion"][:, 10:] += 1
    assert torch.equal(one, model.seen(batch["motion"].flatten(2), mask))
    batch["motion"][:, 9] += 1
    assert not torch.allclose(one, model.seen(batch["motion"].flatten(2), mask))


# -------------------------------------------------------------------- training


def test_the_untrained_network_guesses_zero_and_pays_one() -> None:
    model, batch = system(), batch_of(64)
    assert float(model(batch, STEP)["noise"].detach()) == pytest.approx(1, abs=0.03)
    y, told = torch.randn(64, 8, 15), torch.ones(64, dtype=torch.bool)
    guess = model.predict(model.network(), y, torch.full((64,), 50), y, told)
    assert not guess.any()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model(batch, STEP)["noise"].backward()
    optimizer.step()
    assert model.predict(model.network(), y, torch.full((64,), 50), y, told).any()


def test_a_share_of_samples_is_not_told_what_is_seen() -> None:
    """Gradient reaches the map of observations from those told alone, and their share is that asked for."""
    share = system(told=0.3)
    told: list[Tensor] = []
    predict = share.predict

    def spied(network: Any, y: Tensor, time: Tensor, seen: Tensor, which: Tensor) -> Tensor:
        told.append(which)
        return predict(network, y, time, seen, which)

    share.predict = spied  # type: ignore[method-assign]
    share(batch_of(2000), STEP)
    assert float(told[0].float().mean()) == pytest.approx(0.3, abs=0.05)
    for chance, reached in ((0.0, False), (1.0, True)):
        model = moved(system(told=chance))
        model(batch_of(), STEP)["noise"].backward()
        gradient = model.observation.weight.grad
        assert gradient is not None and bool(gradient.any()) == reached


def test_times_are_uniform_and_clean_motion_is_never_shown() -> None:
    model, times = system(), list[Tensor]()

    class Spy(nn.Module):
        def forward(self, time: Tensor) -> Tensor:
            times.append(time)
            return torch.zeros(len(time), model.encoder.dim)

    encoder: Any = model.encoder
    condition = encoder.condition
    encoder.condition = lambda time, other=None: condition((times.append(time), time)[1], other)
    model(batch_of(4000), STEP)
    (time,) = times
    assert (int(time.min()), int(time.max())) == (1, 200)
    assert float(time.float().mean()) == pytest.approx(100.5, abs=4)


def test_the_average_copies_first_and_then_follows() -> None:
    model = system(copy_until=2, momentum=0.9)
    head, kept = model.head.bias, model.average.module
    for index, value in enumerate((1.0, 2.0, 3.0, 4.0)):
        with torch.no_grad():
            head.fill_(value)
        model.after_step(Step(index, 100))
    average = dict(kept.named_parameters())["2.bias"]
    assert average.tolist() == pytest.approx([0.9 * (0.9 * 2 + 0.1 * 3) + 0.1 * 4] * 15)


def test_an_encoder_that_cannot_be_told_is_refused() -> None:
    model = system()
    encoder = nn.Identity()
    with pytest.raises(UserError, match="Identity cannot be told: use pointcloud/stylised"):
        HumanMAC(tokenizer=model.tokenizer, encoder=encoder, masking=model.masking, objective=model.objective)  # type: ignore[arg-type]


# ------------------------------------------------------------------ completion


def raw(model: HumanMAC, batch: dict[str, Tensor], mask: Mask | None, **options: Any) -> Tensor:
    """What is generated, before what is visible is put back."""
    found: list[Tensor] = []
    real = torch.where

    def where(*given: Any) -> Tensor:
        out = real(*given)
        if (
            len(given) == 3
            and isinstance(given[2], Tensor)
            and given[2].shape == batch["motion"].flatten(2).shape
        ):
            found.append(given[2])
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "where", where)
        model.generate(batch, STEP, mask, **options)
    return found[-1]


def test_all_visible_ends_as_the_observation_whatever_the_network() -> None:
    model, batch = moved(system(), 0.3), batch_of()
    nothing = Mask(torch.zeros(4, 100, dtype=torch.bool))
    smooth = model.cosines.T @ (model.cosines @ batch["motion"].flatten(2))
    assert torch.allclose(raw(model, batch, nothing), smooth, atol=1e-4)
    assert not torch.allclose(raw(model, batch, nothing, complete=False), smooth, atol=0.5)


def test_what_is_set_is_noised_in_coefficients_at_the_level_of_the_state() -> None:
    model, batch = moved(system()), batch_of(64)
    found = model.generate(batch, STEP, Mask(torch.zeros(64, 100, dtype=torch.bool)), steps=16)
    y = model.cosines @ batch["motion"].flatten(2)
    times = times_of(199, 16)
    for k in (4, 8, 12):
        level = float(model.signal[times[k]])
        noise = (model.cosines @ found.frames[k]["motion"].flatten(2) - level**0.5 * y) / (1 - level) ** 0.5
        assert abs(float(noise.mean())) < 0.05 and float(noise.std()) == pytest.approx(1, abs=0.05)


def test_nothing_visible_is_as_no_mask_and_does_not_depend_on_the_motion() -> None:
    model, batch = moved(system()), batch_of()
    everything = Mask(torch.ones(4, 100, dtype=torch.bool))
    free = model.generate(batch, STEP, everything, told=0.0).samples["motion"]
    assert torch.allclose(free, model.generate(batch, STEP).samples["motion"], rtol=1e-3, atol=1e-2)
    other = {**batch, "motion": batch["motion"] + 1}
    assert torch.equal(free, model.generate(other, STEP, everything, told=0.0).samples["motion"])


def test_the_mask_acts_in_time_and_the_state_stays_in_coefficients() -> None:
    """Each state is in the span of the cosines, and the known part of it is the observation at its level."""
    model, batch = moved(system()), batch_of()
    mask = past(4)
    seen = visible(mask, batch["motion"].flatten(2))
    whole, free = raw(model, batch, mask), raw(model, batch, mask, complete=False)
    kept = model.cosines
    assert torch.allclose(kept.T @ (kept @ whole), whole, atol=1e-3)
    truth = batch["motion"].flatten(2)
    error = {
        name: (x - truth)[seen].square().mean().sqrt() for name, x in {"set": whole, "free": free}.items()
    }
    assert error["set"] < 0.1 * error["free"], error


def test_a_joint_that_is_seen_stays_and_others_differ_from_future_to_future() -> None:
    model, batch = moved(system()), batch_of()
    hidden = torch.ones(4, 20, 5, dtype=torch.bool)
    hidden[:, :, 2] = hidden[:, :4] = False
    mask = Mask(hidden.flatten(1))
    one, other = (model.generate(batch, Step(0, 1, seed), mask).samples["motion"] for seed in (0, 1))
    assert torch.equal(one[:, :, 2], batch["motion"][:, :, 2])
    assert torch.equal(one[:, :4], other[:, :4])
    assert bool(((one - other)[:, 4:, [0, 1, 3, 4]].abs() > 1e-3).any(dim=(1, 3)).all())


def test_the_average_generates() -> None:
    model, batch = moved(system()), batch_of()
    before = model.generate(batch, STEP, past(4)).samples["motion"]
    with torch.no_grad():
        model.head.weight.add_(1.0)
    assert torch.equal(before, model.generate(batch, STEP, past(4)).samples["motion"])
    model.after_step(Step(0, 100))
    assert not torch.allclose(before, model.generate(batch, STEP, past(4)).samples["motion"])


def test_the_last_times_are_left_out_where_errors_would_explode() -> None:
    """The untrained network, whose guess is 0, ends within what the first level makes of noise."""
    model, batch = system(times=1000), batch_of()
    made = model.generate(batch, STEP).samples["motion"]
    scale = float(model.signal[992]) ** -0.5
    assert scale < 100 < float(model.signal[1000]) ** -0.5
    assert float(made.square().mean().sqrt()) < scale * 1.2


def test_more_steps_than_levels_are_refused() -> None:
    with pytest.raises(UserError, match="sampling takes 1 to 199 steps"):
        system().generate(batch_of(), STEP, steps=300)


def test_frames_of_the_film_begin_with_noise_and_end_with_the_sample() -> None:
    found = system().generate(batch_of(), STEP, past(4))
    assert len(found.frames) == 17
    assert torch.equal(found.frames[-1]["motion"], found.samples["motion"])


@pytest.mark.slow
def test_a_learned_swing_is_completed_better_than_held() -> None:
    """Two minutes of the sheet in two seconds: one swing of any phase, whose future its past tells."""
    torch.manual_seed(0)
    model = build(
        "pointcloud/humanmac",
        preset="tiny",
        facts={"frames": 16, "joints": 1},
        **{"coefficients": 8, "copy_until": 1000, "told": 1.0, "masking.past": 0.5, "encoder.dim": 48},
    )
    time = torch.arange(16) / 16

    def swings(index: int) -> dict[str, Tensor]:
        ids = torch.arange(64) + 64 * index
        phase = Step(seed=5).noise(ids, 1)[:, :1]
        x = torch.sin(2 * math.pi * (time + phase))
        return {
            "motion": torch.stack([x, 0 * x, torch.cos(2 * math.pi * (time + phase))], -1)[:, :, None],
            "id": ids,
        }

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for index in range(250):
        loss = model(swings(index), Step(index, 250))["noise"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step(Step(index, 250))
    model.eval()
    batch, hidden = swings(1000), (torch.arange(16) >= 8).expand(64, -1)
    made = model.generate(batch, STEP, Mask(hidden), steps=25).samples["motion"]
    held = hold(batch["motion"].flatten(2), ~hidden[..., None].expand(-1, -1, 3)).view_as(made)
    error, rival = ((x - batch["motion"])[:, 8:].norm(dim=-1).mean() for x in (made, held))
    assert float(error) < 0.5 * float(rival)


# ---------------------------------------------------------------------- recipe


def test_the_published_recipe() -> None:
    part = default_registry().find("systems", "pointcloud/humanmac")
    paper, eva = part.presets["paper"], part.presets["paper-humaneva"]
    shared = {"encoder.dim": 512, "encoder.heads": 8, "masking.past": 0.2, "batch_size": 64, "lr": 3e-4}
    assert shared.items() <= paper.items() and shared.items() <= eva.items()
    assert (paper["data.frames"], paper["coefficients"], paper["encoder.depth"], paper["told"]) == (
        125,
        20,
        8,
        0.8,
    )
    assert (eva["data.frames"], eva["coefficients"], eva["encoder.depth"], eva["told"]) == (75, 10, 4, 1.0)
    model = build("pointcloud/humanmac", preset="paper", facts={"frames": 125, "joints": 16})
    assert (model.times, model.average.copy_until, model.average.momentum(Step(2000, 10**6))) == (
        1000,
        2000,
        0.995,
    )
    block: Any = model.encoder
    assert (block.blocks[0].mlp[0].out_features, block.blocks[0].dropout) == (1024, 0.2)
    assert block.blocks[0].qkv.bias is None
