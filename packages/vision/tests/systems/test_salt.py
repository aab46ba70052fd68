"""SALT predicts what a frozen encoder makes of hidden parts of a video, and nothing moves but the student."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from polymask import Batch, Mask, Run, RunConfig, Step, Tokens, UserError, build
from polymask.data import open_data
from polymask.recipes import run_recipe
from polymask.training import fit
from polymask_vision.systems.salt import salt

FACTS = {"frames": 8, "size": (16, 16), "channels": 1}
TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 24,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "predictor_dim": 24,
    "predictor_depth": 2,
    "predictor_heads": 2,
}
STEP = Step(6, 10, seed=1)


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    options = TINY | {"teacher": "untrained"} | options
    return build("vision/salt", facts=FACTS, **options)


def clips(n: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"video": torch.randn(n, 8, 1, 16, 16, generator=generator), "id": torch.arange(n)}


def shaken(system: Any) -> Any:
    """All parameters moved, so that nothing is equal by initialisation."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked autoencoder of moving digits, hardly trained, of a width of its own."""
    folder = tmp_path_factory.mktemp("salt") / "teacher"
    config = RunConfig.resolve(
        {
            "system": "vision/mae",
            "preset": "tiny-v-pixel",
            "data": {"name": "vision/moving-digits", "limit": 24},
            "tokenizer.patch_size": 8,
            "encoder.dim": 36,
            "encoder.heads": 3,
            "steps": 3,
        }
    )
    fit(Run.create(config, folder), progress=False)
    return folder


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_loss_is_the_mean_absolute_error_of_each_family_by_hand(norm: str) -> None:
    system, batch = shaken(make(norm=norm)), clips()
    tokens = system.tokenizer(batch)
    teacher = system.teacher.module
    latents = teacher(teacher.embed(tokens.values), tokens.position)
    if norm == "layer":
        mean = latents.mean(-1, keepdim=True)
        latents = (latents - mean) / latents.var(-1, unbiased=False, keepdim=True).sqrt()
    losses = []
    for family in (0, 1):
        mask = system.draw(tokens, batch, STEP, family)
        errors = []
        for row in range(6):
            # each clip alone, without padding
            one = Mask(mask.hidden[row : row + 1])
            own = Tokens(tokens.values[row : row + 1], tokens.position[row : row + 1], tokens.grid)
            errors.append((system.predict(own, one, family)[0] - latents[row][mask.hidden[row]]).abs())
        losses.append(torch.cat(errors).mean())
    torch.testing.assert_close(system(batch, STEP)["prediction"], (losses[0] + losses[1]) / 2)
    assert abs(losses[0] - losses[1]) > 1e-4


def test_each_family_has_a_mask_token_and_the_first_is_not_used_for_the_second() -> None:
    system, batch = shaken(make()), clips()
    tokens = system.tokenizer(batch)
    assert system.predictor.mask_token.shape == (2, 24)
    mask = system.draw(tokens, batch, STEP, 1)
    system.predict(tokens, mask, 1).sum().backward()
    gradient = system.predictor.mask_token.grad
    assert gradient[1].any() and not gradient[0].any()
    assert make(masking="core/random").predictor.mask_token.shape == (24,)


def test_hidden_pixels_reach_targets_and_not_the_student() -> None:
    system, batch = shaken(make()).eval(), clips()
    tokens = system.tokenizer(batch)
    for family in (0, 1):
        mask = system.draw(tokens, batch, STEP, family)
        noise = mask.invert().fill(torch.randn_like(tokens.values), torch.zeros(1))
        changed = Tokens(tokens.values + noise, tokens.position, tokens.grid)
        other = {**batch, "video": system.tokenizer.inverse(changed.values)}
        before, after = (system.predict(x, mask, family) for x in (tokens, changed))
        assert torch.equal(before, after)
        moved = (system.latents(batch, tokens) - system.latents(other, changed)).abs().amax(-1)
        assert (moved > 1e-4).all()  # of visible tokens too: the teacher sees the whole


