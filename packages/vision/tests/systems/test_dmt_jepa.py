"""DMT-JEPA summarises the neighbours that are most alike, of the same image and of no other place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Step, UserError, build
from polymask_vision.systems.dmt_jepa import windows
from polymask_vision.systems.ijepa import IJEPA

TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "predictor_dim": 32,
    "predictor_depth": 2,
    "predictor_heads": 2,
    "heads": 2,
}
STEP = Step(6, 10, seed=1)
G, N = 6, 36


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build("vision/dmt-jepa", facts={"size": (24, 24), "channels": 3}, **(TINY | options))
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def images(n: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, 3, 24, 24, generator=generator), "id": torch.arange(n)}


def features(n: int = 2, dim: int = 32) -> Tensor:
    return torch.randn(n, N, dim, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("wrap", [False, True])
def test_windows_hold_the_sites_around_and_not_the_site_itself(wrap: bool) -> None:
    index, inside = windows((4, 5), 3, wrap)
    for site in range(20):
        row, column = divmod(site, 5)
        around = {(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} - {(row, column)}
        if wrap:
            expected = {(a % 4) * 5 + b % 5 for a, b in around}
        else:
            expected = {a * 5 + b for a, b in around if 0 <= a < 4 and 0 <= b < 5}
        assert set(index[site, inside[site]].tolist()) == expected


def test_neighbours_of_a_border_between_two_regions_are_of_its_own_side() -> None:
    """Two halves of one feature each, with a little noise: as many as can be are of the same half."""
    system = make()
    left = torch.arange(N) % G < 3
    h = torch.where(left[:, None], torch.eye(32)[0], torch.eye(32)[1]) + 0.01 * features(1)
    chosen, real = system.alike(h)
    index, inside = windows((G, G), 3, wrap=False)
    alike = (left[index] == left[:, None]) & inside
    same = (left[chosen[0]] == left[:, None]) & real[0]
    assert same.sum(1).tolist() == alike.sum(1).clamp(max=4).tolist()
    assert ((chosen[0] != torch.arange(N)[:, None]) | ~real[0]).all()
    # 3 in a corner, 4 anywhere else
    corners = [0, G - 1, N - G, N - 1]
    assert real[0].sum(1).tolist() == [3 if site in corners else 4 for site in range(N)]


def test_the_most_similar_are_those_of_largest_cosine() -> None:
    system, h = make(), features()
    chosen, real = system.alike(h)
    similarity = F.cosine_similarity(h[:, :, None], h[:, None], dim=-1)
    index, inside = windows((G, G), 3, wrap=False)
    for site in range(N):
        around = index[site, inside[site]]
        best = around[similarity[1, site, around].argsort(descending=True)[:4]]
        assert set(chosen[1, site, real[1, site]].tolist()) == set(best.tolist())


def targets_of(system: Any, h: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Targets made from given features of the teacher."""
    monkeypatch.setattr(IJEPA, "latents", lambda self, batch, tokens: h)
    made: Tensor = system.latents({}, None)
    return made


def test_a_target_depends_on_what_was_chosen_and_not_on_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    system, h = make(), features(1)
    chosen, real = system.alike(h)
    before = targets_of(system, h, monkeypatch)
    monkeypatch.setattr(type(system), "alike", lambda self, h: (chosen, real))
    site = 14
    row, mean = set(chosen[0, site].tolist()), h.mean(1, keepdim=True)

    push = torch.randn(32)

    def moved(place: int) -> Tensor:
        change = h.clone()
        change[0, place] += push
        other = (place + 18) % N if (place + 18) % N not in row | {site} else (place + 19) % N
        change[0, other] -= push  # the mean of the image stays
        torch.testing.assert_close(change.mean(1, keepdim=True), mean)
        return targets_of(system, change, monkeypatch)[0, site]

    outside = next(p for p in range(N) if p not in row | {site, (site + 18) % N})
    torch.testing.assert_close(moved(outside), before[0, site])
    assert not torch.allclose(moved(next(iter(row))), before[0, site], atol=1e-3)
    monkeypatch.setattr(type(system), "alike", lambda self, h: (chosen.flip(2), real.flip(2)))
    torch.testing.assert_close(targets_of(system, h, monkeypatch), before)


