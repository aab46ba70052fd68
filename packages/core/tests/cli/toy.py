"""A plugin of the smallest parts that a command line can set up and train."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from polymask import Part, System, UserError, functional, hookimpl
from polymask.evaluation import Measurement
from polymask.tokens import Tokens
from polymask.types import Fact


class Cells(nn.Module):
    """Sites of a picture, row by row.

    Args:
        size: rows and columns.
        patch: side of a cell.
    """

    key = "image"

    def __init__(self, *, size: Fact[tuple[int, int]] = (224, 224), patch: int = 1) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise UserError(f"cells of {patch} do not tile {size}")
        self.patch, self.grid = patch, (size[0] // patch, size[1] // patch)

    @property
    def provides(self):
        return {"in_dim": self.patch**2, "grid": self.grid}

    def forward(self, batch):
        x, p, (h, w) = batch["image"], self.patch, self.grid
        x = x.reshape(-1, h, p, w, p).transpose(2, 3).reshape(len(x), h * w, p * p)
        position = torch.cartesian_prod(torch.arange(float(h)), torch.arange(float(w)))
        return Tokens(x, position.expand(len(x), -1, -1), self.grid)


class Net(nn.Module):
    """One linear layer.

    Args:
        in_dim: numbers per token, from the tokenizer.
        dim: width.
        act: what follows the layer.
        depths: nothing, but a tuple.
    """

    prefix, downsample, needs_grid = 0, 1, False

    def __init__(
        self,
        *,
        in_dim: Fact[int] = 768,
        dim: int = 4,
        act: Literal["relu", "tanh"] = "relu",
        depths: tuple[int, ...] = (1, 1),
    ) -> None:
        super().__init__()
        self.dim = self.out_dim = dim
        self.proj, self.act = nn.Linear(in_dim, dim), getattr(torch, act)

    def embed(self, values):
        return values

    def forward(self, x, position, valid=None):
        return self.act(self.proj(x))


class Raw(nn.Module):
    """Tokens as they are.

    Args:
        in_dim: numbers per token, from the tokenizer.
        scale: factor.
    """

    def __init__(self, *, in_dim: Fact[int], scale: float = 1.0) -> None:
        super().__init__()
        self.dim, self.scale = in_dim, scale

    def forward(self, batch, tokens):
        return tokens.values * self.scale


class Mean(System):
    """Predicts every hidden token from the mean of the visible ones.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the visible tokens.
        target: what to predict.
        masking: what to hide.
        objective: how it is scored.
        score: evidence per token.
        bias: whether the head has one.
        gain: factor of the loss; in 100 % of cases 1.
    """

    def __init__(
        self,
        *,
        tokenizer,
        encoder,
        target,
        masking,
        objective,
        score=None,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score, self.gain = masking, objective, score, gain
        self.head = nn.Linear(encoder.out_dim, target.dim, bias=bias)

    def forward(self, batch, step):
        tokens = self.tokenizer(batch)
        mask = functional.draw_mask(self.masking, tokens, batch, step, self.score)
        seen = mask.keep(tokens)
        z = self.encoder(seen.values, seen.position).mean(dim=1, keepdim=True)
        prediction = self.head(z).expand(-1, tokens.shape[1], -1)
        return {"mse": self.gain * self.objective(prediction, self.target(batch, tokens), mask)}


class Other(Mean):
    """Another system, the same in all but name.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the visible tokens.
        target: what to predict.
        masking: what to hide.
        objective: how it is scored.
    """

    def __init__(self, *, tokenizer, encoder, target, masking, objective) -> None:
        super().__init__(
            tokenizer=tokenizer, encoder=encoder, target=target, masking=masking, objective=objective
        )


class Shapes:
    """Bright bars, lying or standing, in noise.

    Args:
        source: "bars", or "nothing" for a data set without samples.
        n: samples per split.
        size: height and width.
        labelled: whether labels are known.
        order: of the labels, "plain" or "turned".
    """

    key = "image"
    opened = 0

    def __init__(
        self,
        *,
        source: str = "bars",
        n: int = 32,
        size: tuple[int, int] = (4, 4),
        labelled: bool = True,
        order: str = "plain",
    ) -> None:
        Shapes.opened += 1
        self.order = order
        if source not in ("bars", "nothing"):
            raise UserError(f"no shapes are called {source!r}; there are bars and nothing")
        n = 0 if source == "nothing" else n
        self.n, self.size, self.labelled, self.skipped = n, tuple(size), labelled, []
        self.classes = ["lying", "standing"] if labelled else None
        self.provides = {"size": self.size, "channels": 1, "preparation": {"size": self.size}}

    def split(self, name, *, augment=False):
        return Bars(self.n, self.size, 0 if name == "train" else 1000)

    def labels(self, name):
        places = torch.arange(self.n)
        return (places % 2 if self.order == "plain" else places // 5 % 2) if self.labelled else None

    def to_image(self, x):
        return x.clamp(0, 1)


class Bars:
    def __init__(self, n, size, seed):
        self.n, self.size, self.seed = n, size, seed

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        x = torch.rand(1, *self.size, generator=torch.Generator().manual_seed(self.seed + index)) / 2
        (x[:, 0] if index % 2 == 0 else x[:, :, 0]).fill_(1.0)
        return {"image": x}


class Brightness:
    """How bright features are.

    Args:
        scale: factor.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, run):
        batch = {"image": run.data.split("test")[0]["image"][None]}
        for name, system in (("pre-trained", run.system), ("untrained", run.untrained())):
            assert not system.training
            yield Measurement(
                name, "brightness", self.scale * float(system.encode(batch).values.detach().mean())
            )
        yield Measurement("the moon", "brightness", 100.0, 99.0, 101.0)


