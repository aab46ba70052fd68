"""OpenBEATs asks about hidden patches only, by their place; its tokenizer keeps codes on the sphere."""

from __future__ import annotations

import dataclasses
import math
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from polymask import Request, Step, Tokens, build
from polymask.data import collate
from polymask.recipes import run_recipe
from polymask_audio.systems.openbeats_tokenizer import Codebook

STEP = Step(3, 10, seed=1)
CLASSES, WIDTH = 11, 6


class Lookup:
    """Classes, or features, that are in the batch."""

    def __init__(self, dim: int = CLASSES) -> None:
        self.dim = dim

    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return batch["answer"]


def make(name: str = "openbeats", dim: int = CLASSES, rate: int = 1600, **options: Any) -> Any:
    torch.manual_seed(0)
    small = {"tokenizer.mels": 16, "tokenizer.patch_size": 4, "tokenizer.window_ms": 40.0}
    return build(
        f"audio/{name}", preset="tiny", facts={"rate": rate}, target=Lookup(dim), **(small | options)
    )


def sounds(system: Any, n: int = 4) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = system.tokenizer.example(n)
    shape, generator = system.tokenizer(batch).shape, torch.Generator().manual_seed(1)
    if system.target.dim == CLASSES:
        batch["answer"] = torch.randint(CLASSES, shape, generator=generator)
    else:
        batch["answer"] = torch.randn(*shape, WIDTH, generator=generator)
    return batch | {"id": torch.arange(n)}


def test_a_quarter_of_the_real_patches_is_seen() -> None:
    system = make()
    batch = sounds(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    seen = mask.keep(tokens)
    real = tokens.valid.sum(1)
    assert len(real.unique()) > 1
    assert torch.equal(seen.valid.sum(1), real - torch.floor(0.75 * real + 0.5).long())
    # in their order, and put back where they were
    place = seen.position[..., 0] * 4 + seen.position[..., 1]
    assert (place.diff(dim=1)[seen.valid[:, 1:]] > 0).all()
    back = mask.restore(seen.values, seen.values.new_zeros(1))
    visible = tokens.valid & ~mask.hidden
    assert torch.equal(back[visible], tokens.values[visible]) and (back[~visible] == 0).all()


def test_only_hidden_patches_teach() -> None:
    system = make()
    batch = sounds(system)
    hidden = system.masks(batch, STEP)["mask"].mask.hidden
    answer, other = batch["answer"], (batch["answer"] + 1) % CLASSES

    def learned(answer: Tensor) -> tuple[Tensor, Tensor]:
        system.zero_grad()
        loss = system(batch | {"answer": answer}, STEP)["tokens"]
        loss.backward()
        return loss.detach(), system.predictor.head.weight.grad.clone()

    before, changed = learned(answer), learned(torch.where(hidden, answer, other))
    assert torch.equal(before[0], changed[0]) and torch.equal(before[1], changed[1])
    assert not torch.equal(before[0], learned(torch.where(hidden, other, answer))[0])


def test_hidden_patches_are_not_seen() -> None:
    system = make().eval()
    batch = sounds(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)

    def logits(values: Tensor) -> Tensor:
        changed = Tokens(values, tokens.position, tokens.grid, valid=tokens.valid)
        return system.predict(changed, mask)

    before = logits(tokens.values)
    assert torch.equal(before, logits(mask.fill(tokens.values, torch.full_like(tokens.values, 9.0))))
    assert not torch.equal(before, logits(mask.invert().fill(tokens.values, torch.ones_like(tokens.values))))


def test_the_predictor_is_told_places() -> None:
    """Without positions all hidden patches of a sample get one answer, with them each its own."""
    system = make(**{"tokenizer.seconds": 0.5}).eval()
    batch = sounds(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    logits = system.predict(tokens, mask)
    assert (logits - logits[:, :1]).abs().amax(-1)[:, 1:].min() > 1e-3
    system.predictor.positions.table.zero_()
    logits = system.predict(tokens, mask)
    assert (logits - logits[:, :1]).abs().max() < 1e-5


def test_chance_costs_the_logarithm_of_the_classes() -> None:
    system = make(**{"objective.label_smoothing": 0.1})
    torch.nn.init.zeros_(system.predictor.head.weight)
    torch.testing.assert_close(system(sounds(system), STEP)["tokens"], torch.tensor(math.log(CLASSES)))


def test_pictures_fold_units_by_frequency() -> None:
    system = make().eval()
    columns = system.preview(sounds(system), STEP).media
    units = columns["units: true, predicted, which are hidden"][0]
    assert units.bands == 4 and "of 11 units" in units._repr_html_()
    assert columns["original"].shape == columns["visible"].shape


# --------------------------------------------------------------------------------- the tokenizer


def tokenizer_system(**options: Any) -> Any:
    return make("openbeats-tokenizer", WIDTH, **options)


def test_codes_stay_on_the_sphere_and_follow_what_chose_them() -> None:
    book = Codebook(4, 3, decay=0.9)
    book.book.copy_(F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]]), dim=-1))
    before = book.book.clone()
    z = F.normalize(torch.tensor([[[1.0, 0.2, 0], [1.0, 0, 0.2], [0, 1.0, 0]]]), dim=-1)
    ids = book.nearest(z)
    assert ids.tolist() == [[0, 0, 1]]
    book.watch(z, ids, torch.tensor([[True, True, False]]), STEP)
    assert torch.equal(book.book, before)
    book.follow()
    mean = F.normalize(z[0, 0] + z[0, 1], dim=0)
    torch.testing.assert_close(book.book[0], F.normalize(0.9 * before[0] + 0.1 * mean, dim=0))
    assert torch.equal(book.book[1:], before[1:])  # padding chose 1, nothing chose the others
    book.follow()
    torch.testing.assert_close(book.book.norm(dim=1), torch.ones(4))


