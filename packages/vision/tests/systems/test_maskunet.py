"""MaskUNet draws, for each sample and time, which weights of a frozen denoiser are switched off."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, Request, Run, Step, UserError, build
from polymask.maskings import Gumbel
from polymask.recipes import run_recipe
from polymask_vision.weights import masked_weights

FACTS = {"size": (8, 8), "channels": 1, "mean": (0.5,), "std": (0.5,)}
STEP = Step(6, 10, seed=1)


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return build("vision/maskunet", preset="tiny", facts=FACTS, **options)


def images(n: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, 1, 8, 8, generator=generator), "id": torch.arange(n) * 3 + 1}


def drawn(system: Any, batch: Batch, step: Step = STEP) -> Tensor:
    with torch.no_grad(), system.masked(batch, step) as masks:
        system.host(batch, step)
    return torch.cat([mask.hidden.float() for mask in masks.values()], dim=1)


def logits(system: Any, batch: Batch, step: Step = STEP) -> Tensor:
    """What masks are drawn from, in a forward: they depend on image and time alone."""
    found: list[Tensor] = []

    class Spy(Gumbel):
        def __call__(self, request: Request) -> Any:
            assert request.score is not None
            found.append(request.score.detach())
            return super().__call__(request)

    with mock.patch.object(system, "masking", Spy(largest=False)):
        drawn(system, batch, step)
    return torch.cat(found, dim=1)


def terms(system: Any, batch: Batch, step: Step = STEP) -> Tensor:
    return torch.stack(list(system(batch, step).values())).sum()


def test_with_all_weights_on_it_is_its_host_to_the_bit() -> None:
    system, batch = make(start=40.0, reference_init=True), images()
    assert not drawn(system, batch).any()
    with torch.no_grad():
        assert torch.equal(terms(system, batch), terms(system.host, batch))
        made = system.generate(batch, STEP, steps=3).samples["image"]
        assert torch.equal(made, system.host.generate(batch, STEP, steps=3).samples["image"])


def test_afterwards_the_host_is_as_it_was() -> None:
    system, batch = make(), images()
    before = copy.deepcopy(system.host.state_dict())
    plain = terms(system.host, batch).detach()
    terms(system, batch).backward()
    assert not torch.equal(terms(system, batch).detach(), plain)
    assert torch.equal(terms(system.host, batch).detach(), plain)
    assert all(torch.equal(before[k], v) for k, v in system.host.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in system.host.parameters())
    assert not any("forward" in vars(module) for module in system.host.modules())


@pytest.mark.parametrize("start", [-1.0, 0.0, 1.0])
def test_weights_stay_by_the_law_of_one_gumbel_number(start: float) -> None:
    """Both biases begin at the same number; without maps the sum of logits is that of the second."""
    system, batch = make(start=start, reference_init=True), images(16)
    hidden = drawn(system, batch)
    law = math.exp(-math.exp(start))
    assert abs(float(hidden.mean()) - law) < 5 * math.sqrt(0.25 / hidden.numel())
    assert torch.equal(logits(system, batch), torch.full_like(hidden, start))


def gradients(system: Any, batch: Batch) -> dict[str, float]:
    system.zero_grad()
    terms(system, batch).backward()
    return {n: float(p.grad.norm()) for n, p in system.named_parameters() if p.requires_grad}


def test_gradient_reaches_every_part_of_the_generator() -> None:
    assert all(norm > 0 for norm in gradients(make(), images()).values())
    assert all(norm > 0 for norm in gradients(make(where="all"), images()).values())


def test_a_grid_below_0_still_learns_where_the_published_one_is_dead() -> None:
    for reference in (False, True):
        system = make(reference_init=reference)
        for generator in system.generators:
            nn.init.constant_(generator.second.bias, -9.0)
            for adapter in generator.adapters:
                nn.init.normal_(adapter.rows)
                nn.init.normal_(adapter.columns)
        found = gradients(system, images())
        assert all((norm == 0) == reference for name, norm in found.items() if "second." in name)


def test_features_are_those_of_the_masked_host_which_stays_in_eval_mode() -> None:
    batch = images()
    for start, alike in ((40.0, True), (-1.0, False)):
        system = make(start=start, reference_init=True, where="all").train()
        assert system.training and not any(part.training for part in system.host.modules())
        with torch.no_grad():
            same = torch.equal(system.encode(batch).values, system.host.encode(batch).values)
        assert same == alike


def test_the_published_generator_is_dead_and_stays_so() -> None:
    """Its last ReLU is at 0 and the maps behind it are 0, so that training moves what is the same for all."""
    system, batch = make(reference_init=True), images()
    dead = ("told.", "first.", "second.", ".rows")
    optimizer = torch.optim.AdamW(
        [p for p in system.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0
    )
    before = copy.deepcopy(system.state_dict())
    for index in range(20):
        found = gradients(system, {**batch, "id": batch["id"] + index})
        assert all(norm == 0 for name, norm in found.items() if any(part in name for part in dead))
        optimizer.step()
    moved = {name for name, x in system.state_dict().items() if not torch.equal(x, before[name])}
    assert moved and not any(part in name for name in moved for part in dead)
    (first, *others) = logits(system, batch)
    assert all(torch.equal(first, other) for other in others)


def test_masks_depend_on_the_image_and_on_time_and_only_by_the_generator() -> None:
    system, batch = make(), images()
    optimizer = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=1e-2)
    for index in range(20):
        gradients(system, {**batch, "id": batch["id"] + index})
        optimizer.step()

    def by(image: int, time: int) -> Tensor:
        x, host = batch["image"][[image]], system.host
        tokens, told = (
            host.tokenizer({"image": x}),
            host.told({"id": torch.ones(1)}, None, torch.tensor([time])),
        )
        generator = system.generators[-1]
        found: dict[str, Tensor] = generator(host.encoder.embed(tokens.values), told)
        return torch.cat([one.flatten(1) for one in found.values()], dim=1)

    with torch.no_grad():
        first, other_image, other_time = by(0, 10), by(1, 10), by(0, 900)
        assert not torch.allclose(first, other_image, atol=1e-4)
        assert not torch.allclose(first, other_time, atol=1e-4)
        for generator in system.generators:
            nn.init.zeros_(generator.second.weight)
        assert torch.equal(by(0, 10), by(1, 10)) and torch.equal(by(0, 10), by(0, 900))


def test_masks_are_drawn_anew_in_every_block_at_every_step_of_generation() -> None:
    system, batch = make(where="all"), images(2)
    streams: list[int] = []

    class Spy(Gumbel):
        def __call__(self, request: Request) -> Any:
            streams.append(request.stream)
            return super().__call__(request)

    system.masking = Spy(largest=False)
    system.generate(batch, STEP, steps=3)
    assert len(streams) == len(set(streams)) == 3 * 4 * 2 and min(streams) == 2


def test_a_block_runs_with_the_masks_that_were_drawn_for_it() -> None:
    system, batch = make(), images()
    block, x, told = system.host.decoder.blocks[0], torch.randn(4, 5, 32), torch.randn(4, 32)
    with torch.no_grad(), system.masked(batch, STEP) as masks:
        found = block(x, None, condition=told)
    own = {name.partition(".")[2]: mask for name, mask in masks.items()}
    assert set(own) == {"attn.qkv.weight", "attn.proj.weight"}
    with torch.no_grad(), masked_weights(block, own):
        wanted = block(x, None, condition=told)
    assert torch.equal(found, wanted)
    assert own["attn.qkv.weight"].hidden.shape == (4, 96 * 32)
    assert 0.02 < own["attn.qkv.weight"].hidden.float().mean() < 0.12  # exp(-e) = 0.066


def test_what_is_no_denoiser_or_has_no_weights_is_refused() -> None:
    with pytest.raises(UserError, match="use vision/umd"):
        make(host="vision/mae")
    with pytest.raises(UserError, match="--host.clean_share below 1"):
        make(**{"host.clean_share": 1.0})
    with pytest.raises(UserError, match="give --base RUN"):
        make(base=None)
    with pytest.raises(UserError, match="factor 5 does not divide the width 32"):
        make(factor=5)
    with pytest.raises(UserError, match="passes no gradient on"):
        make(masking="core/random")


@pytest.mark.slow
def test_the_recipe_masks_the_denoiser_that_it_trained(tmp_path: Path) -> None:
    data = {"name": "vision/digits", "limit": 40}
    with mock.patch("polymask.recipes.probe"):
        found = run_recipe(
            "vision/maskunet", data, tmp_path / "a", options={"preset": "tiny", "steps": 4}, progress=False
        )
    assert [run.folder.name for run in found.done] == ["denoiser", "masks"]
    (tmp_path / "a").rename(tmp_path / "b")
    base: Any = Run.open(tmp_path / "b/denoiser").system
    system: Any = Run.open(tmp_path / "b/masks").system
    assert base.clean_share == 0 and base.noisy_masking is None
    theirs = system.host.state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in base.state_dict().items())
    with pytest.raises(UserError, match="(?s)or of one with other options; .*give a run of vision/umd"):
        make(base=str(tmp_path / "b/denoiser"), **{"host.encoder.depth": 1})
    with pytest.raises(UserError, match=r"of another system \(vision/maskunet\) than UMD"):
        make(base=str(tmp_path / "b/masks"))


def test_subtracting_weights_removes_junk_that_was_added() -> None:
    """y = W0 x, and W = W0 with junk on 6 % of the entries: a static mask finds it (the sheet's oracle)."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(16, 16, generator=generator) / 4
    junk = torch.rand(16, 16, generator=generator) < 0.06
    layer = nn.Linear(16, 16, bias=False).requires_grad_(False)
    layer.weight.copy_(clean + 1.5 * junk)
    real, masking = nn.Parameter(torch.full((1, 256), 2.0)), Gumbel(largest=False)
    optimizer = torch.optim.Adam([real], lr=3e-2)
    for index in range(400):
        x = torch.randn(64, 16, generator=generator)
        mask = masking(Request(torch.zeros(1, dtype=torch.long), 256, Step(index, 400), score=real))
        with masked_weights(layer, {"weight": mask}):
            loss = (layer(x) - x @ clean.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    off = real.detach().view(16, 16) < 0
    assert off[junk].float().mean() > 0.8 and off[~junk & (clean.abs() > 0.25)].float().mean() < 0.05
