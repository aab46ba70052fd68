"""LUT is MAE on one view, whose visible tokens also predict a teacher's summary of another."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from polymask import Batch, Run, RunConfig, Step, UserError, build
from polymask.training import fit
from polymask_vision.depth import lines_by_depth

TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "decoder_dim": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
HEADS = {"hidden_dim": 48}
STEP = Step(3, 10, seed=1)
FACTS = {"size": (16, 16), "channels": 3}


def make(system: str = "vision/lut", facts: dict[str, Any] = FACTS, **options: Any) -> Any:
    torch.manual_seed(0)
    return build(system, facts=facts, **(TINY | (HEADS if system == "vision/lut" else {}) | options))


def views(n: int = 6, size: int = 16, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, n, channels, size, size, generator=generator)
    return {"image": x[0], "other": x[1], "id": torch.arange(n)}


def shaken(system: Any) -> Any:
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


# --------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("size", [16, 28])
def test_the_two_views_show_disjoint_quarters(size: int) -> None:
    system, n = make(facts={"size": (size, size), "channels": 3}), 400
    batch = views(n, size)
    found = [view.mask for view in system.masks(batch, STEP).values()]
    sites = (size // 4) ** 2
    assert all(mask.count == round(0.75 * sites) for mask in found)
    assert (found[0].hidden | found[1].hidden).all()
    for mask in found:
        visible = (~mask.hidden).double()
        share = mask.visible / sites
        assert ((visible.mean(0) - share).abs() < 5 * (share * (1 - share) / n) ** 0.5).all()


# ---------------------------------------------------------------------------------------- loss


def test_without_the_context_term_it_is_mae_bit_for_bit() -> None:
    batch = views()
    ours = shaken(make(context_weight=0.0))
    masking = {"name": "core/disjoint", "masking": {"name": "core/random", "ratio": 0.75}, "views": 4}
    mae = make("vision/mae", masking=masking, **{"target.patch_norm": True})
    mae.load_state_dict(ours.state_dict())
    alone = {key: batch[key] for key in ("image", "id")}
    losses = ours(alone, STEP)
    assert list(losses) == ["reconstruction"] and list(ours.masks(alone, STEP)) == ["view 1"]
    assert torch.equal(losses["reconstruction"], mae(alone, STEP)["reconstruction"])
    both = shaken(make())
    both.load_state_dict(ours.state_dict(), strict=False)
    assert torch.equal(both(batch, STEP)["reconstruction"], losses["reconstruction"])


def test_the_context_term_by_hand() -> None:
    """A quarter of the mean over both directions of 2 - 2 cos, visible tokens without the class token."""
    system, batch = shaken(make()), views()
    masks = [view.mask for view in system.masks(batch, STEP).values()]
    tokens = [system.tokenizer({"image": batch[key]}) for key in ("image", "other")]
    guesses, truths = [], []
    encoder, projector = system.teacher.module
    for one, mask in zip(tokens, masks, strict=True):
        seen = mask.keep(one)
        z = system.encoder(system.encoder.embed(seen.values), seen.position)[:, 1:].mean(1)
        guesses.append(system.predictor(system.projector(z)))
        whole = encoder(encoder.embed(one.values), one.position)[:, 1:].mean(1)
        truths.append(projector(whole))

    def distance(a: Tensor, b: Tensor) -> Tensor:
        a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
        return (a - b).square().sum(1).mean()

    expected = 0.25 * (distance(guesses[0], truths[1]) + distance(guesses[1], truths[0])) / 2
    torch.testing.assert_close(system(batch, STEP)["context"], expected)
    same = 0.25 * (distance(guesses[0], truths[0]) + distance(guesses[1], truths[1])) / 2
    assert (same - expected).abs() > 1e-4


def test_equal_summaries_cost_0_opposite_ones_4_and_scale_nothing() -> None:
    system = make()
    x = torch.randn(5, 1, 32)
    d = [float(2 * system.context_objective(x, y)) for y in (x, -x, 7 * x)]
    assert d == pytest.approx([0, 4, 0], abs=1e-5)


def test_the_class_token_takes_no_part() -> None:
    system, batch = shaken(make(**{"encoder.depth": 1})), views()
    tokens, mask, encoded = system.see(batch, STEP, 0)
    before = system.predict(encoded, tokens, mask)
    moved = encoded.clone()
    moved[:, 0] += 5
    assert torch.equal(system.predict(moved, tokens, mask), before)


def test_the_teacher_sees_all_and_the_student_what_is_visible() -> None:
    system, batch = shaken(make()).eval(), views()
    tokens, mask, encoded = system.see(batch, STEP, 0)
    hidden = mask.hidden[..., None].float()
    changed = {**batch, "image": system.tokenizer.inverse(tokens.values + hidden)}
    other, _, again = system.see(changed, STEP, 0)
    assert torch.equal(encoded, again)
    assert ((system.teach(tokens) - system.teach(other)).abs().amax(1) > 1e-4).all()


def test_where_gradients_go() -> None:
    system, batch = shaken(make()), views()

    def reached(term: str) -> set[str]:
        system.zero_grad()
        system(batch, STEP)[term].backward()
        parts = ("encoder", "decoder", "projector", "predictor", "teacher")
        return {n for n in parts if any(p.grad is not None for p in getattr(system, n).parameters())}

    assert reached("reconstruction") == {"encoder", "decoder"}
    assert reached("context") == {"encoder", "projector", "predictor"}


def test_only_the_first_view_is_reconstructed() -> None:
    system, batch = shaken(make()), views()
    other = {**batch, "other": torch.randn_like(batch["other"])}
    first, second = system(batch, STEP), system(other, STEP)
    assert torch.equal(first["reconstruction"], second["reconstruction"])
    assert not torch.equal(first["context"], second["context"])


# -------------------------------------------------------------------------------------- teacher


def test_the_teacher_follows_by_a_cosine_and_averages_batch_statistics() -> None:
    system, batch = shaken(make()).train(), views()
    momenta = [system.teacher.momentum(Step(i, 100)) for i in (0, 50, 100)]
    assert momenta == pytest.approx([0.996, 0.998, 1.0])
    system(batch, STEP)
    old = copy.deepcopy(system.teacher.module.state_dict())
    system.after_step(Step(0, 100))
    student = nn.ModuleList([system.encoder, system.projector]).state_dict()
    norm = "1.1.running_mean"
    assert not torch.equal(old[norm], student[norm])
    for name, value in system.teacher.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.lerp(old[name], student[name], 0.004))
        else:
            assert torch.equal(value, student[name])
    assert not any(module.training for module in system.teacher.modules())


def test_heads_have_no_bias_and_the_statistics_asked_for() -> None:
    for statistics in ("running", "batch"):
        system = make(statistics=statistics)
        assert system.least_batch == 2
        for head in (system.projector, system.predictor, system.teacher.module[1]):
            first, norm, _, last = head
            assert isinstance(norm, nn.BatchNorm1d) and first.bias is None and last.bias is None
            assert (norm.running_mean is None) == (statistics == "batch")
    batch = make(statistics="batch").eval()
    state = batch.teacher.module[1][0](torch.randn(64, 32) + 9)
    torch.testing.assert_close(batch.teacher.module[1][1](state).mean(0), torch.zeros(48), atol=1e-4, rtol=0)


def test_one_view_is_refused() -> None:
    batch = {key: value for key, value in views().items() if key != "other"}
    with pytest.raises(UserError, match="the data give one: add --data.views 2"):
        make()(batch, STEP)


# ------------------------------------------------------------------------------- report, training


def test_both_views_and_lines_by_depth_are_shown() -> None:
    system, batch = make(), views()
    preview = system.preview(batch, STEP)
    first, second = (view.mask.hidden for view in system.masks(batch, STEP).values())
    assert torch.allclose(preview.media["second view"], batch["other"])
    for caption, hidden in (("visible", first), ("visible of it", second)):
        shown = system.tokenizer({"image": preview.media[caption]}).values.abs().sum(-1)
        assert torch.equal(shown == 0, hidden)
    assert [line.shape for line in preview.lines.values()] == [(3,)] * 3


def test_even_attention_spans_the_mean_distance_and_equal_tokens_have_rank_0() -> None:
    system, batch = make(), views()
    tokens, encoder = system.tokenizer(batch), system.encoder
    for block in encoder.blocks:
        nn.init.zeros_(block.attn.qkv.weight)
        nn.init.zeros_(block.attn.qkv.bias)
    place = tokens.position[0].float()
    span, information, rank = lines_by_depth(encoder, tokens).values()
    assert span[0].isnan() and information[0].isnan()
    torch.testing.assert_close(information[1:], torch.zeros(2))
    torch.testing.assert_close(span[1:], torch.cdist(place, place).mean().expand(2))
    assert rank[0] > 2
    nn.init.zeros_(encoder.vit.patch_embed.proj.weight)
    encoder.vit.pos_embed.data.zero_()
    assert lines_by_depth(encoder, tokens)["Effective rank of the features of patches"][0] == 0


def test_the_preset_trains_on_two_views(tmp_path: Path) -> None:
    data = {"name": "vision/digits", "limit": 32}
    config = {"system": "vision/lut", "preset": "tiny", "data": data, "steps": 2, "batch_size": 8}
    run = Run.create(RunConfig.resolve(config), tmp_path / "run")
    sample = run.data.split("train", augment=True)[0]
    assert set(sample) == {"image", "other"} and not torch.equal(sample["image"], sample["other"])
    fit(run, progress=False)


def test_retrieval_is_1_where_guesses_are_right_and_a_half_where_they_are_not() -> None:
    system, batch = make(), views(64)
    truth = system.teach(system.tokenizer(system.other(batch)))
    for guess, low, high in ((3 * truth, 1.0, 1.0), (-truth, 0.0, 0.3), (torch.randn(64, 32), 0.4, 0.6)):
        with mock.patch.object(system, "predict", return_value=guess):
            assert low <= system.monitor(batch, STEP)["retrieval"] <= high


@pytest.mark.slow
def test_guesses_are_nearer_to_the_summary_of_their_own_digit_than_to_others() -> None:
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    pixels = (pixels - pixels.mean()) / pixels.std()
    options = {"tokenizer.patch_size": 2, "statistics": "batch", "momentum": 0.9}
    system = make(facts={"size": (8, 8), "channels": 1}, **options)
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3)
    for index in range(60):
        ids = torch.randint(1200, (96,), generator=torch.Generator().manual_seed(index))
        batch, step = {"image": pixels[ids], "other": pixels[ids], "id": ids}, Step(index, 60)
        loss = torch.stack([*system(batch, step).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        system.after_step(step)
    held_out = {"image": pixels[1200:1400], "other": pixels[1200:1400], "id": torch.arange(200)}
    with torch.no_grad():
        found = system.eval().monitor(held_out, Step(0, 1))
    assert found["retrieval"] > 0.62
    assert F.normalize(found["prediction"], dim=1).std(0).mean() * 32**0.5 > 0.3  # 0 where all are equal
