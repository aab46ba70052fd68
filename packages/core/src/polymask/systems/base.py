"""System, the base of every published system, and Host, the base of systems that wrap another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from polymask import functional
from polymask.mask import Mask
from polymask.parts import slot_kind
from polymask.protocols import Batch, Encoder, Losses, Media, Target, Tokenizer
from polymask.step import Step
from polymask.tokens import Tokens


@dataclass(frozen=True, eq=False)
class MaskView:
    """One mask that ``forward`` draws, and what its sites are.

    Args:
        mask: the mask.
        tokens: the tokens that the mask is over; None where its sites are not tokens (frequencies, features).
        batch: the input that these tokens are of, where the system moved, joined or cut its samples first;
            None where it is the batch itself.
    """

    mask: Mask
    tokens: Tokens | None = None
    batch: Batch | None = None


@dataclass(frozen=True, eq=False)
class Preview:
    """What a report shows of a batch.

    Args:
        media: by caption, images ``[B, ...]`` in the units of the data, or B objects that display themselves.
        lines: by title, one number per depth, float ``[1 + blocks]``: first the embedding; NaN for none. Or
            several such lines for one chart, by name.
    """

    media: Mapping[str, Tensor | Sequence[Media]] = field(default_factory=dict)
    lines: Mapping[str, Tensor | Mapping[str, Tensor]] = field(default_factory=dict)


class System(nn.Module):
    """One published system: what is masked, what is predicted, how it is scored.

    A plain module that works in any training loop::

        loss = sum(system(batch, Step(i, total, seed)).values())
        loss.backward()
        system.after_backward(step)
        optimizer.step()
        system.after_step(step)

    Everything but ``forward`` has a default. ``draw``, ``encode``, ``masks`` and ``example`` use the slots
    ``tokenizer``, ``encoder``, ``masking`` and ``score`` of systems that have them.
    """

    leaves_out: ClassVar[bool] = False
    """Whether the encoder gets visible tokens alone: encoders of whole grids and soft masks are refused."""

    supervised: bool = False
    """Whether batches hold ``"label"``, int64 ``[B]``, the class of each sample, -1 where it is unknown."""

    unused: Mapping[str, str] = {}
    """Trainable parameters that get no gradient, by name, and why."""

    least_batch: int = 1
    """Minimum number of samples per batch."""

    tokenizer: Tokenizer
    encoder: Encoder
    masking: Any
    """A Masking; None in systems that may run without one."""
    score: Target | None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "encoder" and self.leaves_out:
            functional.require_subset_encoder(type(self).__name__.lower(), value)
        super().__setattr__(name, value)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Weighted losses by name, float32 scalars; training minimises their sum.

        Must also run where gradients are disabled: training tries it before the first step, and evaluations
        call it. A system that differentiates here does so under ``torch.enable_grad()``.
        """
        raise NotImplementedError

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        """One mask per sample over its tokens, the same for the same batch and step.

        Args:
            tokens: the tokens of the batch.
            batch: for the sample ids and the scores.
            step: the source of time and chance.
            stream: separates the draws of one step.

        Raises:
            UserError: a soft mask, in a system that leaves masked tokens out.
        """
        score = getattr(self, "score", None)
        mask = functional.draw_mask(self.masking, tokens, batch, step, score, stream)
        if self.leaves_out:
            functional.require_hard_mask(type(self).__name__.lower(), self.masking, mask)
        return mask

    @property
    def backbone(self) -> Encoder:
        """The encoder that pre-training is for: its features are probed, its weights exported."""
        return self.encoder

    def encode(self, batch: Batch) -> Tokens:
        """Features of the unmasked input."""
        return functional.encode(self.tokenizer, self.backbone, batch)

    def example(self, n: int, seed: int = 0) -> Batch:
        """``n`` random samples, by default those of its tokenizers; global generators stay untouched."""
        batch: Batch = {}
        for name in (*vars(self), *self._modules):
            if slot_kind(name) == "tokenizers":
                batch |= getattr(self, name).example(n, seed)
        return batch

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        """The masks that ``forward`` draws at this step, by name, without the cost of a forward pass."""
        if getattr(self, "masking", None) is None:
            return {}
        tokens = self.tokenizer(batch)
        return {"mask": MaskView(self.draw(tokens, batch, step), tokens)}

    def preview(self, batch: Batch, step: Step) -> Preview:
        """What a report shows of a batch; it may take a forward pass, and needs no gradient."""
        return Preview()

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """What to log beside the losses, by name.

        Scalars are logged as they are. Features ``[B, D]`` or ``[B, N, D]`` are checked for collapse: what
        the system predicts, if it is learned.
        """
        return {}

    def after_backward(self, step: Step) -> None:
        """Called when gradients are complete, before the optimiser step."""

    def after_step(self, step: Step) -> None:
        """Called after the optimiser step: EMA teachers are updated here."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with an optimiser setting of their own.

        Each group is a dict of ``params``, and of ``weight_decay`` and ``lr_scale`` where they
        differ: a factor on the learning rate, or a function of the step that returns one.
        """
        return []

    def sample_weights(self, step: Step) -> Tensor | None:
        """How likely each training sample is to be drawn at a step: a curriculum over the data.

        A pure function of the step, called some steps ahead of training. None, the default, means
        plain epochs.

        Returns:
            float ``[samples]`` >= 0, up to scale; the samples of a step are drawn without replacement.
        """
        return None

    def schedule(self, step: Step) -> Mapping[str, float]:
        """What changes over the run by design, in [0, 1] by name, for a report to plot."""
        return {}


HOOKS = (
    *("draw", "encode", "example", "masks", "preview", "monitor"),
    *("after_backward", "after_step", "parameter_groups", "sample_weights", "schedule"),
)
"""The methods of a system that a host passes on. ``forward`` is its own."""


class Host(System):
    """A system that wraps another one and adds to its ``forward``.

    Every method in :data:`HOOKS` calls the one of the wrapped system, and so does every attribute that the
    host lacks (``tokenizer``, ``encoder``, ``masking``): a subclass writes what differs.

    Args:
        host: the wrapped system.
    """

    host: System
    tokenizer: Any
    encoder: Any

    def __init__(self, host: System) -> None:
        super().__init__()
        self.host = host
        self.unused = {f"host.{name}": why for name, why in host.unused.items()}
        self.least_batch, self.supervised = host.least_batch, host.supervised

    @property
    def backbone(self) -> Encoder:
        """That of the wrapped system."""
        return self.host.backbone

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "host":
                raise
            return getattr(self.host, name)


def _passed_on(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(System, name))
    def hook(self: Host, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.host, name)(*args, **kwargs)

    return hook


for _name in HOOKS:
    setattr(Host, _name, _passed_on(_name))


def implementing(system: System, protocol: type[Any]) -> Any:
    """The system itself, or the one that it hosts, if it has a capability; None if neither has.

    Args:
        system: the system. A host that has the capability itself inherits from the protocol.
        protocol: a runtime-checkable protocol.
    """
    # not by isinstance alone, which finds what falls through to the host up to Python 3.11 only
    while isinstance(system, Host) and protocol not in type(system).__mro__:
        system = system.host
    return system if isinstance(system, protocol) else None
