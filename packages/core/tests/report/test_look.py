"""The picture of a masking: what it shows is what the masking draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polymask import Mask, MaskView, Request, Step, System, UserError
from polymask.data import evenly
from polymask.maskings import Disjoint, Random, Scheduled, TopScore
from polymask.report.look import _patch_size, look, mask_sheet


class Brightness:
    dim = 1

    def __call__(self, batch, tokens):
        return tokens.values


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture_is_written_in_the_form_its_name_says(tmp_path, gradients, pixels, suffix):
    path = look(Random(ratio=0.5), gradients(), tmp_path / "new" / f"m.{suffix}", tokenizer=pixels, masks=40)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


@pytest.mark.slow
def test_pictures_are_the_same_each_time(tmp_path, gradients, pixels):
    paths = [
        look(Random(ratio=0.5), gradients(), tmp_path / f"{k}.png", tokenizer=pixels, masks=40) for k in "ab"
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_other_suffixes_are_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match=r"end its name in \.png, \.svg or \.pdf"):
        look("nothing", "nowhere", tmp_path / "masks.jpeg")


def test_what_is_coloured_is_what_is_hidden(gradients, pixels):
    data, masking = gradients(), Random(ratio=0.5)
    sight = mask_sheet(masking, data, tokenizer=pixels, samples=3, draws=2, total=10, masks=40, seed=4)
    ids = torch.tensor(evenly(20, 3))
    hidden = masking(Request(ids, 48, Step(9, 10, 4), grid=(6, 8))).hidden.view(3, 6, 8)
    last = sight.rows["mask\nstep 9"]
    for k, original in enumerate(sight.originals):
        side = original.shape[0] // 6
        centres = slice(side // 2, None, side)
        changed = np.abs(last[k] - original).max(axis=2)[centres, centres] > 1e-6
        assert np.array_equal(changed, hidden[k].numpy())


@pytest.mark.parametrize(
    ("arguments", "named"), [({"source": "photos"}, "a/b:photos"), ({"source": None}, "a/b"), ({}, "a/b")]
)
def test_data_are_named_with_their_source_if_they_have_one(gradients, pixels, arguments, named):
    data = gradients()
    data._polymask_built_from = ("a/b", arguments)
    assert mask_sheet(Random(ratio=0.5), data, tokenizer=pixels, masks=40).data == named


def test_statistics_are_of_as_many_masks_as_asked(gradients, pixels):
    sight = mask_sheet(Random(ratio=0.5), gradients(), tokenizer=pixels, masks=1000)
    found = sight.statistics["mask"]
    assert found.masks == 1000 and found.uniform
    assert set(found.count.tolist()) == {24}
    assert len(np.unique(found.coverage.numpy())) > 10  # 20 samples drew 50 different masks each
    assert sight.to_json()["views"]["mask"]["hidden"] == [24, 24]


def test_a_score_decides_where_the_masking_asks_for_one(gradients, pixels):
    sight = mask_sheet(TopScore(ratio=0.5), gradients(), tokenizer=pixels, score=Brightness(), masks=40)
    coverage = sight.statistics["mask"].coverage
    assert coverage[:, :4].max() == 0 and coverage[:, 4:].min() == 1


def test_masks_that_are_the_same_at_every_step_are_drawn_once(gradients, pixels):
    sight = mask_sheet(TopScore(ratio=0.5), gradients(), tokenizer=pixels, score=Brightness(), masks=40)
    assert list(sight.rows) == ["mask"]
    changing = mask_sheet(Random(ratio=0.5), gradients(), tokenizer=pixels, draws=2, masks=40)
    assert list(changing.rows) == ["mask\nstep 0", "mask\nstep 999"]


def test_masks_that_belong_together_are_all_shown(gradients, pixels):
    sight = mask_sheet(Disjoint(masking=Random(ratio=0.5)), gradients(), tokenizer=pixels, draws=2, masks=40)
    assert list(sight.rows) == [f"view {v}\nstep {s}" for s in (0, 999) for v in (1, 2)]
    assert torch.equal(
        sight.statistics["view 1"].coverage + sight.statistics["view 2"].coverage, torch.ones(6, 8).double()
    )


def test_curricula_are_shown_over_the_run(gradients, pixels):
    masking = Scheduled(masking=Random(), start=0.25, end=0.75)
    sight = mask_sheet(masking, gradients(), tokenizer=pixels, draws=3, total=101, masks=40)
    changed = [
        (np.abs(np.array(row) - np.array(sight.originals)).max(axis=-1) > 1e-6).mean()
        for row in sight.rows.values()
    ]
    assert changed == pytest.approx([0.25, 0.5, 0.75], abs=0.06)


def test_a_system_shows_its_own_views_in_eval_mode(gradients, looker):
    system = looker(Random(ratio=0.25)).train()
    sight = mask_sheet(system, gradients(), masks=40)
    assert list(sight.statistics) == ["student"] and system.training
    assert set(sight.statistics["student"].count.tolist()) == {12}


def test_a_supervised_system_gets_labels_with_its_samples(gradients, looker):
    class Labelled(gradients):
        def labels(self, name):
            return torch.arange(20, dtype=torch.int32) * 3 % 7

    class Supervised(looker):
        supervised = True

        def masks(self, batch, step):
            assert torch.equal(batch["label"], batch["id"] * 3 % 7)
            return super().masks(batch, step)

    assert list(mask_sheet(Supervised(Random(ratio=0.25)), Labelled(), masks=40).statistics) == ["student"]


def test_a_system_without_masks_says_so(gradients):
    class Nothing(System):
        pass

    with pytest.raises(UserError, match="hides no part of a sample"):
        mask_sheet(Nothing(), gradients(), masks=40)


def test_masks_over_what_a_system_makes_of_samples_are_drawn_over_that(gradients, looker):
    """Over the picture turned round, here, and over the sample where nothing else is said."""

    class Turned(looker):
        def masks(self, batch, step):
            found = super().masks(batch, step)["student"]
            turned = {**batch, "image": batch["image"].flip(-1)}
            return {"as it is": found, "turned": MaskView(found.mask, self.tokenizer(turned), turned)}

    sight = mask_sheet(Turned(Random(ratio=0.25)), gradients(), masks=40, draws=1)
    plain, turned = (rows[-1] for rows in sight.rows.values())
    assert sight.rows.keys() == {"as it is\nstep 0", "turned\nstep 0"}
    original = sight.originals[-1]
    seen = np.abs(plain - original).max(axis=2) < 1e-6
    assert seen.mean() > 0.5 and np.allclose(turned[seen], original[:, ::-1][seen])
    assert sight.statistics.keys() == {"as it is", "turned"}


def test_sites_that_are_not_tokens_are_drawn_beside_the_picture(gradients, looker):
    """Frequencies, for instance: their mask says nothing about places in the picture."""

    class Spectrum(looker):
        def masks(self, batch, step):
            hidden = step.noise(batch["id"], 12 * 5).view(-1, 12, 5) < 0.5
            return {"spectrum": MaskView(Mask(hidden)), "set": MaskView(Mask(hidden.flatten(1)))}

    sight = mask_sheet(Spectrum(Random()), gradients(), masks=40, draws=1)
    assert sight.statistics["spectrum"].coverage.shape == (12, 5)
    assert sight.statistics["set"].neighbour_correlation is None
    for row in sight.rows.values():
        visible = row[0].max(axis=2) > 0.9
        assert visible.any()  # blank background instead of the dark picture


def test_global_generators_stay_untouched(gradients, pixels):
    before = torch.get_rng_state()
    mask_sheet(Random(), gradients(), tokenizer=pixels, masks=40)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("size", "patch"), [((28, 28), 4), (224, 16), ((8, 8), 2), (32, 4), (64, 4), ((48, 96), 6), (7, 1)]
)
def test_patches_make_a_sensible_grid(size, patch):
    assert _patch_size(size) == {"patch_size": patch}