class Asking:
    """Hides nothing, and asks how often.

    Args:
        n: how many times.
    """

    def __init__(self, *, n: int) -> None: ...


def twice(stage, /, *, steps: int = 2, second_masking="core/random"):
    """The same system twice, the second on what the first found.

    Args:
        stage: trains one.
        steps: of each.
        second_masking: of the second run.
    """
    first = stage("first", "toy/mean", preset="small", steps=steps)
    found = stage.folder / "found.txt"
    found.write_text(str(float(next(first.system.parameters()).sum())))
    stage("second", "toy/mean", preset="small", steps=steps, masking=second_masking, gain=2.0)


SLOTS = {
    "tokenizer": "toy/cells",
    "encoder": "toy/net",
    "target": "toy/raw",
    "target.scale": 2.0,
    "masking": "core/random",
    "objective": "core/mse",
}


SMALL = {
    "masking.ratio": 0.4,
    "encoder.dim": 8,
    "steps": 4,
    "batch_size": 8,
    "base_lr": 0.01,
    "data.n": 24,
    "data.unheard_of": 1,
}


def part(name: str, cls: str, **more) -> Part:
    return Part(name=name, target=f"{__name__}:{cls}", summary=f"{cls} of the toy", modality="image", **more)


@hookimpl
def polymask_register_systems():
    return [
        part("mean", "Mean", defaults=SLOTS, presets={"small": SMALL}, paper="Nobody 2026"),
        part("other", "Other", defaults=SLOTS),
        part("gone", "Nowhere", needs="pip install nowhere"),
    ]


@hookimpl
def polymask_register_tokenizers():
    return [part("cells", "Cells")]


@hookimpl
def polymask_register_encoders():
    return [part("net", "Net")]


@hookimpl
def polymask_register_maskings():
    return [part("asking", "Asking")]


@hookimpl
def polymask_register_targets():
    return [part("raw", "Raw")]


@hookimpl
def polymask_register_datasets():
    return [part("shapes", "Shapes")]


@hookimpl
def polymask_register_evaluations():
    return [part("brightness", "Brightness")]


@hookimpl
def polymask_register_recipes():
    return [part("twice", "twice")]
