"""Masked autoencoders of polymask and its peers around one encoder, for ``race_accuracy.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

import polymask

SIZE, PATCH, WIDTH, DEPTH, HEADS = 28, 7, 192, 6, 3

GRID = SIZE // PATCH


class Contestant(nn.Module):
    """A masked autoencoder. The forward pass is the loss of images, float32 ``[B, 3, 28, 28]``."""

    def features(self, x: Tensor) -> Tensor:
        """The mean over all patches of what the encoder makes of whole images, ``[B, D]``."""
        raise NotImplementedError


class Polymask(Contestant):
    """vision/mae as it is by default, or a preset of it."""

    def __init__(self, preset: str | None = None) -> None:
        super().__init__()
        size = {"encoder.dim": WIDTH, "encoder.depth": DEPTH, "encoder.heads": HEADS}
        size["tokenizer.patch_size"] = PATCH
        self.system = polymask.build("vision/mae", preset=preset, facts={"size": SIZE}, **size)
        self.at = 0

    def forward(self, x: Tensor) -> Tensor:
        self.at += 1
        batch = {"image": x, "id": torch.arange(len(x))}
        return self.system(batch, polymask.Step(self.at, 10**9, 0))["reconstruction"]

    def features(self, x: Tensor) -> Tensor:
        return self.system.encode({"image": x, "id": torch.arange(len(x))}).values.mean(1)


class Transformers(Contestant):
    """transformers' ViTMAEForPreTraining; its target is not normalised by default."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        size = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
        size |= {"intermediate_size": 4 * WIDTH, "image_size": SIZE, "patch_size": PATCH}
        self.model = ViTMAEForPreTraining(ViTMAEConfig(**size, **options))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).loss

    def features(self, x: Tensor) -> Tensor:
        config = self.model.vit.config
        config.mask_ratio, ratio = 0.0, config.mask_ratio
        try:
            return self.model.vit(pixel_values=x).last_hidden_state[:, 1:].mean(1)
        finally:
            config.mask_ratio = ratio


class Lightly(Contestant):
    """The MAE of lightly's examples, which has a decoder of one block; its target is not normalised there."""

    def __init__(self) -> None:
        super().__init__()
        from lightly.models import utils
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        self.utils = utils
        self.encoder = MaskedVisionTransformerTIMM(vit=vit())
        self.decoder = MAEDecoderTIMM(
            num_patches=GRID**2,
            patch_size=PATCH,
            embed_dim=WIDTH,
            decoder_embed_dim=512,
            decoder_depth=1,
            decoder_num_heads=16,
            mlp_ratio=4.0,
            proj_drop_rate=0.0,
            attn_drop_rate=0.0,
        )

    def forward(self, x: Tensor) -> Tensor:
        u, size = self.utils, (len(x), GRID**2 + 1)
        keep, mask = u.random_token_mask(size=size, mask_ratio=0.75)
        encoded = self.decoder.embed(self.encoder.encode(images=x, idx_keep=keep))
        full = u.repeat_token(self.decoder.mask_token, size)
        decoded = self.decoder.decode(u.set_at_index(full, keep, encoded.type_as(full)))
        predicted = self.decoder.predict(u.get_at_index(decoded, mask))
        return nn.functional.mse_loss(predicted, u.get_at_index(u.patchify(x, PATCH), mask - 1))

    def features(self, x: Tensor) -> Tensor:
        return self.encoder.encode(images=x)[:, 1:].mean(1)


class StablePretraining(Contestant):
    """stable-pretraining's MAE, or its CrossMAE."""

    def __init__(self, method: str) -> None:
        super().__init__()
        from stable_pretraining import methods

        self.vit = vit()
        size = {"image_size": SIZE} if method == "CrossMAE" else {}
        self.model = getattr(methods, method)(self.vit, mask_ratio=0.75, **size)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).loss

    def features(self, x: Tensor) -> Tensor:
        return self.vit.forward_features(x)[:, 1:].mean(1)


class Birder(Contestant):
    """birder's MAE, or its CrossMAE."""

    def __init__(self, method: str) -> None:
        super().__init__()
        from birder.model_registry import registry
        from birder.net.vit import ViT

        config = {"patch_size": PATCH, "num_layers": DEPTH, "num_heads": HEADS, "hidden_dim": WIDTH}
        config |= {"mlp_dim": 4 * WIDTH, "drop_path_rate": 0.0}
        encoder = ViT(3, 0, config=config, size=(SIZE, SIZE))
        self.model = registry.mim_net_factory(method, encoder, size=(SIZE, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)["loss"]

    def features(self, x: Tensor) -> Tensor:
        encoder = self.model.encoder
        return encoder.masked_encoding_omission(x)["tokens"][:, encoder.num_special_tokens :].mean(1)


CONTESTANTS: dict[str, tuple[Callable[[], Contestant], str]] = {
    "polymask": (Polymask, "polymask"),
    "polymask, fast": (lambda: Polymask("fast"), "polymask"),
    "transformers": (Transformers, "transformers"),
    "lightly": (Lightly, "lightly"),
    "stable-pretraining": (lambda: StablePretraining("MAE"), "stable-pretraining"),
    "stable-pretraining, CrossMAE": (lambda: StablePretraining("CrossMAE"), "stable-pretraining"),
    "birder": (lambda: Birder("mae_vit"), "birder"),
    "birder, CrossMAE": (lambda: Birder("crossmae"), "birder"),
}

UNTRAINED = {"untrained": CONTESTANTS["polymask"]}


def vit() -> nn.Module:
    """The encoder as timm has it."""
    return timm.models.VisionTransformer(
        img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0
    )