def learned(own: slice | None = None) -> Tensor:
    """A codebook after its start and two steps, of a process's own rows of three batches."""
    own = own or (slice(0, 2), slice(2, 5))[dist.get_rank()]
    book = Codebook(6, 3, decay=0.9)
    batches = F.normalize(torch.randn(3, 5, 7, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    book.start(batches[0, own].flatten(0, 1))
    for index in (1, 2):
        z = batches[index, own]
        book.watch(z, book.nearest(z), torch.ones(z.shape[:2], dtype=torch.bool), Step(index, 3))
        book.follow()
    return book.book


@pytest.mark.slow
def test_codes_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "core" / "tests" / "processes.py"
    if not folder.is_file():
        pytest.skip("the core's tests are not here")
    for found in runpy.run_path(str(folder))["run"](__file__, "learned", tmp_path):
        torch.testing.assert_close(found, learned(slice(None)))


def test_the_decoder_is_told_places_and_not_padding() -> None:
    system = tokenizer_system().eval()
    tokens = system.tokenizer(sounds(system))
    codes = torch.randn(*tokens.shape, 8)
    real = tokens.valid
    assert not real.all()
    out = system.decode(codes, tokens)
    moved = dataclasses.replace(tokens, position=tokens.position.flip(1))
    assert not torch.allclose(system.decode(codes, moved)[real], out[real], atol=1e-3)
    other = torch.where(real[..., None], codes, 9.0)
    torch.testing.assert_close(system.decode(other, tokens)[real], out[real])


def test_commitment_draws_patches_to_their_codes() -> None:
    system = tokenizer_system()
    system(sounds(system), STEP)["commitment"].backward()
    assert system.quantiser.to_code[2].weight.grad.any() and system.head.weight.grad is None


def test_labels_are_smoothed_by_a_tenth_unless_told_otherwise() -> None:
    assert make().objective.label_smoothing == 0.1


def test_codes_start_among_the_first_batch_and_not_in_eval() -> None:
    system = tokenizer_system()
    batch, before = sounds(system), system.codebook.book.clone()
    system.eval()(batch, Step(0, 10))
    assert torch.equal(system.codebook.book, before)
    system.train()(batch, Step(0, 10))
    used = system.quantiser(system.tokenizer(batch)).unique()
    assert not torch.equal(system.codebook.book, before) and len(used) > 4


def test_gradient_passes_straight_through_but_not_to_codes_and_teacher() -> None:
    system = tokenizer_system(commitment=0.0)
    batch = sounds(system)
    batch["answer"].requires_grad_()
    torch.autograd.backward(system(batch, STEP)["teacher"])
    assert system.quantiser.encoder.proj.weight.grad.abs().sum() > 0
    assert not system.codebook.book.requires_grad and batch["answer"].grad is None


def test_the_tokenizer_learns_what_it_distils() -> None:
    system = tokenizer_system(commitment=0.1)
    batch = sounds(system)
    values = system.tokenizer(batch).values[..., :WIDTH]
    batch["answer"] = values - values.mean((0, 1))
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3)
    losses = []
    for index in range(60):
        step = Step(index, 60)
        terms = system(batch, step)
        optimizer.zero_grad()
        torch.autograd.backward(sum(terms.values()))
        optimizer.step()
        system.after_step(step)
        losses.append(terms["teacher"].item())
    assert losses[-1] < 0.3 * losses[0]
    torch.testing.assert_close(system.codebook.book.norm(dim=1), torch.ones(16))
    valid = system.tokenizer(batch).valid
    assert len(system.quantiser(system.tokenizer(batch))[valid].unique()) > 1


def test_ten_seconds_at_16_khz_are_496_patches() -> None:
    tokenizer = build("audio/openbeats", preset="tiny", target=Lookup()).tokenizer
    batch = {"audio": torch.zeros(1, 160_000)}
    tokens = tokenizer(batch)
    assert tokens.shape == (1, 496) and tokens.values.shape[2] == 256
    assert Request.of(tokens, batch, STEP).sites == 496


@pytest.mark.slow
def test_the_recipe_hands_each_round_on_to_the_next(tmp_path: Path) -> None:
    data = {"name": "audio/words", "limit": 24}
    shared = {"steps": 2, "batch_size": 4, "workers": 0, "accelerator": "cpu"}
    options = {"rounds": 2, "preset": "tiny"}
    stage = run_recipe("audio/openbeats", data, tmp_path, options=options, shared=shared, progress=False)
    first, tokenizer, second = stage.done
    teacher = first.system.encoder.state_dict()
    taught = tokenizer.system.target.features.encoder.module.state_dict()
    assert all(torch.equal(taught[name], value) for name, value in teacher.items())
    batch = collate([stage.data.split("train")[i] for i in range(3)])
    tokens = second.system.tokenizer(batch)
    ids = second.system.target(batch, tokens)
    assert torch.equal(ids, tokenizer.system.quantiser(tokens))
    assert second.system.target.dim == 16
    for run in (tokenizer, second):  # what they name moves with the folder
        assert str(tmp_path) not in (run.folder / "config.yaml").read_text()