@pytest.mark.parametrize("query", ["image", "tiled"])
def test_targets_are_of_their_own_image_unless_means_are_tiled_as_released(
    query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, h = make(query=query), features(4)
    before = targets_of(system, h, monkeypatch)[0]
    other = torch.cat([h[:1], h[1:] + features(3)])
    after = targets_of(system, other, monkeypatch)[0]
    same = (before - after).abs().amax(1) < 1e-5
    assert same.all() if query == "image" else same.sum() == N // 4


def test_a_summary_is_two_blocks_of_cross_attention_by_hand() -> None:
    system = make()
    summary = system.summary
    query, members = torch.randn(5, 1, 32), torch.randn(5, 4, 32)
    real = torch.ones(5, 4, dtype=torch.bool)
    real[0, 3] = False
    made = summary(query, members, real)
    for row in range(5):
        q, kept = query[row], members[row, real[row]]
        for block in summary.blocks:
            u = block.norm1(torch.cat([q, kept]))
            q = q + block.attn(block.norm1(q)[None], u[None])[0]
            q = q + block.mlp(block.norm2(q))
        torch.testing.assert_close(made[row], summary.norm(q), rtol=1e-5, atol=1e-5)


def test_the_context_gets_what_its_mean_attends_to_and_padding_takes_no_part() -> None:
    summary = make().summary
    z, valid = torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)
    valid[1, 5:] = False
    made = summary.spread(z, valid)
    torch.testing.assert_close(made[:1], summary.spread(z[:1], None), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made[1:, :5], summary.spread(z[1:, :5], None), rtol=1e-5, atol=1e-5)
    one, x = summary.blocks[0], z[:1]
    added = one.attn(
        one.norm1(x.mean(1, keepdim=True)), one.norm1(torch.cat([x.mean(1, keepdim=True), x], 1))
    )
    x = x + added
    x = x + one.mlp(one.norm2(x))
    summary.blocks = summary.blocks[:1]
    torch.testing.assert_close(summary.spread(z[:1], None), summary.norm(x), rtol=1e-5, atol=1e-5)


def test_gradient_reaches_the_students_summary_and_both_teachers_follow_exactly() -> None:
    system, batch = make(), images()
    system(batch, STEP)["prediction"].backward()
    for part in (system.encoder, system.predictor, system.summary):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in system.summary_teacher.parameters())
    targets = system.latents(batch, system.tokenizer(batch))
    with torch.no_grad():
        for parameter in system.summary.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(system.latents(batch, system.tokenizer(batch)), targets)
    old = copy.deepcopy(system.summary_teacher.module.state_dict())
    system.after_step(Step(2, 10))
    m = 0.996 + 0.004 * 0.2
    for name, value in system.summary_teacher.module.state_dict().items():
        torch.testing.assert_close(value, m * old[name] + (1 - m) * system.summary.state_dict()[name])


def test_with_targets_of_its_patches_it_is_ijepa(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same masks and weights, no summaries: the loss is ijepa's."""
    system, batch = make(), images()
    plain: Any = build(
        "vision/ijepa",
        facts={"size": (24, 24), "channels": 3},
        **{name: value for name, value in TINY.items() if name != "heads"},
    )
    own = system.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    monkeypatch.setattr(type(system), "latents", IJEPA.latents)
    monkeypatch.setattr(type(system), "encode_context", IJEPA.encode_context)
    assert torch.equal(system(batch, STEP)["prediction"], plain(batch, STEP)["prediction"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "window must be an odd number"),
        ({"neighbours": 9}, "has 8 neighbours, of which 9 cannot be chosen"),
        ({"border": "torus"}, "clip"),
        ({"heads": 5}, "not divisible by 5 heads"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)
