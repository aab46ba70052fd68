"""What the conformance suite cannot know: that the parts do what they are for."""

import torch
from polymask_acme.maskings import Stripes
from polymask_acme.targets import Edges

from polymask import Request, Step, Tokens, build


def test_stripes_hide_whole_rows_or_columns():
    for axis in (0, 1):
        request = Request(ids=torch.arange(50), sites=24, step=Step(), grid=(4, 6))
        hidden = Stripes(axis=axis)(request).hidden.view(50, 4, 6)
        lines = hidden.float().mean(dim=2 - axis)
        assert set(lines.unique().tolist()) == {0.0, 1.0}
        assert (lines.mean(dim=1) == 0.5).all()


def test_edges_of_a_ramp():
    ramp = torch.arange(4.0).repeat(4, 1)[..., None]  # rises by one per column, not at all per row
    tokens = Tokens(ramp.view(1, 1, 16), torch.zeros(1, 1, 2), (1, 1))
    assert Edges(patch_size=4, channels=1)({}, tokens).tolist() == [[[0.0, 1.0]]]


def test_cnp_sees_the_mean_of_the_visible_tokens_and_nothing_else():
    facts = {"size": 16, "channels": 3}
    system = build("acme/cnp", preset="tiny", facts=facts, **{"tokenizer.patch_size": 4}).eval()
    batch = system.tokenizer.example(2)
    tokens, mask = system.tokenizer(batch), system.masks(batch, Step())["mask"].mask
    encode, prefix = system.encoder.forward, system.encoder.prefix
    predicted = system.predict(tokens, mask)

    def exchanged(x, position, valid=None):
        first, rest = encode(x, position, valid).split([prefix, x.shape[1]], dim=1)
        return torch.cat([first, rest.flip(1)], dim=1)

    system.encoder.forward = exchanged
    torch.testing.assert_close(system.predict(tokens, mask), predicted)
    system.encoder.forward = lambda *args: encode(*args) + 1
    assert not torch.allclose(system.predict(tokens, mask), predicted)