@pytest.mark.slow
def test_the_teacher_stays_bit_for_bit_while_the_student_learns() -> None:
    system, batch = make(**{"encoder.drop_path": 0.2}), clips()
    before = copy.deepcopy(system.teacher.state_dict())
    first = system.latents(batch, system.tokenizer(batch))
    optimiser = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], 1e-2)
    system.train()
    for index in range(100):
        optimiser.zero_grad()
        system(batch, Step(index, 100))["prediction"].backward()
        optimiser.step()
        system.after_step(Step(index, 100))
    assert not any(p.requires_grad or p.grad is not None for p in system.teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in system.teacher.state_dict().items())
    # no dropout, no drop path: the same twice, in training
    assert torch.equal(system.latents(batch, system.tokenizer(batch)), first)
    assert all(p.grad is not None and p.grad.any() for p in system.predictor.parameters())


def test_with_a_moving_teacher_it_is_vjepa_which_follows_by_its_rule() -> None:
    system, batch = make(teacher="ema", momentum=0.9), clips()
    before = copy.deepcopy(system.teacher.module.state_dict())
    assert system.backbone is system.teacher.module
    shaken(system.encoder)
    system(batch, STEP)["prediction"].backward()
    assert not any(p.grad is not None for p in system.teacher.parameters())
    system.after_step(Step(5, 10))
    for name, value in system.teacher.module.state_dict().items():
        m = 0.95
        torch.testing.assert_close(value, m * before[name] + (1 - m) * system.encoder.state_dict()[name])
    assert make().backbone is not system.teacher and make().backbone.out_dim == 24


def test_an_untrained_teacher_is_no_copy_of_the_student() -> None:
    system = make()
    student, teacher = system.encoder.state_dict(), system.teacher.module.state_dict()
    name = "vit.blocks.0.attn.qkv.weight"
    assert (student[name] - teacher[name]).abs().mean() > 0.01


def test_teacher_and_student_may_differ_in_width(teacher: Path) -> None:
    facts = {"frames": 8, "size": (32, 32), "channels": 1}
    options = TINY | {"tokenizer.patch_size": 8, "encoder.dim": 48, "teacher": str(teacher)}
    with pytest.raises(UserError, match="was trained on pixels with mean"):
        build("vision/salt", facts={**facts, "mean": (0.9,), "std": (0.05,)}, **options)
    system: Any = build("vision/salt", facts=facts, **options)
    assert system.teacher.module.out_dim == 36 and system.encoder.out_dim == 48
    data = open_data("vision/moving-digits", limit=8)
    video = torch.stack([data.split("train")[i]["video"] for i in range(8)])
    batch = {"video": video, "id": torch.arange(8)}
    tokens = system.tokenizer(batch)
    prediction = system.predict(tokens, system.draw(tokens, batch, STEP))
    assert prediction.shape[-1] == 36 and system.encode(batch).values.shape[-1] == 48
    # the latents are those that the run itself gives, its last norm included
    own = Run.open(teacher).system.encode(batch).values
    torch.testing.assert_close(system.latents(batch, tokens), F.layer_norm(own, (36,)))


def test_a_student_whose_teacher_has_gone_says_whose_it_was(tmp_path: Path) -> None:
    options = {"data": {"name": "vision/moving-digits", "limit": 24}, "preset": "tiny", "steps": 1}
    given = {"system": "vision/salt", "teacher": "untrained", **options}
    run = Run.create(RunConfig.resolve(given), tmp_path / "student")
    fit(run, progress=False)
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("teacher: untrained", "teacher: gone/teacher"))
    with pytest.raises(UserError, match=r"student cannot be built again: gone.teacher is no run folder"):
        Run.open(run.folder)


def test_what_cannot_teach_is_refused(teacher: Path) -> None:
    with pytest.raises(UserError, match="needs a frozen teacher"):
        make(teacher=None)
    with pytest.raises(UserError, match="on a grid of"):
        make(teacher=str(teacher))
    with pytest.raises(UserError, match="layer . none"):
        make(norm="batch")
    pixels = make(target="vision/pixels", norm="none")
    assert pixels.teacher is None and pixels(clips(), STEP)["prediction"].isfinite()


