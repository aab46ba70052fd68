"""Activations that carry what is visible of them through a network, operation by operation.

A mask goes beside them, as an attribute of the tensor that they are: each operation that it meets changes
both by a rule. So a network stays as another library made it. Rules are as published for layer masking
(Balasubramanian and Feizi 2022, arXiv 2211.14646), ``f`` being the operation:

* a convolution fills hidden places from visible neighbours, one ring further each time, as often as its
  kernel is wide; places under whose kernel nothing is visible are hidden behind it. What is filled in has no
  gradient.
* batch norm and activations: ``f(x)``, cleared where hidden. In training, statistics are those of visible
  places.
* pooling: a place is visible if any under its window is; means are over visible places.
* sums and products of two branches: visible where both are. Concatenations: where more than half of them are.

Zeros that pad an image are no hidden places: they are read. The released code divides no mean over a window
by the visible share of it, and joins the branches of basic blocks side by side, which cannot work.

Shapes: B samples, C channels, h rows and w columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Fill = Literal["neighbours", "none", "partial"]


class NoRule(Exception):
    """An operation of a network is none of those that are known."""


class Masked(Tensor):
    """Activations ``[B, C, h, w]``, 0 where hidden, that carry what is visible, 1 or 0, ``[B, 1, h, w]``."""

    seen: Tensor
    fill: Fill
    pad: Sequence[int]
    """Zeros that the next convolution puts around: they are read as they are, and are not filled."""

    @classmethod
    def of(cls, x: Tensor, seen: Tensor, fill: Fill, pad: Sequence[int] = ()) -> Masked:
        """Activations, cleared where hidden."""
        found: Any = torch.where(seen > 0, x, 0).as_subclass(cls)
        found.seen, found.fill, found.pad = seen, fill, pad
        return found  # type: ignore[no-any-return]

    @property
    def plain(self) -> Tensor:
        """Without the mask."""
        return self.as_subclass(Tensor)

    def then(self, x: Tensor, seen: Tensor | None = None) -> Masked:
        """What an operation made of it."""
        return Masked.of(x, self.seen if seen is None else seen, self.fill)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in ASKED or getattr(func, "__name__", "") == "__get__":
                return func(*args, **(kwargs or {}))
            rule = RULES.get(func)
            padded = any(isinstance(x, Masked) and x.pad for x in args)
            if rule is None or (padded and rule is not _convolve):
                raise NoRule(getattr(func, "__name__", str(func)))
            return rule(func, *args, **(kwargs or {}))


def _convolve(
    func: Any,
    x: Masked,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Masked:
    value, seen, kernel = x.plain, x.seen, weight.shape[-2:]
    reach = max((k - 1) * d + 1 for k, d in zip(kernel, _pair(dilation), strict=True))
    if x.fill == "neighbours" and reach > 1:  # a kernel of one place reads nothing else
        value = spread(value, seen, reach)
    value, seen = F.pad(value, x.pad), F.pad(seen, x.pad)
    window = (seen.new_ones(1, 1, *kernel), None, stride, padding, dilation)
    count = F.conv2d(seen, *window)
    if x.fill == "partial":
        share = count / F.conv2d(F.pad(torch.ones_like(x.seen), x.pad), *window)
        found = func(value, weight, None, stride, padding, dilation, groups) / share.clamp(min=1e-8)
        found = found if bias is None else found + bias[:, None, None]
    else:
        found = func(value, weight, bias, stride, padding, dilation, groups)
    return x.then(found, (count > 0).to(seen.dtype))


@torch.no_grad()
def spread(x: Tensor, seen: Tensor, rounds: int) -> Tensor:
    """Activations with hidden places filled by means of neighbours, one ring further each round.

    Gradient reaches what was visible alone, and not by what was filled in.

    Args:
        x: ``[B, C, h, w]``, 0 where hidden.
        seen: 1 where visible, else 0, ``[B, 1, h, w]``.
        rounds: how many rings are filled.
    """
    filled, known = x, seen
    for _ in range(rounds):
        near = F.avg_pool2d(known, 3, 1, 1)
        mean = F.avg_pool2d(filled, 3, 1, 1) / near.clamp(min=0.1)  # a neighbour more or less is a ninth
        filled = torch.where(known > 0, filled, mean)
        known = (near > 0).to(seen.dtype)
    with torch.enable_grad():
        return x + (filled - x).detach()


def _normalise(
    func: Any,
    x: Masked,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Masked:
    """Batch norm; in training by the statistics of visible places, over all samples."""
    if not training:
        return x.then(func(x.plain, running_mean, running_var, weight, bias, False, momentum, eps))
    value, count = x.plain.float(), x.seen.float().sum().clamp(min=1)
    mean = value.sum((0, 2, 3)) / count
    centred = torch.where(x.seen > 0, value - mean[:, None, None], 0)
    var = centred.square().sum((0, 2, 3)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            # as torch does it: a pass in which nothing was hidden keeps both for its backward
            running_mean.data.lerp_(mean.to(running_mean), momentum)
            running_var.data.lerp_((var * count / (count - 1).clamp(min=1)).to(running_var), momentum)
    found = centred * (var + eps).rsqrt()[:, None, None]
    found = found if weight is None else found * weight[:, None, None]
    found = found if bias is None else found + bias[:, None, None]
    return x.then(found.to(x.dtype))


def _each(func: Any, x: Masked, *args: Any, **kwargs: Any) -> Masked:
    """A function of each number by itself."""
    return x.then(func(x.plain, *args, **kwargs))


def _maximum(func: Any, x: Masked, *args: Any, **kwargs: Any) -> Masked:
    return x.then(func(x.plain, *args, **kwargs), func(x.seen, *args, **kwargs))


def _average(func: Any, x: Masked, *args: Any, **kwargs: Any) -> Masked:
    share = func(x.seen, *args, **kwargs)
    whole = func(torch.ones_like(x.seen), *args, **kwargs)  # less than 1 where padding counts
    found = func(x.plain, *args, **kwargs) * whole / torch.where(share > 0, share, 1)
    return x.then(found, (share > 0).to(share.dtype))


def _mean(func: Any, x: Masked, dim: Sequence[int], keepdim: bool = False) -> Tensor:
    """Over all visible places; 0 where there are none."""
    if tuple(d % 4 for d in _pair(dim)) != (2, 3):
        raise NoRule(f"mean over {dim}")
    total = x.plain.sum((2, 3), keepdim=keepdim)
    return total / x.seen.sum((2, 3), keepdim=keepdim).clamp(min=1)


def _both(func: Any, one: Any, other: Any) -> Masked:
    """A sum or a product: visible where both are, of what carries a mask."""
    masked = [x for x in (one, other) if isinstance(x, Masked)]
    value = func(*(x.plain if isinstance(x, Masked) else x for x in (one, other)))
    return masked[0].then(value, math.prod((x.seen for x in masked[1:]), start=masked[0].seen))


def _join(func: Any, parts: Sequence[Masked], dim: int = 0) -> Masked:
    if dim != 1 or not all(isinstance(x, Masked) for x in parts):
        raise NoRule(f"cat over {dim}")
    votes = torch.stack([x.seen for x in parts]).mean(0)
    return parts[0].then(func([x.plain for x in parts], 1), (votes > 0.5).to(votes.dtype))


def _surround(func: Any, x: Masked, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Masked:
    if mode != "constant" or value:
        raise NoRule(f"pad with {value if mode == 'constant' else mode}")
    return Masked.of(x.plain, x.seen, x.fill, pad)


def _pair(x: Any) -> tuple[int, ...]:
    return (x, x) if isinstance(x, int) else tuple(x)


ASKED = (Tensor.dim, Tensor.size, Tensor.new_empty, Tensor.expand_as, Tensor.as_subclass)
"""What does not depend on what a tensor holds, or gives one without a mask."""

RULES: Mapping[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.conv2d, F.conv2d), _convolve),
    F.batch_norm: _normalise,
    **dict.fromkeys(
        (
            *(F.relu, torch.relu, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.silu, F.gelu, F.hardswish),
            *(F.mish, F.hardsigmoid, torch.sigmoid, Tensor.sigmoid, F.dropout, Tensor.contiguous),
        ),
        _each,
    ),
    F.max_pool2d: _maximum,
    F.avg_pool2d: _average,
    Tensor.mean: _mean,
    **dict.fromkeys((Tensor.add, Tensor.mul, torch.add, torch.mul), _both),
    Tensor.add_: lambda func, one, other: _both(torch.add, one, other),
    Tensor.mul_: lambda func, one, other: _both(torch.mul, one, other),
    torch.cat: _join,
    F.pad: _surround,
}
"""What each operation does to activations and their mask; called with the operation and its arguments."""
