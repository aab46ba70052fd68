from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from polymask import Batch, Mask, Step, Tokens, UserError, build
from polymask_vision.decoding import Decoding, left_after
from polymask_vision.systems import maskgit
from polymask_vision.systems.maskgit import MaskGIT
from polymask_vision.systems.recap import ReCAP, Reuse, grouped

STEP = Step(index=3, total=10, seed=1)
FACTS = {"size": (16, 16), "channels": 3}


def make(**options: Any) -> ReCAP:
    torch.manual_seed(0)
    host = {f"host.{name}": value for name, value in options.items()}
    system: ReCAP = build("vision/recap", preset="tiny", facts=FACTS, **host).double().eval()
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return system


def images(n: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(n, 3, 16, 16, generator=generator), "id": torch.arange(n) * 7 + 2}


def with_codes(tokens: Tokens, ids: Tensor) -> Tokens:
    return dataclasses.replace(tokens, values=ids[..., None], ids=ids)


def some(share: float, seed: int, even: int | None = None) -> Tensor:
    keys = torch.rand(4, 16, generator=torch.Generator().manual_seed(seed))
    return keys < share if even is None else keys.argsort(1).argsort(1) < even


NETWORKS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "class token": {"encoder.class_token": True},
    "relative": {"encoder.positions": "relative"},
    "relative, class token": {"encoder.positions": "relative", "encoder.class_token": True},
    "norms behind": {"encoder.norm_first": False},
    "layer scale": {"encoder.layer_scale": 0.5},
    "labels": {"conditional": True},
}


