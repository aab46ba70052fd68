"""What an answer depends on, as ``look`` draws it: the rest is covered."""

from __future__ import annotations

import numpy as np
import torch

from polymask.maskings import Random
from polymask.report import views
from polymask.report.look import mask_sheet


def test_what_an_answer_depends_on_stays_as_it_is(gradients, pixels, looker):
    class Explains(looker):
        def explain(self, batch, step):
            assert not self.training and not torch.is_grad_enabled()
            left = torch.zeros(len(batch["id"]), 6, 8)
            left[:, :, :4] = 1
            return left

    sight = mask_sheet(Explains(Random(ratio=0.5)), gradients(), samples=3, draws=1, masks=40)
    *_, caption = sight.rows
    assert caption == "what the answer\ndepends on"
    for original, shown in zip(sight.originals, sight.rows[caption], strict=True):
        half = original.shape[1] // 2
        assert np.array_equal(shown[:, :half], original[:, :half])
        assert (np.abs(shown[:, half:] - original[:, half:]).max(axis=2) > 0.1).mean() > 0.9
    silent = mask_sheet(looker(Random(ratio=0.5)), gradients(), samples=3, draws=1, masks=40)
    assert list(silent.rows) == ["student\nstep 0"]


def test_maps_may_be_finer_than_tokens(gradients, pixels, looker):
    class Explains(looker):
        def explain(self, batch, step):
            return torch.linspace(0, 1, 16).expand(len(batch["id"]), 12, 16)

    batch = views.batch_of(gradients().split("test"), [0, 1])
    view = views.explanation(Explains(Random()), batch, None)
    assert view.grid == (12, 16) and view.on_picture and view.tokens is None
    assert torch.equal(view.hidden[1, 3], 1 - torch.linspace(0, 1, 16))
