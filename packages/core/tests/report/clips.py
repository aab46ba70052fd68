"""A plugin of clips: a square that crosses the picture, cut into tubelets."""

from __future__ import annotations

import torch
from torch import nn

from polymask import Part, Preview, Tokens, hookimpl
from polymask.systems.mae import MAE
from polymask.types import Fact

FRAMES, SIDE, DURATION, PATCH = 8, 16, 2, 4
GRID = (FRAMES // DURATION, SIDE // PATCH, SIDE // PATCH)


class Tubelets:
    """Cuts ``[B, T, C, H, W]`` into boxes of 2 frames and 4 x 4 pixels."""

    key = "video"
    provides = {"in_dim": DURATION * 3 * PATCH**2, "grid": GRID}

    def __call__(self, batch):
        x = batch[self.key]
        time, rows, columns = GRID
        x = x.view(-1, time, DURATION, 3, rows, PATCH, columns, PATCH).permute(0, 1, 4, 6, 2, 3, 5, 7)
        position = torch.cartesian_prod(*(torch.arange(float(n)) for n in GRID))
        return Tokens(x.reshape(len(x), len(position), -1), position.expand(len(x), -1, -1), GRID)

    def inverse(self, values):
        x = values.view(-1, *GRID, DURATION, 3, PATCH, PATCH).permute(0, 1, 4, 5, 2, 6, 3, 7)
        return x.reshape(-1, FRAMES, 3, SIDE, SIDE)


class Squares:
    """White squares that move to the right, one pixel a frame, on a blue ground; no labels."""

    key, classes, skipped = "video", None, []
    provides = {"frames": FRAMES, "size": (SIDE, SIDE), "channels": 3}

    def __init__(self, *, n: int = 24) -> None:
        self.samples = [{"video": self.clip(i)} for i in range(n)]

    def clip(self, index):
        clip = torch.zeros(FRAMES, 3, SIDE, SIDE)
        clip[:, 2] = 0.6
        for t in range(FRAMES):
            clip[t, :, index % 10 : index % 10 + 6, t : t + 6] = 1
        return clip - 0.5

    def split(self, name, *, augment=False):
        return self.samples

    def labels(self, name):
        return None

    def to_image(self, x):
        return x + 0.5


class Net(nn.Module):
    prefix, downsample, needs_grid = 0, 1, False

    def __init__(self, *, in_dim: Fact[int] = 1, dim: int = 12) -> None:
        super().__init__()
        self.dim = self.out_dim = dim
        self.proj = nn.Linear(in_dim, dim)

    def embed(self, values):
        return self.proj(values)

    def forward(self, x, position, valid=None):
        return x


class Raw(nn.Module):
    def __init__(self, *, in_dim: Fact[int] = 1) -> None:
        super().__init__()
        self.dim = in_dim

    def forward(self, batch, tokens):
        return tokens.values

    def invert(self, prediction, tokens):
        return prediction, ""


class Faulty(MAE):
    """Everything it draws goes wrong."""

    def preview(self, batch, step):
        return Preview({"channels first": batch["video"].transpose(1, 2), "samples": batch["video"]})

    def masks(self, batch, step):
        raise KeyError("no masks here")


def part(name, cls, **more):
    return Part(name=name, target=f"{__name__}:{cls}", summary="of clips", modality="video", **more)


SLOTS = {
    "tokenizer": "clips/tubelets",
    "encoder": "clips/net",
    "target": "clips/raw",
    "masking": "core/random",
    "objective": "core/mse",
    "decoder_dim": 12,
    "decoder_depth": 1,
    "decoder_heads": 2,
}


@hookimpl
def polymask_register_systems():
    mae = Part(name="mae", target="polymask.systems.mae:MAE", summary="mae", modality="video", defaults=SLOTS)
    return [mae, part("faulty", "Faulty", defaults=SLOTS)]


@hookimpl
def polymask_register_tokenizers():
    return [part("tubelets", "Tubelets")]


@hookimpl
def polymask_register_encoders():
    return [part("net", "Net")]


@hookimpl
def polymask_register_targets():
    return [part("raw", "Raw")]


@hookimpl
def polymask_register_datasets():
    return [part("squares", "Squares")]
