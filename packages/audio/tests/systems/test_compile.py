"""Systems of sound compile in one graph, once for all steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Step, build

HIDDEN_ALONE = ("audio/mae", "audio/openbeats")
"""Of sounds of several lengths these ask the device how many tokens are hidden."""


@pytest.mark.compile
@pytest.mark.parametrize(
    "name",
    ["audio/hubert", "audio/simmim", "audio/spear", "audio/openbeats-tokenizer", *HIDDEN_ALONE],
)
def test_forward_is_one_graph(name: str) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    facts = {"rate": 16000, "seconds": 0.4} if name in HIDDEN_ALONE else {"rate": 16000}
    system: Any = build(name, preset="tiny", facts=facts).eval()
    counter = CompileCounter()
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    for i in range(3):
        batch: dict[str, Tensor] = {**system.tokenizer.example(4), "id": torch.arange(4) + i}
        losses, plain = (made(batch, Step(i, 10, 1)) for made in (compiled, system))
        assert losses.keys() == plain.keys()
        for key, loss in losses.items():
            torch.testing.assert_close(loss, plain[key])
    assert counter.frame_count <= 2