# ----------------------------------------------------------------------------------- passes


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("even", [None, 1, 5, 16])
@torch.no_grad()
def test_light_passes_are_exact_where_nothing_changed_and_over_everything(
    network: str, even: int | None
) -> None:
    """Of S tokens as they were, the full logits; of all tokens, a full pass, whatever they are now."""
    host: Any = make(**NETWORKS[network]).host
    batch = {**images(), "label": torch.tensor([1, 0, -1, 1])}
    tokens, mask, reuse = host.tokenizer(batch), Mask(some(0.7, 2)), Reuse(host)
    full = reuse.full(tokens, mask, batch)
    torch.testing.assert_close(full, host.predict(tokens, mask, batch), rtol=1e-9, atol=1e-9)
    chosen = some(0.4, 3, even)
    asked = Mask(~chosen, even)
    light = reuse.light(tokens, mask, batch, asked)
    assert light.shape[1] == int(chosen.sum(1).max())
    back = asked.restore(light, light.new_zeros(1))
    torch.testing.assert_close(back[chosen], full[chosen], rtol=1e-9, atol=1e-9)
    other, then = with_codes(tokens, (tokens.ids + 3) % 8), Mask(some(0.3, 4))
    all_of_them = Mask(torch.zeros(4, 16, dtype=torch.bool), 16)
    exact = host.predict(other, then, batch)
    torch.testing.assert_close(reuse.light(other, then, batch, all_of_them), exact, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_fresh_tokens_are_seen_and_frozen_ones_are_not() -> None:
    """A light pass reads what is drawn within its group, and no change outside of it."""
    host: Any = make().host
    batch, hidden, chosen = images(), torch.ones(4, 16, dtype=torch.bool), some(0.0, 3, 6)
    tokens, asked, reuse = host.tokenizer(batch), Mask(~chosen, 6), Reuse(host)
    reuse.full(tokens, Mask(hidden), batch)
    stale = reuse.light(tokens, Mask(hidden), batch, asked)
    first = chosen & (chosen.cumsum(1) <= 3)
    fresh = reuse.light(tokens, Mask(hidden & ~first), batch, asked)
    assert ((fresh - stale).abs().amax(-1) > 1e-3).all()
    outside = reuse.light(tokens, Mask(hidden & chosen), batch, asked)
    assert torch.equal(outside, stale)
    again = reuse.light(tokens, Mask(hidden), batch, asked)
    assert torch.equal(again, stale)


@torch.no_grad()
def test_light_logits_are_nearer_to_fresh_ones_than_stale_logits_are() -> None:
    """With half of the group drawn; four blocks, so that frozen tokens would have changed too."""
    host: Any = make(**{"encoder.depth": 4}).host
    batch, hidden, chosen = images(), torch.ones(4, 16, dtype=torch.bool), some(0.0, 3, 8)
    tokens, asked, reuse = host.tokenizer(batch), Mask(~chosen, 8), Reuse(host)
    stale = asked.keep(reuse.full(tokens, Mask(hidden), batch))
    first = chosen & (chosen.cumsum(1) <= 4)
    then = Mask(hidden & ~first)
    light = reuse.light(tokens, then, batch, asked)
    exact = asked.keep(host.predict(tokens, then, batch))
    left = asked.keep(hidden & ~first)
    errors = [float((found - exact).abs().mean(-1)[left].mean()) for found in (light, stale)]
    assert 0 < errors[0] < 0.6 * errors[1]


# ----------------------------------------------------------------------------------- groups


def test_groups_of_published_schedules() -> None:
    """Numbers of full and light passes for T steps, of which P stay alone."""
    for steps, plain, full in ((32, 12, 22), (24, 10, 17), (20, 10, 15), (16, 8, 12), (16, 0, 8)):
        groups = grouped(steps, 1, plain)
        assert len(groups) == full
        assert [k for group in groups for k in group] == list(range(steps))
        assert all(len(group) == 1 for group in groups[:plain]) and len(groups[-1]) == 2
    assert grouped(7, 2, 1) == [range(1), range(1, 4), range(4, 7)]
    assert grouped(6, 3, 1) == [range(1), range(1, 5), range(5, 6)]
    assert grouped(3, 0, 0) == grouped(3, 4, 3) == [range(1), range(1, 2), range(2, 3)]


def test_published_numbers_of_tokens() -> None:
    """T = 32, exponent 2.5: at first one at a time, at last groups of (17, 17), then the rest."""
    left = left_after(torch.tensor([256]), 32, Decoding(1.0, 5.5, True, 2.5, "down"))[:, 0]
    drawn = -left.diff(prepend=torch.tensor([256]))
    assert drawn.sum() == 256 and drawn.min() >= 1
    assert drawn[:6].tolist() == [1] * 6
    assert drawn[28:].tolist() == [17, 17, 19, 19]


def decoded(system: Any, groups: list[range], batch: Batch, mask: Mask | None = None) -> list[Any]:
    host = system.host
    how = Decoding(1.0, 4.5, False, "cosine", "up")
    with torch.no_grad():
        return list(host.decode(batch, STEP, mask, groups, how, Reuse(host)))


def test_every_token_is_drawn_once_and_given_ones_stay() -> None:
    system, batch = make(), images()
    tokens = system.tokenizer(batch)
    given = torch.arange(16) < torch.tensor([[0], [3], [15], [16]])
    for mask in (None, Mask(~given)):
        before = torch.ones(4, 16, dtype=torch.bool) if mask is None else ~given
        left = left_after(before.sum(1), 7, Decoding(1.0, 4.5, False, "cosine", "up"))
        last = tokens.ids
        for k, (found, hidden) in enumerate(decoded(system, grouped(7, 2, 1), batch, mask)):
            assert torch.equal(hidden.sum(1), left[k]) and not (hidden & ~before).any()
            assert torch.equal(found.ids[~before], last[~before])
            last, before = found.ids, hidden
        assert mask is None or torch.equal(last[given], tokens.ids[given])


def test_a_sample_is_the_same_in_any_batch() -> None:
    system, batch = make(), images(6)
    few = {key: value[[4, 1]] for key, value in batch.items()}
    hidden = torch.arange(16) < torch.arange(3, 15, 2)[:, None]
    groups = grouped(6, 2, 0)
    whole, part = (decoded(system, groups, one)[-1][0].ids for one in (batch, few))
    assert torch.equal(whole[[4, 1]], part)
    whole = decoded(system, groups, batch, Mask(hidden))[-1][0].ids
    assert torch.equal(whole[[4, 1]], decoded(system, groups, few, Mask(hidden[[4, 1]]))[-1][0].ids)
    # padding of rows that draw fewer tokens changes nothing
    alone = decoded(system, groups, {k: v[3:4] for k, v in batch.items()}, Mask(hidden[3:4]))[-1][0].ids
    assert torch.equal(whole[3:4], alone)


@pytest.mark.parametrize("light", [1, 3])
def test_passes_cost_the_tokens_that_they_are_over(light: int) -> None:
    """Tokens through each block: all of them once a group, those that it draws once a light step."""
    system, batch = make(**{"encoder.class_token": True}), images()
    seen: list[int] = []
    for block in system.encoder.blocks:
        block.mlp.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    groups = grouped(9, light, 1)
    with FlopCounterMode(display=False) as reused:
        decoded(system, groups, batch)
    left = [16, *left_after(torch.tensor([16]), 9, Decoding(1.0, 4.5, False, "cosine", "up"))[:, 0].tolist()]
    expected = sum(17 + (len(group) - 1) * (left[group.start] - left[group.stop] + 1) for group in groups)
    assert sum(seen) == expected * len(system.encoder.blocks)
    with FlopCounterMode(display=False) as whole:
        decoded(system, grouped(9, 0, 0), batch)
    assert reused.get_total_flops() < (0.3 + 0.7 * expected / (9 * 17)) * whole.get_total_flops()


def test_hosts_that_do_not_generate_are_refused() -> None:
    with pytest.raises(UserError, match="MAE does not"):
        build("vision/recap", preset="tiny", facts=FACTS, host="vision/mae")


# ----------------------------------------------------------------------------------- quality

SITES, CODES, SAMPLES = 32, 8, 400


def twins_at(seed: int = 0) -> Tensor:
    """Places in pairs: the place of each place's twin."""
    order = torch.randperm(SITES, generator=torch.Generator().manual_seed(seed))
    twin = torch.empty(SITES, dtype=torch.int64)
    twin[order[::2]], twin[order[1::2]] = order[1::2], order[::2]
    return twin


@torch.no_grad()
def twin_model(twin: Tensor) -> MaskGIT:
    """A network that knows: a token has the code of its twin if that is visible, else any.

    Its one block attends from each place to the twin's; the code there goes to the logits.
    """
    system: MaskGIT = build(
        "vision/maskgit",
        preset="tiny",
        facts={"size": (4, 8), "channels": 1},
        **{"tokenizer.patch_size": 1, "encoder.dim": 64, "encoder.depth": 1, "encoder.heads": 1},
    )
    vit: Any = system.encoder.vit  # type: ignore[attr-defined]
    for parameter in system.parameters():
        parameter.zero_()
    place, code, out = slice(0, SITES), slice(SITES, SITES + CODES), slice(SITES + CODES, SITES + 2 * CODES)
    block = vit.blocks[0]
    for norm in (block.norm1, block.norm2, vit.norm, system.head[2]):
        norm.weight.fill_(1.0)
    vit.patch_embed.proj.weight[:, code] = torch.eye(CODES)
    vit.pos_embed[0, :, place] = torch.eye(SITES)
    query, key, value = block.attn.qkv.weight.view(3, 64, 64)
    query[place, place] = 10 * torch.eye(SITES)[twin]
    key[place, place] = 10 * torch.eye(SITES)
    value[code, code] = torch.eye(CODES)
    block.attn.proj.weight[out, code] = 10 * torch.eye(CODES)
    system.head[0].weight[code, out] = torch.eye(CODES)
    system.head[2].weight.fill_(20.0)
    return system.eval()


def mismatch(groups: list[range], model: MaskGIT, twin: Tensor, passes: Any) -> float:
    """Share of pairs that are not alike, with tokens drawn in random order, equally many a step."""
    n = SAMPLES
    batch = {"image": torch.zeros(n, 1, 4, 8), "id": torch.arange(n)}
    how = Decoding(1.0, 0.0, False, 1.0, "up")
    with torch.no_grad():
        *_, (tokens, _) = model.decode(batch, STEP, None, groups, how, passes)
    assert tokens.ids is not None
    return float((tokens.ids != tokens.ids[:, twin]).double().mean())


class Blind(Reuse):
    """Light passes that do not see what their group has drawn."""

    def light(self, tokens: Tokens, mask: Mask, batch: Batch, asked: Mask) -> Tensor:
        return super().light(tokens, Mask(mask.hidden | ~asked.hidden), batch, asked)


@pytest.mark.slow
def test_light_steps_have_the_quality_of_full_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins drawn in one step agree by chance: 7/8 (n - 1) / 31 of pairs differ for n tokens a step."""
    monkeypatch.setattr(maskgit, "doubt", lambda logits, code, uniform, heat: (uniform * 2**24).long())
    twin = twins_at()
    model = twin_model(twin)

    def expected(steps: int) -> float:
        return (1 - 1 / CODES) * (SITES / steps - 1) / (SITES - 1)

    def near(found: float, ideal: float) -> bool:
        return abs(found - ideal) < 5 * math.sqrt(max(ideal, 0.001) / (SAMPLES * SITES / 2)) + 0.002

    for steps in (4, 16, 32):  # the base gains from more steps
        assert near(mismatch(grouped(steps, 0, 0), model, twin, None), expected(steps))
    for light in (1, 3):  # 8 full and 8 light steps, 4 full and 12 light ones
        groups = grouped(16, light, 0)
        assert near(mismatch(groups, model, twin, Reuse(model)), expected(16))
        assert near(mismatch(groups, model, twin, Blind(model)), expected(16 // (light + 1)))
    assert near(mismatch(grouped(32, 1, 0), model, twin, Reuse(model)), 0.0)
