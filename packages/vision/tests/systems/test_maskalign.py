"""MaskAlign matches a frozen teacher's features of visible patches, at several layers."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from polymask import Batch, Mask, Request, Run, Step, Tokens, UserError, build
from polymask.maskings import TopScore
from polymask.recipes import run_recipe
from polymask.training.optimiser import parameter_groups
from polymask_vision.systems.maskalign import DynamicAlignment

TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 64,
    "encoder.depth": 6,
    "encoder.heads": 2,
    "target.model": "test_vit",
    "target.pretrained": False,
}
STEP = Step(6, 10, seed=1)


def make(size: int = 16, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    facts = {"size": (size, size), "channels": channels}
    chosen = TINY if "target" not in options else {k: v for k, v in TINY.items() if "target" not in k}
    return shaken(build("vision/maskalign", facts=facts, **(chosen | options)))


def images(n: int = 4, size: int = 16, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, size, size, generator=generator), "id": torch.arange(n)}


def shaken(system: Any) -> Any:
    """All weights moved, but for the mixture, so that nothing is equal by initialisation."""
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            if "mixture" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def teacher_states(system: Any, batch: Batch) -> list[Tensor]:
    """What leaves the blocks of the teacher, seen from outside."""
    model, states = system.target.network.module.model, list[Tensor]()
    hooks = [block.register_forward_hook(lambda _, __, x: states.append(x)) for block in model.blocks]
    with torch.no_grad():
        model.forward_features(F.interpolate(batch["image"], 64, mode="bicubic", antialias=True))
    for hook in hooks:
        hook.remove()
    return states


class Nothing:
    """Hides nothing."""

    def __call__(self, request: Request) -> Mask:
        return Mask(torch.zeros(len(request.ids), request.sites, dtype=torch.bool), request.sites)


class Fixed:
    """Hides the last three quarters of the patches."""

    def __call__(self, request: Request) -> Mask:
        hidden = torch.arange(request.sites) >= request.sites // 4
        return Mask(hidden.expand(len(request.ids), -1), request.sites // 4)


# ---------------------------------------------------------------------------------------- loss


def test_loss_is_that_of_the_paper_by_hand() -> None:
    """Whitened states of the teacher's last five blocks at the class token and the visible patches."""
    system, batch = make(), images()
    tokens = system.tokenizer(batch)
    mask = system.masks(batch, STEP)["mask"].mask
    assert mask.count == 11
    seen = [torch.cat([torch.zeros(1, dtype=torch.long), 1 + row.nonzero()[:, 0]]) for row in ~mask.hidden]
    kept, student = mask.keep(tokens), list[Tensor]()
    hooks = [b.register_forward_hook(lambda _, __, x: student.append(x)) for b in system.encoder.blocks]
    system.encoder(system.encoder.embed(kept.values), kept.position)
    for hook in hooks:
        hook.remove()
    losses = []
    for layer in range(2, 7):
        mixed = sum(((i == layer) + 0.01) * x for i, x in enumerate(student, 1))
        head = system.alignment.heads[layer - 2][0]
        guess = mixed @ head.weight.T + head.bias
        state = teacher_states(system, batch)[layer - 1]
        state = (state - state.mean(-1, keepdim=True)) / (
            state.var(-1, unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
        wanted = torch.stack([row[index] for row, index in zip(state, seen, strict=True)])
        off = (guess - wanted).abs()
        losses.append(torch.where(off < 1, off**2, 2 * off - 1).mean())
    torch.testing.assert_close(system(batch, STEP)["alignment"], torch.stack(losses).mean())


def test_zero_costs_085_of_normal_features() -> None:
    """2 E smooth-l1 of N(0, 1) against 0: E[x^2; |x| < 1] + E[2 |x| - 1; |x| > 1]."""
    density, beyond = math.exp(-0.5) / math.sqrt(2 * math.pi), math.erfc(math.sqrt(0.5))
    assert (1 - beyond - 2 * density) + 4 * density - beyond == pytest.approx(0.85, abs=0.01)
    system, batch = make(), images()
    for head in system.alignment.heads:
        nn.init.zeros_(head[0].weight)
        nn.init.zeros_(head[0].bias)
    whole = torch.stack([F.layer_norm(x, (64,)) for x in teacher_states(system, batch)[1:]])
    system.masking = Nothing()
    expected = 2 * F.smooth_l1_loss(torch.zeros_like(whole), whole)
    torch.testing.assert_close(system(batch, STEP)["alignment"], expected)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher and its student, moved after they were trained."""
    folder = tmp_path_factory.mktemp("recipe")
    data = {"name": "vision/digits", "limit": 40}
    with mock.patch("polymask.recipes.probe"):
        found = run_recipe("vision/maskalign", data, folder / "a", options={"preset": "tiny"}, progress=False)
    assert [run.folder.name for run in found.done] == ["teacher", "student"]
    return (folder / "a").rename(folder / "moved")


def test_the_teacher_itself_has_loss_0_and_a_shift_of_one_place_costs(recipe: Path) -> None:
    """Without attention a token is encoded on its own, so that the visible ones are as in the whole image."""
    target = {"name": "vision/teacher", "run": str(recipe / "teacher"), "layers": (1, 2)}
    size = {"tokenizer.patch_size": 4, "encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2}
    facts = {"size": (8, 8), "channels": 1}
    system: Any = build("vision/maskalign", facts=facts, target=target, fusion="simple", **size)
    for encoder in (network := system.target.network.module.encoder, system.encoder):
        encoder.load_state_dict(network.state_dict())
        for block in encoder.blocks:
            nn.init.zeros_(block.attn.proj.weight)
    for index in range(2):
        system.alignment.heads[index] = nn.LayerNorm(32, elementwise_affine=False)
    batch = images(size=8, channels=1)
    assert system(batch, STEP)["alignment"] < 1e-9
    look = system.look
    tokens = system.tokenizer(batch)

    def shifted(*args: Any) -> Any:
        features, attention = look(*args)
        assert features.prefix is not None
        values = torch.cat([features.prefix, features.values[:, :-1]], dim=1)
        return Tokens(values, tokens.position, prefix=features.prefix), attention

    with mock.patch.object(system, "look", shifted):
        assert system(batch, STEP)["alignment"] > 0.1


def test_the_class_token_is_matched_where_both_have_one() -> None:
    system, batch = make(masking="core/random"), images()
    tokens = system.tokenizer(batch)
    features, _ = system.look(batch, tokens)
    mask = system.mask(None, tokens, batch, STEP)
    aligned, wanted = system.align(tokens, features, mask)
    assert all(x.shape == y.values.shape == (4, 5, 64) for x, y in zip(aligned, wanted, strict=True))
    assert torch.equal(wanted[-1].values[:, :1], features.prefix[..., -64:])
    without = make(masking="core/random", **{"encoder.class_token": False})
    aligned, wanted = without.align(tokens, features, mask)
    assert all(x.shape == y.values.shape == (4, 4, 64) for x, y in zip(aligned, wanted, strict=True))
    kept = mask.keep(features.values)
    assert torch.equal(torch.cat([one.values for one in wanted], -1), kept)


def test_rows_of_different_length_count_by_their_visible_tokens() -> None:
    system, batch = make(), images(2)

    class Uneven:
        def __call__(self, request: Request) -> Mask:
            return Mask(torch.arange(request.sites) >= torch.tensor([[4], [9]]))

    system.masking = Uneven()
    system.eval()
    both = system(batch, STEP)["alignment"]

    class Row:
        def __init__(self, visible: int) -> None:
            self.visible = visible

        def __call__(self, request: Request) -> Mask:
            return Mask((torch.arange(request.sites) >= self.visible)[None], self.visible)

    alone = []
    for i, visible in enumerate((4, 9)):
        system.masking = Row(visible)
        alone.append(system({key: value[i : i + 1] for key, value in batch.items()}, STEP)["alignment"])
    torch.testing.assert_close(both, (5 * alone[0] + 10 * alone[1]) / 15)


# --------------------------------------------------------------------------------- what is seen


def test_hidden_patches_reach_the_target_alone() -> None:
    system, batch = make().eval(), images()
    system.masking = Fixed()
    batch["image"].requires_grad_()
    system(batch, STEP)["alignment"].backward()
    grad = system.tokenizer({"image": batch["image"].grad}).values.abs().sum(-1)
    assert (grad[:, :4] > 0).all() and (grad[:, 4:] == 0).all()
    clean = {**batch, "image": batch["image"].detach()}
    other = {**clean, "image": clean["image"].clone()}
    other["image"][:, :, 4:] += 1
    aligned, wanted = zip(
        *(
            system.align(system.tokenizer(b), system.look(b, system.tokenizer(b))[0], fixed)
            for b in (clean, other)
            for fixed in [Fixed()(Request.of(system.tokenizer(b), b, STEP))]
        ),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in zip(*aligned, strict=True))
    moved = [(a.values - b.values).abs().amax(-1) for a, b in zip(*wanted, strict=True)]
    assert all((one > 1e-4).all() for one in moved)


def test_what_the_teacher_attends_to_stays_visible_more_often() -> None:
    system, batch = make(), images(1)
    tokens = system.tokenizer(batch)
    _, attention = system.look(batch, tokens)
    many = {"image": batch["image"], "id": torch.arange(1)}
    hidden = torch.zeros(16)
    peaked = (attention / attention.std() * 1.5).softmax(-1)
    for index in range(600):
        mask = system.mask(peaked, tokens, many, Step(index, 600))
        assert mask.count == 11
        hidden += mask.hidden[0]
    ranks = torch.stack([peaked[0], -hidden]).argsort(1).argsort(1).double()
    assert torch.corrcoef(ranks)[0, 1] > 0.9
    drawn = system.draw(tokens, batch, STEP)
    request = Request.of(tokens, batch, STEP, score=attention.log())
    expected = TopScore(ratio=0.7, largest=False, temperature=1.0)(request)
    assert torch.equal(drawn.hidden, expected.hidden)


def test_a_score_takes_the_place_of_attention_and_random_masks_need_none() -> None:
    batch = images()
    system = make(score="vision/variance", **{"masking.temperature": 0.0})
    tokens = system.tokenizer(batch)
    variance = tokens.values.var(-1)
    hidden = system.draw(tokens, batch, STEP).hidden
    least = torch.where(hidden, -math.inf, -variance).amax(1)
    assert (torch.where(hidden, -variance, math.inf).amin(1) > least).all()
    with pytest.raises(UserError, match="Pixels gives 48"):
        make(score="vision/pixels")
    other = make(target="vision/pixels", masking="core/random")
    assert other(batch, STEP)["alignment"].isfinite() and other.alignment.mixture.shape == (1, 6)


def test_one_pass_of_the_teacher_gives_mask_and_target() -> None:
    system, batch = make(), images()
    network = system.target.network.module
    with mock.patch.object(network, "forward", wraps=network.forward) as forward:
        system(batch, STEP)
    assert forward.call_count == 1


def test_the_teacher_stays_as_it_is() -> None:
    system, batch = make(), images()
    system.train()
    before = copy.deepcopy(system.target.state_dict())
    assert not any(module.training for module in system.target.network.modules())
    system(batch, STEP)["alignment"].backward()
    assert not any(p.requires_grad or p.grad is not None for p in system.target.parameters())
    assert all(torch.equal(before[k], v) for k, v in system.target.state_dict().items())


# ------------------------------------------------------------------------------------- alignment


def test_mixtures_start_as_published() -> None:
    identity = torch.eye(6)[1:]
    torch.testing.assert_close(make().alignment.mixture.detach(), identity + 0.01)
    assert torch.equal(make(fusion="simple").alignment.mixture, identity)
    assert not make(fusion="simple").alignment.mixture.requires_grad
    mean = make(fusion="sum", **{"encoder.depth": 3}).alignment.mixture
    torch.testing.assert_close(mean.detach(), torch.full((5, 3), 1 / 3))


def test_every_layer_reaches_every_teacher_layer_through_the_mixture_alone() -> None:
    system, batch = make(layer_weights=(0.0, 0.0, 0.0, 0.0, 1.0)), images()
    system(batch, STEP)["alignment"].backward()
    grad = system.alignment.mixture.grad
    assert (grad[-1] != 0).all() and not grad[:-1].any()
    system.zero_grad()
    with torch.no_grad():
        system.alignment.mixture[-1] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    system(batch, STEP)["alignment"].backward()
    reached = [
        any(p.grad is not None and bool(p.grad.any()) for p in block.parameters())
        for block in system.encoder.blocks
    ]
    assert reached == [True, True, False, False, False, False]


def test_layer_weights_add_up_and_the_mixture_is_not_decayed() -> None:
    batch, even = images(), make()
    total = even(batch, STEP)["alignment"]
    parts = [make(layer_weights=tuple(float(i == j) for j in range(5))) for i in range(5)]
    torch.testing.assert_close(torch.stack([p(batch, STEP)["alignment"] for p in parts]).mean(), total)
    torch.testing.assert_close(make(loss_scale=1.0)(batch, STEP)["alignment"], total / 2)
    decay = {id(p): group["weight_decay"] for group in parameter_groups(even, 0.05) for p in group["params"]}
    assert decay[id(even.alignment.mixture)] == 0.0 and decay[id(even.alignment.heads[0][0].weight)] == 0.05


@pytest.mark.parametrize("head", ["linear", "norm-linear", "mlp", "linear-norm-linear"])
def test_heads_take_gradient_in_every_parameter_but_the_final_norm(head: str) -> None:
    system = make(head=head)
    system(images(), STEP)["alignment"].backward()
    idle = {n for n, p in system.named_parameters() if p.requires_grad and p.grad is None}
    assert idle == set(system.unused) == {"encoder.vit.norm.weight", "encoder.vit.norm.bias"}


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(UserError, match="the teacher has 6 blocks, the encoder 4: use --fusion sum"):
        make(**{"encoder.depth": 4})
    with pytest.raises(UserError, match="give one for each of the layers"):
        make(layer_weights=(1.0,))
    with pytest.raises(UserError, match="choose of linear, sum, simple"):
        DynamicAlignment(2, (1,), 4, 4, "mean", "linear")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="which teacher"):
        build("vision/maskalign", facts={"size": (8, 8), "channels": 1}, preset="small")


def test_pictures_are_those_of_forward() -> None:
    system, batch = make(), images()
    media = system.preview(batch, STEP).media
    hidden = system.masks(batch, STEP)["mask"].mask.hidden
    for name in ("visible", "error of the aligned features (bright: large)"):
        shown = system.tokenizer({"image": media[name]}).values
        assert not shown[hidden].any() and shown[~hidden].abs().sum(-1).all()
    attention = system.look(batch, system.tokenizer(batch))[1]
    heat = system.tokenizer({"image": media["attention of the teacher (bright: large)"]}).values[..., 0]
    assert torch.equal(heat.argmax(1), attention.argmax(1))


# -------------------------------------------------------------------------------------- training


def test_the_student_of_the_recipe_learns_from_its_teacher(recipe: Path) -> None:
    teacher: Any = Run.open(recipe / "teacher").system
    student: Any = Run.open(recipe / "student").system
    assert teacher.pool == "prefix"
    own, theirs = teacher.encoder.state_dict(), student.target.network.module.encoder.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.slow
def test_held_out_digits_are_matched_better_than_by_zero_or_the_mean() -> None:
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    pixels = (pixels - pixels.mean()) / pixels.std()
    system = make(8, 1, **{"tokenizer.patch_size": 2})
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3)
    for index in range(60):
        ids = torch.randint(1200, (32,), generator=torch.Generator().manual_seed(index))
        loss = system({"image": pixels[ids], "id": ids}, Step(index, 60))["alignment"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch, step = {"image": pixels[1200:1400], "id": torch.arange(200)}, Step(0, 1)
    tokens = system.tokenizer(batch)
    features, attention = system.look(batch, tokens)
    _, wanted = system.align(tokens, features, system.mask(attention, tokens, batch, step))
    costs = {"zero": 0.0, "mean": 0.0}
    for one in wanted:
        mean = one.values.mean((0, 1), keepdim=True).expand_as(one.values)
        for name, guess in (("zero", torch.zeros_like(mean)), ("mean", mean)):
            costs[name] += 2 * F.smooth_l1_loss(guess, one.values).item() / 5
    with torch.no_grad():
        learned = system.eval()(batch, step)["alignment"].item()
    assert learned < 0.8 * min(costs.values()), (learned, costs)
