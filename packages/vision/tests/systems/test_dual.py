"""Dual draws frames and captions to their own, so that patches lie in the space of captions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Step, UserError, build
from polymask_vision.evaluations.text_retrieval import EmbedsPairs

pytest.importorskip("polymask_language")

STEP = Step(3, 10, seed=1)
TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 24,
    "encoder.depth": 1,
    "encoder.heads": 2,
    "text_tokenizer.vocabulary": 16,
    "text_tokenizer.length": 8,
    "text_encoder.dim": 16,
    "text_encoder.depth": 1,
    "text_encoder.heads": 2,
    "dim": 8,
}
COLOURS = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]])


def make(frames: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    return build("vision/dual", facts={"frames": frames, "size": 16, "channels": 3}, **(TINY | options))


def scenes(n: int, seed: int = 0) -> tuple[Batch, Tensor]:
    """Noise with a square of one colour at each time, a caption of that colour; and where the square is."""
    generator = torch.Generator().manual_seed(seed)
    video = 0.7 * torch.randn(n, 4, 3, 16, 16, generator=generator)
    where = torch.zeros(n, 4, 4, 4, dtype=torch.bool)
    colour = torch.randint(3, (n,), generator=generator)
    for row in range(n):
        for t, place in enumerate(torch.randint(16, (4,), generator=generator).tolist()):
            y, x = divmod(place, 4)
            video[row, t, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 2 * COLOURS[colour[row], :, None, None]
            where[row, t, y, x] = True
    text = torch.stack([torch.full((n,), 2), 5 + colour, torch.full((n,), 3)], dim=1)
    lengths = torch.full((n,), 3)
    batch = {"video": video, "text": text, "text_length": lengths, "identity": colour, "id": torch.arange(n)}
    return batch, where


def test_each_patch_is_encoded_by_itself_and_knows_no_place() -> None:
    system, (batch, _) = make(), scenes(3)
    found = system.project(batch).values.view(3, 4, 4, 4, 8)
    other = {**batch, "video": batch["video"].clone()}
    other["video"][:, 2, :, 4:8, 8:12] += 1
    moved = (system.project(other).values.view(3, 4, 4, 4, 8) - found).abs().amax((0, 4))
    assert moved[2, 1, 2] > 1e-3 and (moved > 0).sum() == 1
    turned = system.project({**batch, "video": batch["video"].flip(1).roll(4, -1)}).values.view(3, 4, 4, 4, 8)
    torch.testing.assert_close(turned.flip(1).roll(-1, 3), found)
    torch.testing.assert_close(system.embed_image(batch), found.mean((1, 2, 3)))


def test_the_loss_is_infonce_both_ways_and_clips_of_one_caption_share() -> None:
    system, (batch, _) = make(**{"match_objective.learned": False}), scenes(5)
    # of one identity, whatever they say: of equal captions the loss is the same either way
    batch["identity"] = torch.tensor([0, 0, 1, 2, 2])
    image, text = (F.normalize(x, dim=1) for x in (system.embed_image(batch), system.embed_text(batch)))
    logits = image @ text.T / 0.07
    same = batch["identity"][:, None] == batch["identity"]
    q = same / same.sum(1, keepdim=True)
    rows, columns = (-(q * x.log_softmax(1)).sum(1).mean() for x in (logits, logits.T))
    torch.testing.assert_close(system(batch, STEP)["match"], (rows + columns) / 2)


def test_captions_are_the_mean_of_their_words_and_padding_says_nothing() -> None:
    system, (batch, _) = make(), scenes(3)
    longer = {**batch, "text": F.pad(batch["text"], (0, 4), value=7)}
    torch.testing.assert_close(system.embed_text(longer), system.embed_text(batch))
    whole = {**longer, "text_length": torch.full((3,), 7)}
    assert (system.embed_text(whole) - system.embed_text(batch)).abs().max() > 1e-3


def test_a_locked_text_encoder_stays_and_its_map_learns() -> None:
    system, (batch, _) = make(lock_text=True).train(), scenes(6)
    system(batch, STEP)["match"].backward()
    assert not any(p.requires_grad or p.grad is not None for p in system.text_encoder.parameters())
    assert not any(module.training for module in system.text_encoder.modules())
    assert system.text_map.weight.grad.any() and system.image_map.weight.grad.any()
    free = make().train()
    free(batch, STEP)["match"].backward()
    assert all(p.grad is not None for p in free.text_encoder.parameters() if p.requires_grad)


def test_features_are_those_of_all_patches_at_their_places() -> None:
    system, (batch, _) = make(), scenes(2)
    tokens = system.encode(batch)
    assert tokens.values.shape == (2, 64, 24) and tokens.grid == (4, 4, 4)
    torch.testing.assert_close(system.image_map(tokens.values), system.project(batch).values)
    assert isinstance(system, EmbedsPairs)
    assert {x.shape for x in system.preview(batch, STEP).media.values()} == {batch["video"].shape}


def test_a_class_token_stands_for_no_patch() -> None:
    system, (batch, _) = make(**{"encoder.class_token": True}), scenes(2)
    assert system.encoder.prefix == 1 and system.image_map.bias is None
    x = system.encoder.embed(system.tokenizer(batch).values[1, 37].view(1, 1, -1))
    alone = system.encoder(x, torch.zeros(1, 1, 3))
    torch.testing.assert_close(system.encode(batch).values[1, 37], alone[0, 1])


def test_reports_are_bright_where_the_caption_is_and_tell_what_is_matched() -> None:
    system, (batch, _) = make(), scenes(3)
    likeness = F.cosine_similarity(system.project(batch).values, system.embed_text(batch)[:, None], dim=-1)
    media = system.preview(batch, STEP).media
    shown = system.tokenizer({"video": media["where the caption is (bright: most like it)"]}).values[..., 0]
    assert torch.equal(shown.argmax(1), likeness.argmax(1))
    found = system.monitor(batch, STEP)
    torch.testing.assert_close(found["clips"], system.embed_image(batch).detach())
    torch.testing.assert_close(found["captions"], system.embed_text(batch).detach())
    assert not any(x.requires_grad for x in found.values())
    system.tokenizer = torch.nn.Identity()  # which puts no pictures together
    assert not system.preview(batch, STEP).media


def test_what_cannot_be_matched_is_refused() -> None:
    batch, _ = scenes(2)
    with pytest.raises(UserError, match="MSE does not"):
        make(match_objective="core/mse")
    with pytest.raises(UserError, match="--data.text_vocab bpe"):
        make()({"video": batch["video"], "id": batch["id"]}, STEP)


@pytest.mark.slow
def test_patches_come_to_match_the_caption_where_it_is_so_and_not_another_caption() -> None:
    """The sign of the maps: CLIP's own are often inverted, with the ground above the object."""
    system = make()
    optimiser = torch.optim.AdamW(system.parameters(), 5e-3)
    for index in range(100):
        batch, _ = scenes(24, seed=index)
        optimiser.zero_grad()
        system(batch, Step(index, 100))["match"].backward()
        optimiser.step()
    system.eval()
    batch, where = scenes(60, seed=1000)
    other = {
        **batch,
        "text": torch.where(
            (batch["text"] > 4) & (batch["text"] < 8), 5 + (batch["text"] - 4) % 3, batch["text"]
        ),
    }
    with torch.no_grad():
        patches = system.project(batch).values
        right, wrong = (
            F.cosine_similarity(patches, system.embed_text(x)[:, None], dim=-1) for x in (batch, other)
        )
    for likeness, low, high in ((right, 0.9, 1.0), (wrong, 0.0, 0.1)):
        best = likeness.view(60, 4, 16).argmax(2, keepdim=True)
        assert low <= where.flatten(2).gather(2, best).float().mean() <= high
