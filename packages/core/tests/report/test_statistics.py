"""Statistics of maskings whose statistics are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from polymask import Mask, Step, UserError
from polymask.maskings import Color, Random
from polymask.report import views
from polymask.report.panels import panels_of
from polymask.report.statistics import describe, mask_statistics, neighbour_correlation


class Window:
    """A window of a fixed size at a random place; it leaves the grid and comes in again, or not."""

    def __init__(self, wrap):
        self.wrap = wrap

    def __call__(self, request):
        rows, columns = request.grid
        places = (rows, columns) if self.wrap else (rows - 3, columns - 2)
        noise = request.step.noise(request.ids, 2)
        top, left = ((noise[:, k] * places[k]).long()[:, None] for k in range(2))
        down = (torch.arange(rows) - top) % rows < 4
        across = (torch.arange(columns) - left) % columns < 3
        return Mask((down[:, :, None] & across[:, None]).flatten(1), rows * columns - 12)


def test_uniformly_random_masks():
    found = mask_statistics(Random(ratio=0.75), (7, 7), n=4096)
    assert found.masks == 4096 and found.coverage.shape == (7, 7)
    assert set(found.count.tolist()) == {37}
    assert found.ratio.tolist() == pytest.approx([37 / 49] * 4096)
    assert found.coverage.mean().item() == pytest.approx(37 / 49)
    # sites of a mask of fixed count: N - 1 degrees of freedom, correlation -1 / (N - 1)
    assert found.dof == pytest.approx(48, abs=0.5)
    assert found.neighbour_correlation == pytest.approx(-1 / 48, abs=0.01)
    assert found.chance_correlation == pytest.approx(-1 / 48)
    assert found.uniform


def test_chi2_is_pearsons_where_sites_are_independent_but_for_the_count():
    n, sites = 2000, 16
    hidden = mask_statistics_hidden(Random(ratio=0.5), n, (4, 4))
    found = describe(hidden, (4, 4))
    expected = n / 2
    pearson = ((hidden.sum(0) - expected) ** 2 / (expected / 2)).sum().item() * (sites - 1) / sites
    # the degrees of freedom are estimated, 15 but for sampling; the ratio to them is Pearson's
    assert found.chi2 / found.dof == pytest.approx(pearson / 15, rel=0.02)


def mask_statistics_hidden(masking, n, grid):
    from polymask import Request

    request = Request(torch.arange(n), math.prod(grid), Step(), grid=grid)
    return masking(request).hidden


def windows(k):
    return mask_statistics(Window(wrap=True), (8, 8), n=512, step=Step(k))


def varying_counts(k):
    generator = torch.Generator().manual_seed(k)
    ratio = 0.05 + 0.9 * torch.rand(512, 1, generator=generator)
    return describe(torch.rand(512, 36, generator=generator) < ratio, (6, 6))


@pytest.mark.parametrize("draw", [windows, varying_counts])
def test_p_values_are_uniform_where_coverage_is(draw):
    """Windows: a test that took sites for independent would reject nearly always. Varying counts:
    one that took them for noise in every site would hardly ever."""
    values = torch.tensor([draw(k).p_value for k in range(120)]).sort().values
    distance = (values - (torch.arange(120) + 0.5) / 120).abs().max().item()
    assert distance < 1.63 / math.sqrt(120)  # Kolmogorov and Smirnov, 1 %


def test_blocks_that_stay_inside_are_flagged():
    found = mask_statistics(Window(wrap=False), (8, 8), n=2048)
    assert not found.uniform and "not uniform" in found.verdict
    assert found.spread[0] < 0.1 < 0.35 < found.spread[1]
    assert mask_statistics(Window(wrap=True), (8, 8), n=2048).uniform


def test_a_slight_bias_is_flagged_where_masks_are_many():
    generator = torch.Generator().manual_seed(0)
    chance = torch.full((36,), 0.5)
    chance[:6] += 0.06
    hidden = torch.rand(20000, 36, generator=generator) < chance
    assert not describe(hidden, (6, 6)).uniform
    assert describe(torch.rand(20000, 36, generator=generator) < 0.5, (6, 6)).uniform


def test_the_same_mask_each_time_is_flagged():
    hidden = (torch.arange(9) < 4).expand(100, -1)
    found = describe(hidden, (3, 3))
    assert not found.uniform and found.chi2 == math.inf
    assert found.to_json()["chi2"] is None
    assert describe(torch.ones(100, 9, dtype=torch.bool), (3, 3)).uniform


def test_counts_that_vary_are_seen():
    hidden = torch.arange(10)[None] < torch.arange(2, 6).repeat(50)[:, None]
    found = describe(hidden, None)
    assert (found.count.min().item(), found.count.max().item()) == (2, 5)
    assert found.coverage.shape == (10,) and found.neighbour_correlation is None


def test_neighbour_correlation_in_closed_form():
    stripes = torch.zeros(1, 4, 6)
    stripes[:, :, ::2] = 1
    # along columns each pair differs (20 pairs), along rows each is equal (18 pairs)
    assert neighbour_correlation(stripes) == pytest.approx((18 - 20) / 38, abs=1e-6)
    checks = (torch.arange(4)[:, None] + torch.arange(6)) % 2
    assert neighbour_correlation(checks[None].float()) == pytest.approx(-1, abs=1e-6)
    halves = (torch.arange(100) < 50).float()[None]
    assert neighbour_correlation(halves) == pytest.approx(1, abs=0.05)


def test_the_spectrum_of_random_masks_is_level():
    for grid in ((7, 9), (40,), (3, 4, 5)):
        frequency, power = mask_statistics(Random(ratio=0.75), grid, n=4096).spectrum
        assert frequency.min() == pytest.approx(1 / max(grid), rel=0.3)
        assert power.tolist() == pytest.approx([1] * len(power), abs=0.1)


def test_the_spectrum_of_stripes_is_one_line():
    """A wave of period 4 across 16 columns: all of its power, shared by two of 127 frequencies."""
    wave = (torch.arange(16) // 2 % 2).bool().expand(8, 16)
    found = describe(torch.stack([wave, ~wave]).flatten(1), (8, 16))
    frequency, power = found.spectrum
    assert frequency[power.argmax()] == pytest.approx(0.25, abs=0.02)
    ring = ((torch.cartesian_prod(torch.fft.fftfreq(8), torch.fft.fftfreq(16)).norm(dim=1) * 16).round()) == 4
    assert power.max().item() == pytest.approx(127 / ring.sum().item())
    assert power.sum().item() == pytest.approx(power.max().item())
    assert found.to_json()["spectrum"][1] == power.tolist()


def test_the_spectrum_tells_colours():
    low, high = {}, {}
    for color in ("red", "blue", "green"):
        frequency, power = mask_statistics(Color(color=color), (14, 14), n=512).spectrum
        low[color], high[color] = power[0], power[frequency > 0.4].mean()
    assert low["red"] > 10 > low["green"] > 1 > low["blue"]
    assert high["blue"] > 1 > high["green"] > high["red"]


def test_masks_that_do_not_vary_over_sites_have_no_spectrum():
    assert describe(torch.ones(2, 4), (2, 2)).spectrum is None
    assert describe(torch.ones(2, 1), (1, 1)).spectrum is None
    assert describe(torch.eye(4), None).spectrum is None


def test_soft_masks_count_by_weight():
    found = describe(torch.full((10, 4), 0.25), (2, 2))
    assert found.coverage.tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_one_mask_is_refused():
    with pytest.raises(UserError, match="two masks"):
        describe(torch.ones(1, 4), (2, 2))


def test_a_site_that_a_soft_mask_hides_in_part_counts_in_part():
    found = describe(torch.tensor([[0.5, 0.25, 0.25, 0.0], [1.0, 1.0, 0.5, 0.5]]), (2, 2))
    assert found.count.tolist() == [1.0, 3.0] and found.to_json()["hidden"] == [1, 3]
    assert panels_of(found)[1].note == "1 to 3 of 4 sites"


@pytest.mark.parametrize("viewed", ["system", "masking"])
def test_few_samples_are_cut_once_however_many_masks_are_drawn(pixels, gradients, looker, viewed):
    class Counting(nn.Module):
        key, count = pixels.key, 0

        def forward(self, batch):
            self.count += 1
            return pixels(batch)

    tokenizer, samples = Counting(), gradients(20).split("train")
    system = looker(Random(ratio=0.5), tokenizer).eval()
    viewer = views.of_system(system) if viewed == "system" else system.viewer
    with torch.no_grad():
        (found,) = views.statistics_of(viewer, samples, Step(), masks=200).values()
        assert tokenizer.count == 1 and found.masks == 200
        # another batch is another's tokens
        for rows in (range(3), range(3, 6)):
            (view,) = viewer(views.batch_of(samples, rows), Step()).values()
            assert torch.equal(view.tokens.values, pixels(views.batch_of(samples, rows)).values)
        system.tokenizer(views.batch_of(samples, range(2)))
    assert tokenizer.count == 4
