"""Hybrid Distillation: features of one teacher, relations of another, at tokens that are not redundant."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from polymask import Batch, Mask, Request, Run, Step, Tokens, UserError, build
from polymask.recipes import run_recipe
from polymask_vision.systems.hybrid_distillation import redundant

STEP = Step(3, 10, seed=1)
SIZE = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 64,
    "encoder.depth": 6,
    "encoder.heads": 2,
    "target.model": "test_vit",
    "target.pretrained": False,
    "relation_target.model": "test_vit",
    "relation_target.pretrained": False,
}


def make(size: int = 16, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    facts = {"size": (size, size), "channels": channels}
    kept = {k: v for k, v in SIZE.items() if k.partition(".")[0] not in options}
    system = build("vision/hybrid-distillation", facts=facts, **(kept | options))
    with torch.no_grad():  # nothing is equal by initialisation
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def images(n: int = 4, size: int = 16, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, size, size, generator=generator), "id": torch.arange(n)}


class Nothing:
    """Hides nothing."""

    def __call__(self, request: Request) -> Mask:
        return Mask(torch.zeros(len(request.ids), request.sites, dtype=torch.bool), request.sites)


# ---------------------------------------------------------------------------------------- losses


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both teachers and their student, moved after they were trained."""
    folder = tmp_path_factory.mktemp("recipe")
    data = {"name": "vision/digits", "limit": 40}
    options = {"preset": "tiny", "steps": 2}
    with mock.patch("polymask.recipes.probe"):
        found = run_recipe("vision/hybrid-distillation", data, folder / "a", options=options, progress=False)
    assert [run.folder.name for run in found.done] == ["feature-teacher", "relation-teacher", "student"]
    return (folder / "a").rename(folder / "moved")


