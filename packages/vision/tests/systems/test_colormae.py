"""ColorMAE is MAE but for its masks, which know nothing of the picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask import Step, build
from polymask.maskings import Color

TINY = {
    "tokenizer.patch_size": 2,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "decoder_dim": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
FACTS = {"size": (16, 16), "channels": 1}
STEP = Step(3, 10, seed=1)


def make(name: str = "vision/colormae", **options: Any) -> Any:
    torch.manual_seed(0)
    return build(name, facts=FACTS, **(TINY | options))


def pictures(n: int, seed: int) -> dict[str, Tensor]:
    x = torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return {"image": x, "id": torch.arange(n)}


def test_green_noise_hides_three_quarters_by_default_and_the_rest_is_mae() -> None:
    system, batch = make(), pictures(4, 0)
    mask = system.masks(batch, STEP)["mask"].mask
    assert isinstance(system.masking, Color) and system.masking.colors == Color(color="green").colors
    assert mask.visible == 16 and (mask.hidden.sum(1) == 48).all()
    mae = make("vision/mae", masking=lambda request: system.masking(request))
    assert torch.equal(mae(batch, STEP)["reconstruction"], system(batch, STEP)["reconstruction"])
    for preset in ("paper", "small", "tiny"):
        with torch.device("meta"):
            assert isinstance(
                build("vision/colormae", preset=preset, facts=FACTS | {"size": (224, 224)}), type(mae)
            )


def test_masks_know_nothing_of_the_picture() -> None:
    system, batch = make(), pictures(4, 0)
    other = {**batch, "image": torch.randn_like(batch["image"], requires_grad=True)}
    masks = [system.masks(b, STEP)["mask"].mask.hidden for b in (batch, other)]
    assert torch.equal(masks[0], masks[1]) and not masks[1].requires_grad
