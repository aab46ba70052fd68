"""A part under test: how it is built small, and where its input comes from."""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask.config import PartConfig, Source, options_of, resolve_part
from polymask.errors import UserError
from polymask.parts import Part, slot_kind
from polymask.plugins.registry import FIRST_PARTY, Registry
from polymask.protocols import Batch, Tokenizer
from polymask.tokens import Tokens


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators, and put them back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def generator_states() -> dict[str, str]:
    """States of the global generators, to see whether one was used."""
    return {
        "Python": repr(random.getstate()),
        "numpy": repr(np.random.get_state(legacy=False)),
        "torch": repr(torch.get_rng_state().tolist()),
    }


class StandIn:
    """Tokens of random numbers on a grid that is not square, for parts bound to no modality."""

    key = "x"

    def __init__(self, *, grid: tuple[int, ...] = (4, 6), in_dim: int = 12) -> None:
        self.grid, self.in_dim = grid, in_dim

    @property
    def provides(self) -> dict[str, Any]:
        """Facts as of an image of one-pixel patches: a part bound to no modality must bear them all."""
        image = {"size": self.grid, "channels": self.in_dim, "patch_size": 1}
        return {"in_dim": self.in_dim, "grid": self.grid, **image}

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens:
        x = batch[self.key]
        axes = [torch.arange(float(n)) for n in self.grid]
        position = torch.cartesian_prod(*axes).view(-1, len(self.grid))
        return Tokens(x, position.expand(len(x), -1, -1), self.grid)

    def inverse(self, values: Tensor) -> Tensor:
        """The entry of the batch that tokens of these values come from."""
        return values

    def example(self, n: int, seed: int = 0) -> Batch:
        """Normal noise ``[n, sites, in_dim]``."""
        generator = torch.Generator().manual_seed(seed)
        sites = torch.Size(self.grid).numel()
        return {self.key: torch.randn(n, sites, self.in_dim, generator=generator)}


class Subject:
    """A part under test.

    It is built at its preset ``"tiny"`` where it has one, and so is every part in its slots. Its
    input is the :meth:`polymask.protocols.Tokenizer.example` of a tokenizer of its modality (for a system,
    its own ``example``), so a new modality needs nothing here.

    Args:
        part: declaration, as a registry gives it.
        registry: where the parts in its slots are looked up.
        options: constructor options over the preset.
        tokenizer: name of the tokenizer to make inputs with.
    """

    def __init__(
        self,
        part: Part,
        registry: Registry,
        options: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
    ) -> None:
        self.part, self.registry, self.options = part, registry, dict(options or {})
        self._tokenizer = tokenizer

    @functools.cached_property
    def cls(self) -> type:
        """The class the part names."""
        found: type = self.part.load()
        return found

    @property
    def absent(self) -> str:
        """The first plugin of ours whose parts it is made of by default, and which is not installed."""
        here = {"core", *(record.name for record in self.registry.plugins if record.status == "ok")}
        slots = {key: value for key, value in self.part.defaults.items() if slot_kind(key)}
        named = (str(value).partition("/")[0] for value in slots.values())
        return next((name for name in named if name in FIRST_PARTY and name not in here), "")

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Options by name: parameters of the constructor, or of a recipe after its stage."""
        found = [inspect.signature(source).parameters for source in self.part.load_all()]
        return {name: p for some in found for name, p in some.items() if p.kind is not p.POSITIONAL_ONLY}

    def make(self, seed: int = 0, **options: Any) -> Any:
        """A fresh part, its weights drawn from ``seed``.

        Raises:
            UserError: it refuses the options.
        """
        facts = {} if self.part.kind in ("tokenizers", "systems", "datasets") else self.tokenizer.provides
        config = self._tiny(self.part, self.options, options)
        with seeded(seed):
            return config.build(facts)

    @property
    def made(self) -> Any:
        """One part for all checks that do not change it.

        Raises:
            UserError: it refuses the options.
        """
        if isinstance(self._made, UserError):
            raise self._made
        return self._made

    @functools.cached_property
    def _made(self) -> Any:
        try:
            return self.make()
        except UserError as error:
            return error

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """What makes tokens for this part; the part itself where it is a tokenizer."""
        made: Tokenizer = StandIn()
        if self.part.kind == "tokenizers":
            made = self.make()
        elif self._tokenizer is not None:
            made = self._build(self.registry.find("tokenizers", self._tokenizer))
        elif self.part.modality != "any":
            fitting = [p for p in self.registry.parts("tokenizers") if p.fits(self.part.modality)]
            # one of raw content, rather than of codes that are made of it
            fitting.sort(key=lambda p: (p.plugin != self.part.plugin, "invertible" not in p.tags))
            made = self._build(fitting[0]) if fitting else made
        return made

    def batch(self, n: int = 4, seed: int = 0) -> Batch:
        """Random input with ids that are not the rows' numbers, and what a target asks for beside it."""
        batch = dict(self.tokenizer.example(n, seed))
        if self.part.kind == "targets" and hasattr(self.made, "example"):
            batch |= self.made.example(n, seed)
        return with_ids(batch, n, seed)

    def tokens(self, n: int = 4, seed: int = 0) -> Tokens:
        """The same as tokens."""
        return self.tokenizer(self.batch(n, seed))

    def batch_for(self, system: Any, n: int = 4, seed: int = 0) -> Batch:
        """Random input for a system, with labels of ten classes and -1 where it is supervised."""
        batch = with_ids(system.example(n, seed), n, seed)
        return batch | {"label": batch["id"] % 11 - 1} if system.supervised else batch

    def _build(self, part: Part) -> Any:
        return self._tiny(part).build()

    def _tiny(self, part: Part, *given: Mapping[str, Any]) -> PartConfig:
        """A part and those in its slots at preset ``"tiny"``, stand-ins for tokenizers nobody chose."""
        missing = {name for name, option in options_of(part).items() if option.slot == "tokenizers"}
        missing -= {name.partition(".")[0] for name in part.defaults}
        sources = [Source("stand-ins", {name: StandIn() for name in missing})]
        sources += [Source("arguments", options) for options in given]
        preset = "tiny" if "tiny" in part.presets else None
        found = resolve_part(part, *sources, registry=self.registry, preset=preset, inner="tiny")
        return found.require()


def with_ids(batch: Mapping[str, Tensor], n: int, seed: int) -> Batch:
    """The batch with ids of samples that are neither in order nor the rows' numbers."""
    return {**batch, "id": (torch.arange(n) * 7919 + 31 * seed + 5) % 100_003}


def rows(batch: Mapping[str, Tensor], which: Any) -> Batch:
    """Some samples of a batch."""
    return {key: value[which] for key, value in batch.items()}


def identical(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, NaN (padding, for some) included."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