def of_runs(recipe: Path, **options: Any) -> Any:
    """A student of the recipe's teachers that sees all patches, so that it can be as they are."""
    teachers = {
        "target": {"name": "vision/teacher", "run": str(recipe / "feature-teacher"), "layers": (-1,)},
        "relation_target": {"name": "vision/relations", "run": str(recipe / "relation-teacher")},
    }
    teachers["relation_target"]["layers"] = (1, 2)
    sizes = {"encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2, "keep_share": 1.0, "head": "none"}
    return make(8, 1, **teachers, **sizes, **options)


@pytest.mark.parametrize("kind", ["raw", "scaled", "attention"])
def test_a_student_that_is_a_teacher_has_loss_0_with_it_alone(recipe: Path, kind: str) -> None:
    system, batch = of_runs(recipe, relation_kind=kind), images(size=8, channels=1)
    assert all(loss > 1e-5 for loss in system(batch, STEP).values())
    network = system.relation_target.network.module.encoder
    system.encoder.load_state_dict(network.state_dict())
    losses = system(batch, STEP)
    assert losses["relations 1"] < 1e-11 > losses["relations 2"] and losses["features"] > 0.01
    network = system.target.network.module.encoder
    nn.init.ones_(network.norm.weight)
    nn.init.zeros_(network.norm.bias)
    system.encoder.load_state_dict(network.state_dict())
    losses = system(batch, STEP)
    assert losses["features"] < 1e-9 and losses["relations 1"] > 1e-6 < losses["relations 2"]


def test_losses_are_those_of_the_paper_by_hand() -> None:
    """Features of the last block, products of queries and keys of the two before, where kept."""
    system, batch = make(relation_weights=(0.5, 2.0)), images()
    tokens = system.tokenizer(batch)
    losses = system(batch, STEP)
    assert list(losses) == ["features", "relations 4", "relations 5"]
    mask = system.masks(batch, STEP)["mask"].mask
    kept = torch.stack([torch.cat([torch.tensor([0]), 1 + row.nonzero()[:, 0]]) for row in ~mask.hidden])
    big = F.interpolate(batch["image"], 64, mode="bicubic", antialias=True)

    def heads(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, _ = module(x).view(len(x), -1, 3, 2, 32).permute(2, 0, 3, 1, 4)
        return q, k

    seen: dict[int, Tensor] = {}
    model = system.relation_target.network.module.model
    hooks = [
        model.blocks[number - 1].attn.qkv.register_forward_hook(
            lambda module, args, out, number=number: seen.__setitem__(number, args[0])
        )
        for number in (4, 5)
    ]
    with torch.no_grad():
        model.forward_features(big)
    for hook in hooks:
        hook.remove()
    own: dict[int, Tensor] = {}
    for number in (4, 5):
        system.encoder.blocks[number - 1].attn.qkv.register_forward_hook(
            lambda module, args, out, number=number: own.__setitem__(number, args[0])
        )
    small = mask.keep(tokens)
    encoded = system.encoder(system.encoder.embed(small.values), small.position)
    for number, weight in ((4, 0.5), (5, 2.0)):
        q, k = heads(model.blocks[number - 1].attn.qkv, seen[number])
        whole = q @ k.transpose(-1, -2)
        theirs = torch.stack([r[:, at][:, :, at] for r, at in zip(whole, kept, strict=True)])
        q, k = heads(system.encoder.blocks[number - 1].attn.qkv, own[number])
        expected = weight * F.smooth_l1_loss(q @ k.transpose(-1, -2), theirs)
        torch.testing.assert_close(losses[f"relations {number}"], expected)
    last: list[Tensor] = []
    teacher = system.target.network.module.model
    teacher.blocks[-1].register_forward_hook(lambda module, args, out: last.append(out))
    with torch.no_grad():
        teacher.forward_features(big)
    wanted = torch.stack([x[at] for x, at in zip(F.layer_norm(last[0], (64,)), kept, strict=True)])
    torch.testing.assert_close(losses["features"], F.smooth_l1_loss(system.head(encoded), wanted))


@pytest.mark.parametrize("kind", ["raw", "scaled", "attention"])
def test_relations_reach_queries_and_keys_of_their_blocks_and_all_below(kind: str) -> None:
    system, batch = make(relation_kind=kind), images()
    system.train()
    losses = system(batch, STEP)
    (losses["relations 4"] + losses["relations 5"]).backward(retain_graph=True)
    blocks = system.encoder.blocks
    fifth = blocks[4]
    assert not any(p.grad is not None and p.grad.any() for p in blocks[5].parameters())
    rest = (fifth.attn.proj, fifth.norm2, fifth.mlp, system.encoder.norm, system.head)
    assert not any(p.grad is not None and p.grad.any() for part in rest for p in part.parameters())
    for block in blocks[3:5]:
        q, k, v = block.attn.qkv.weight.grad.chunk(3)
        assert q.any() and k.any() and (block is fifth) == (not v.any())
    below = [*blocks[:4].parameters(), system.encoder.vit.patch_embed.proj.weight]
    assert all(p.grad is not None and p.grad.any() for p in below)
    system.zero_grad()
    losses["features"].backward()
    assert all(p.grad is not None and p.grad.any() for n, p in system.named_parameters() if p.requires_grad)
    teachers = [*system.target.parameters(), *system.relation_target.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in teachers)


def test_without_weight_there_are_no_relations_and_other_heads_do_not_matter() -> None:
    batch = images()
    with pytest.raises(UserError, match="4 attention heads, the relation teacher 2"):
        make(**{"encoder.heads": 4})
    alone = make(**{"encoder.heads": 4}, relation_weights=(0.0, 0.0))
    assert list(alone(batch, STEP)) == ["features"]
    mean = make(**{"encoder.heads": 4}, relation_heads="mean")
    ours, theirs, real = next(mean.relations(*seen(mean, batch)))
    assert ours.shape == theirs.shape == (4, 11 * 11, 1) and real is None
    each = make()
    found = next(each.relations(*seen(each, batch)))[1]
    torch.testing.assert_close(theirs, found.mean(-1, keepdim=True))


def seen(system: Any, batch: Batch) -> tuple[Tokens, list[Tensor], Mask]:
    tokens = system.tokenizer(batch)
    relations, states = system.relate(batch, tokens)
    mask = system.mask(states, tokens, batch, STEP)
    return relations, system.predict(batch, tokens, mask)[2], mask


@pytest.mark.parametrize("kind", ["raw", "attention"])
def test_rows_of_different_length_count_by_their_pairs(kind: str) -> None:
    system, batch = make(relation_kind=kind).eval(), images(2)

    class Rows:
        def __init__(self, *visible: int) -> None:
            self.visible = visible

        def __call__(self, request: Request) -> Mask:
            hidden = torch.arange(request.sites) >= torch.tensor(self.visible)[:, None]
            return Mask(hidden, self.visible[0] if len(self.visible) == 1 else None)

    system.masking = Rows(4, 9)
    both = system(batch, STEP)
    alone = []
    for i, visible in enumerate((4, 9)):
        system.masking = Rows(visible)
        alone.append(system({key: value[i : i + 1] for key, value in batch.items()}, STEP))
    for name, power in (("features", 1), ("relations 4", 2)):
        count = 5**power + 10**power
        expected = (5**power * alone[0][name] + 10**power * alone[1][name]) / count
        torch.testing.assert_close(both[name], expected)


# --------------------------------------------------------------------------------- redundant tokens


@pytest.mark.parametrize(("n", "kept"), [(196, (171, 149, 130)), (49, (43, 37, 32)), (16, (14, 12, 10))])
def test_each_stage_keeps_its_share_of_what_the_last_one_kept(n: int, kept: tuple[int, ...]) -> None:
    """0.87 of them, rounded: 171 of 196, 149 of these, 130 of these."""
    states = [torch.randn(5, n, 8) for _ in kept]
    masks = [redundant(states[:stage], 0.87) for stage in (1, 2, 3)]
    assert tuple(mask.visible for mask in masks) == kept
    assert all((mask.hidden.sum(1) == n - count).all() for mask, count in zip(masks, kept, strict=True))
    for earlier, later in itertools.pairwise(masks):
        assert (later.hidden | ~earlier.hidden).all()


def test_the_likest_to_the_mean_of_those_left_go_first() -> None:
    states = [torch.randn(3, 12, 5) for _ in range(2)]
    mask = redundant(states, 0.75)
    for row in range(3):
        left = list(range(12))
        for x, count in zip(states, (9, 7), strict=True):
            unit = x[row] / x[row].norm(dim=-1, keepdim=True)
            centre = unit[left].mean(0)
            left = sorted(left, key=lambda i, u=unit, c=centre: float(u[i] @ c))[:count]
        assert sorted(left) == (~mask.hidden[row]).nonzero()[:, 0].tolist()


def test_an_odd_patch_among_equal_ones_survives_every_stage() -> None:
    for place in range(16):
        x = torch.ones(1, 16, 6)
        x[0, place] = torch.tensor([1.0, -1, 1, -1, 1, -1])
        mask = redundant([x] * 5, 0.7)
        assert mask.visible == 3 and not mask.hidden[0, place]


def test_patches_in_another_order_are_left_out_and_relate_in_that_order() -> None:
    states, order = [torch.randn(2, 16, 8) for _ in range(3)], torch.randperm(16)
    mask = redundant(states, 0.8)
    moved = redundant([x[:, order] for x in states], 0.8)
    assert torch.equal(moved.hidden, mask.hidden[:, order])
    system, batch = make(masking=Nothing(), **{"encoder.positions": "none"}), images()
    tokens = system.tokenizer(batch)
    whole = system.relation_target.relate(batch, tokens)[0]
    first = next(system.relations(whole, *seen(system, batch)[1:]))
    values = tokens.values[:, order]
    other = {**batch, "image": system.tokenizer.inverse(values)}
    swapped = Tokens(whole.values[:, order], whole.position, whole.grid, prefix=whole.prefix)
    second = next(system.relations(swapped, *seen(system, other)[1:]))
    places = torch.cat([torch.tensor([0]), 1 + order])
    for one, two in zip(first[:2], second[:2], strict=True):
        expected = one.view(4, 17, 17, 2)[:, places][:, :, places]
        torch.testing.assert_close(two.view(4, 17, 17, 2), expected, rtol=1e-4, atol=1e-4)


def test_what_is_left_out_depends_on_the_image_alone_and_reaches_the_teachers() -> None:
    system, batch = make().eval(), images()
    hidden = system.masks(batch, STEP)["mask"].mask.hidden
    tokens = system.tokenizer(batch)
    assert torch.equal(system.draw(tokens, batch, Step(9, 10, seed=5)).hidden, hidden)
    alone = {key: value[2:3] for key, value in batch.items()}
    assert torch.equal(system.draw(system.tokenizer(alone), alone, STEP).hidden, hidden[2:3])
    third = make(stages=(6,), keep_share=0.66).draw(tokens, batch, STEP)
    assert third.visible == 11 and not torch.equal(third.hidden, hidden)
    system.masking = Nothing()
    system.masking = Fixed(hidden)
    batch["image"].requires_grad_()
    torch.stack([*system(batch, STEP).values()]).sum().backward()
    grad = system.tokenizer({"image": batch["image"].grad}).values.abs().sum(-1)
    assert torch.equal(grad == 0, hidden)


class Fixed:
    """Hides the same always."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden

    def __call__(self, request: Request) -> Mask:
        return Mask(self.hidden, int((~self.hidden[0]).sum()))


def test_other_masks_take_its_place() -> None:
    system, batch = make(masking={"name": "core/random", "ratio": 0.34}), images()
    first, second = (system.masks(batch, Step(i, 10))["mask"].mask for i in (1, 2))
    assert first.visible == 11 and not torch.equal(first.hidden, second.hidden)
    by_score = make(masking="core/top-score", score="vision/variance", **{"masking.ratio": 0.5})
    tokens = by_score.tokenizer(batch)
    variance, hidden = tokens.values.var(-1), by_score.draw(tokens, batch, STEP).hidden
    assert (variance.where(hidden, torch.inf).amin(1) > variance.where(~hidden, -torch.inf).amax(1)).all()


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder.depth": 2}, "have no match, counted from the last, in an encoder of 2"),
        ({"relation_weights": (1.0,)}, "give one for each of"),
        ({"relation_target": "vision/pixels"}, "gives no queries and keys"),
        ({"stages": (1, 7)}, "give blocks from 1 to 6"),
        ({"keep_share": 0.0}, "a share above 0"),
        ({"head": "none", "encoder.dim": 32}, "the encoder is 32 wide, the target 64"),
        ({"relation_target": {"name": "vision/relations"}}, "whose relations"),
    ],
)
def test_what_cannot_be_matched_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_students_of_another_depth_are_matched_from_the_last_block() -> None:
    system = make(**{"encoder.depth": 4})
    assert system.blocks == (2, 3) and list(system(images(), STEP)) == [
        "features",
        "relations 2",
        "relations 3",
    ]


# ----------------------------------------------------------------------------------- report, training


def test_pictures_are_those_of_forward_and_all_three_networks_are_drawn() -> None:
    system, batch = make(**{"encoder.depth": 4}), images()
    preview = system.preview(batch, STEP)
    hidden = system.masks(batch, STEP)["mask"].mask.hidden
    for name in ("kept", "error of the features (bright: large)"):
        shown = system.tokenizer({"image": preview.media[name]}).values
        assert not shown[hidden].any() and shown[~hidden].abs().sum(-1).all()
    assert len(preview.lines) == 3
    for lines in preview.lines.values():
        assert list(lines) == ["student", "teacher of features", "teacher of relations"]
        finite = [int(line.isfinite().sum()) for line in lines.values()]
        assert finite in ([4, 6, 6], [5, 6, 6])


def test_the_student_of_the_recipe_has_both_teachers(recipe: Path) -> None:
    student: Any = Run.open(recipe / "student").system
    for name, target in (("feature", student.target), ("relation", student.relation_target)):
        teacher: Any = Run.open(recipe / f"{name}-teacher").system
        own, theirs = teacher.encoder.state_dict(), target.network.module.encoder.state_dict()
        assert all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.mark.slow
def test_held_out_digits_are_matched_better_than_by_means() -> None:
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    pixels = (pixels - pixels.mean()) / pixels.std()
    system = make(8, 1, **{"tokenizer.patch_size": 2})
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3)
    for index in range(60):
        ids = torch.randint(1200, (32,), generator=torch.Generator().manual_seed(index))
        losses = system({"image": pixels[ids], "id": ids}, Step(index, 60))
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
    batch = {"image": pixels[1200:1400], "id": torch.arange(200)}
    with torch.no_grad():
        learned = system.eval()(batch, STEP)
        relations, states, mask = seen(system, batch)
        means = {}
        for block, (_, theirs, _) in zip(
            system.blocks, system.relations(relations, states, mask), strict=True
        ):
            means[f"relations {block}"] = F.smooth_l1_loss(theirs.mean(0).expand_as(theirs), theirs)
        wanted = system.predict(batch, system.tokenizer(batch), mask)[1].values
        means["features"] = F.smooth_l1_loss(wanted.mean((0, 1)).expand_as(wanted), wanted)
    assert all(learned[name] < 0.9 * cost for name, cost in means.items()), (learned, means)


def test_the_teachers_stay_as_they_are() -> None:
    system = make()
    before = copy.deepcopy([system.target.state_dict(), system.relation_target.state_dict()])
    system.train()
    assert not any(
        m.training for m in (*system.target.network.modules(), *system.relation_target.network.modules())
    )
    torch.stack([*system(images(), STEP).values()]).sum().backward()
    for state, target in zip(before, (system.target, system.relation_target), strict=True):
        assert all(torch.equal(state[k], v) for k, v in target.state_dict().items())


@pytest.mark.compile
def test_compiles_without_graph_breaks() -> None:
    torch._dynamo.reset()
    system, batch = make(), images()
    compiled = torch.compile(system, backend="eager", fullgraph=True)
    expected = system(batch, STEP)
    for name, loss in compiled(batch, STEP).items():
        torch.testing.assert_close(loss, expected[name])