def learned(targets_of: Any, steps: int = 220) -> tuple[float, float, float, Any]:
    """Held-out loss, that of the best constant of each position, and the spread of student features.

    Args:
        targets_of: which sample's targets each sample gets, from a number of samples.
        steps: of training.
    """
    data = open_data("vision/moving-digits", size=16, frames=4)
    samples = {name: data.split(name) for name in ("train", "test")}
    video = {
        name: torch.stack([found[i]["video"] for i in range(0, len(found), 3)])
        for name, found in samples.items()
    }
    facts = {"frames": 4, "size": (16, 16), "channels": 1}
    torch.manual_seed(0)
    system: Any = build("vision/salt", facts=facts, **(TINY | {"teacher": "untrained"}))
    own = system.latents
    system.latents = lambda batch, tokens: own(batch, tokens)[targets_of(len(batch["id"]))]
    optimiser = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], 3e-3)
    for index in range(steps):
        rows = torch.randperm(len(video["train"]), generator=torch.Generator().manual_seed(index))[:32]
        optimiser.zero_grad()
        system({"video": video["train"][rows], "id": rows}, Step(index, steps))["prediction"].backward()
        optimiser.step()
    held = {"video": video["test"], "id": torch.arange(len(video["test"]))}
    system.eval()
    with torch.no_grad():
        loss = float(system(held, Step(steps, steps)).pop("prediction"))
        tokens = system.tokenizer(held)
        latents = system.latents(held, tokens)
        constant = latents.median(0).values
        costs = []
        for family in (0, 1):
            mask = system.draw(tokens, held, Step(steps, steps), family)
            costs.append((latents - constant).abs().mean(-1)[mask.hidden].mean())
        spread = float(system.encode(held).pool().std(0).mean())
    return loss, float(torch.stack(costs).mean()), spread, system


@pytest.mark.slow
def test_the_loss_falls_below_the_best_constant_of_each_position_and_features_do_not_collapse() -> None:
    loss, constant, spread, _ = learned(lambda n: torch.arange(n))
    assert loss < 0.93 * constant
    assert spread > 0.05


@pytest.mark.slow
def test_with_the_targets_of_another_clip_nothing_is_learned_beyond_positions() -> None:
    loss, constant, _, _ = learned(lambda n: (torch.arange(n) + 1) % n)
    assert loss > 0.98 * constant


def test_in_the_truncated_mode_the_last_times_leave_the_context() -> None:
    whole, cut = make(), make(**{"masking.counts": "truncated"})
    batch = clips(24)
    seen = {}
    for name, system in (("whole", whole), ("cut", cut)):
        shares = []
        for index in range(20):
            for found in system.masks(batch, Step(index, 20)).values():
                shares.append(found.mask.invert().hidden.view(24, 4, 16).float().mean((0, 2)))
        seen[name] = torch.stack(shares).mean(0)
        assert system(batch, STEP)["prediction"].isfinite()
    assert (seen["whole"] - seen["whole"][0]).abs().max() < 1e-6
    assert seen["cut"][-1] < 0.5 * seen["whole"][-1] and seen["cut"][0] > 0.8 * seen["whole"][0]


def test_the_preview_shows_both_families_as_clips() -> None:
    media = make().preview(clips(2), STEP).media
    assert [name.partition(":")[0] for name in media] == ["original", *["family 1"] * 2, *["family 2"] * 2]
    assert all(x.shape == (2, 8, 1, 16, 16) for x in media.values())


def test_images_are_tokens_too() -> None:
    torch.manual_seed(0)
    facts = {"size": (16, 16), "channels": 3}
    system: Any = build(
        "vision/salt", facts=facts, **(TINY | {"tokenizer": "vision/patches", "teacher": "untrained"})
    )
    loss = system(system.example(4), STEP)["prediction"]
    loss.backward()
    assert loss.isfinite()


def test_a_recipe_that_cannot_be_is_refused() -> None:
    stage: Any = None
    with pytest.raises(UserError, match="no preset 'nope'; it has paper"):
        salt(stage, preset="nope")
    with pytest.raises(UserError, match="leaves the student no steps"):
        salt(stage, share=1.0)


def test_the_recipe_trains_a_teacher_with_its_share_of_the_steps_then_a_student(tmp_path: Path) -> None:
    data = {"name": "vision/moving-digits", "limit": 120, "size": 16}
    done = run_recipe(
        "vision/salt", data, tmp_path / "r", options={"preset": "tiny", "steps": 12}, progress=False
    )
    teacher, student = done.done
    assert (teacher.step, student.step) == (2, 10)
    assert teacher.system.families == student.system.families == 2
    own = teacher.system.encoder.state_dict()
    theirs = student.system.teacher.module.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    again = run_recipe(
        "vision/salt", data, tmp_path / "r", options={"preset": "tiny", "steps": 12}, progress=False
    )
    assert again.done[1].step == 10
