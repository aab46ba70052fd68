"""COMET: what each network learns from, the hinge, the budget, and a detector that stays as it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from polymask import Batch, Run, Step, UserError, build
from polymask.export import export
from polymask.recipes import run_recipe
from polymask_vision.selectors import selector_of

STEP = Step(3, 10, seed=1)
FACTS = {"size": (16, 16), "channels": 3, "classes": 5}


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return build("vision/comet", preset="tiny", facts=FACTS, **options)


def batch(n: int = 6) -> Batch:
    images = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"image": images, "id": torch.arange(n), "label": torch.arange(n) % 5}


def gradients(system: Any, losses: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    found = [(name, p) for name, p in system.named_parameters() if p.requires_grad and name.startswith(names)]
    slopes = torch.autograd.grad(sum(losses.values()), [p for _, p in found], allow_unused=True)
    return {
        name: torch.zeros_like(p) if slope is None else slope
        for (name, p), slope in zip(found, slopes, strict=True)
    }


PREDICTOR, SELECTOR = ("encoder", "head"), ("selector",)


def by_hand(system: Any, given: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients as two optimisers would have them: the predictor's loss, and the selector's."""
    share = system.selector(given["image"]).sigmoid()[:, None]
    kept = F.cross_entropy(system.predict(given, share * given["image"]), given["label"])
    left = F.cross_entropy(
        system.detector.module.classify({"image": (1 - share) * given["image"]}), given["label"]
    )
    area = (share.mean((1, 2, 3)) - system.budget).clamp(min=0).mean()
    whole = kept + system.completeness * (kept - left + system.margin).clamp(min=0) + system.area * area
    names = [name for name, p in system.named_parameters() if name.startswith(PREDICTOR) and p.requires_grad]
    own = torch.autograd.grad(kept, [system.get_parameter(name) for name in names], retain_graph=True)
    return dict(zip(names, own, strict=True)), gradients(system, {"all": whole}, SELECTOR)


@pytest.mark.parametrize("budget", [0.3, 0.9])
@pytest.mark.parametrize("margin", [2.0, -9.0])
def test_one_backward_pass_has_the_gradients_of_two_optimisers(budget: float, margin: float) -> None:
    system, given = make(budget=budget, margin=margin), batch()
    predictor, selector = by_hand(system, given)
    losses = system(given, STEP)
    torch.testing.assert_close(gradients(system, losses, PREDICTOR), predictor, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients(system, losses, SELECTOR), selector, rtol=1e-4, atol=1e-6)
    assert sum(float(x.abs().sum()) for x in selector.values()) > 0


def test_above_the_margin_the_hinge_is_off_and_without_it_the_detector_is_out() -> None:
    given = batch()
    off, without = make(margin=-9.0), make(completeness=0.0)
    without.load_state_dict(
        {name: x for name, x in off.state_dict().items() if not name.startswith("detector")}
    )
    assert without.detector is None
    one, other = off(given, STEP), without(given, STEP)
    torch.testing.assert_close(one["selection"], other["selection"])
    torch.testing.assert_close(gradients(off, one, SELECTOR), gradients(without, other, SELECTOR))


def test_the_linear_form_rewards_what_the_detector_does_not_find() -> None:
    system, given = make(form="linear", completeness=0.5, budget=1.0), batch()
    share = system.select(given)[:, None]
    left = F.cross_entropy(system.detect(given, (1 - share) * given["image"]), given["label"])
    losses = system(given, STEP)
    torch.testing.assert_close(losses["selection"], losses["prediction"] - 0.5 * left)


def test_statistics_of_the_predictor_move_once_and_the_detector_stays() -> None:
    system, given = make(), batch()
    twin = make()
    twin.train()
    with torch.no_grad():
        twin.predict(given, twin.select(given)[:, None] * given["image"])
    detector = {name: x.clone() for name, x in system.detector.state_dict().items()}
    optimizer = torch.optim.AdamW(system.parameters(), lr=0.1, weight_decay=0.1)
    before = {name: x.clone() for name, x in system.selector.named_parameters()}
    torch.stack([*system.train()(given, STEP).values()]).sum().backward()
    for name, x in system.encoder.named_buffers():
        torch.testing.assert_close(x, twin.encoder.get_buffer(name))
    optimizer.step()
    assert all(torch.equal(x, detector[name]) for name, x in system.detector.state_dict().items())
    assert all(p.grad is None for p in system.detector.parameters())
    assert all(not torch.equal(x, before[name]) for name, x in system.selector.named_parameters())


def test_the_detector_tells_the_selector() -> None:
    system, given = make(), batch()
    share = system.select(given)[:, None]
    left = F.cross_entropy(system.detect(given, (1 - share) * given["image"]), given["label"])
    slopes = torch.autograd.grad(left, list(system.selector.parameters()))
    assert all(bool(slope.any()) for slope in slopes)


def test_the_budget_is_of_each_image() -> None:
    system, given = make(budget=0.5, area=10.0, completeness=0.0), batch(2)
    full_and_empty = torch.stack([torch.ones(16, 16), torch.zeros(16, 16)])
    for share, cost in ((full_and_empty, 10 * 0.5 / 2), (full_and_empty * 0.5, 0.0)):
        object.__setattr__(system, "select", lambda batch, share=share: share)
        losses = system(given, STEP)
        assert (losses["selection"] - losses["prediction"]).item() == pytest.approx(cost, abs=1e-5)


@pytest.mark.parametrize("completeness", [0.0, 4.0])
def test_only_the_detector_asks_for_evidence_that_the_predictor_does_not_need(completeness: float) -> None:
    """Two pixels say the class; the predictor reads the first one, the detector both."""
    system = make(completeness=completeness, area=0.0, classes=2)
    share = torch.zeros(4, 16, 16)
    share[:, 0, 0] = 1
    share.requires_grad_()
    label = torch.tensor([0, 1, 0, 1])
    image = torch.zeros(4, 3, 16, 16)
    image[:, 0, 0, 0] = image[:, 0, 0, 1] = 2.0 * label - 1
    read = lambda x, *places: torch.stack([-sum(places), sum(places)], 1)  # noqa: E731
    object.__setattr__(system, "select", lambda batch: share)
    object.__setattr__(system, "predict", lambda b, x, held=False: read(x, x[:, 0, 0, 0]))
    object.__setattr__(system, "detect", lambda b, x: read(x, x[:, 0, 0, 0], x[:, 0, 0, 1]))
    losses = system({"image": image, "label": label, "id": label}, STEP)
    slope = torch.autograd.grad(sum(losses.values()), share)[0]
    assert (slope[:, 0, 0] < 0).all()
    if completeness:
        # c dL_D/ds of a logistic detector, -2 y x (1 - p) at the second pixel, in the mean of four samples
        p = torch.sigmoid(torch.tensor(2.0))
        torch.testing.assert_close(slope[:, 0, 1], -4 * 2 * (1 - p).expand(4) / 4)
    else:
        assert not slope[:, 0, 1].any()


def test_what_is_kept_and_removed_is_the_image_and_the_mask_explains() -> None:
    system, given = make().eval(), batch()
    media = system.preview(given, STEP).media
    kept, removed = media["kept, for the predictor"], media["removed, for the detector"]
    torch.testing.assert_close(kept + removed, given["image"])
    share = system.explain(given, STEP)
    assert share.shape == (6, 16, 16) and share.min() > 0 and share.max() < 1
    (view,) = system.masks(given, STEP).values()
    torch.testing.assert_close(view.mask.hidden.view(6, 16, 16), 1 - share)
    assert view.tokens.grid == (16, 16)
    torch.testing.assert_close(system.classify(given), system.predict(given, share[:, None] * given["image"]))
    torch.testing.assert_close(system.encode(given).values, system.encode(given).values)


def test_samples_without_a_label_count_in_no_cross_entropy() -> None:
    system, given = make().eval(), batch()
    some = {**given, "label": given["label"].where(torch.arange(6) < 4, -1)}
    system.area = 0.0
    losses, few = system(some, STEP), system({k: x[:4] for k, x in given.items()}, STEP)
    for name in ("prediction", "selection"):
        torch.testing.assert_close(losses[name], few[name])


def _torchvisions() -> Any:
    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1)


def test_lraspp_is_torchvisions_in_any_number_of_channels() -> None:
    torch.manual_seed(0)
    ours, theirs = selector_of("lraspp", 3, 8).eval(), _torchvisions().eval()
    theirs.load_state_dict({name.removeprefix("net."): x for name, x in ours.state_dict().items()})
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(image), theirs(image)["out"][:, 0])
    assert 3.1e6 < sum(p.numel() for p in ours.parameters()) < 3.3e6
    assert selector_of("lraspp", 1, 8).eval()(image[:, :1]).shape == (2, 64, 64)


def test_a_dilated_selector_sees_31_pixels() -> None:
    net = selector_of("dilated", 1, 4).eval()
    image = torch.randn(1, 1, 41, 41, requires_grad=True)
    net(image)[0, 20, 20].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero()[:, 0]
    assert rows.min() == 5 and rows.max() == 35


@pytest.mark.slow
def test_the_recipe_trains_a_detector_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shared = {
        "workers": 0,
        "accelerator": "cpu",
        "batch_size": 16,
        "tokenizer.patch_size": 4,
        "data.size": 16,
    }
    options = {"preset": "tiny", "steps": 2}
    run_recipe("vision/comet", "vision/digits", tmp_path, options=options, shared=shared, progress=False)
    detector, system = Run.open("detector").system, Run.open("comet").system
    assert type(detector.encoder) is type(system.encoder)
    for name, x in detector.state_dict().items():
        assert torch.equal(x, system.detector.module.state_dict()[name])  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="10 classes .* and here are 5"):
        make(detector="detector")
    with pytest.raises(UserError, match="give --detector FOLDER"):
        make(detector=None)
    with pytest.raises(UserError, match="hinge"):
        make(form="quadratic")


def test_an_export_says_that_the_selector_is_no_part_of_it(tmp_path: Path) -> None:
    system = make(completeness=0.0)
    with pytest.warns(UserWarning, match="COMET encodes by more than its tokenizer and its encoder"):
        export(system, "safetensors", tmp_path / "comet")
    plain = build("vision/mae", preset="tiny", facts=FACTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(plain, "safetensors", tmp_path / "mae")
    latent = build("vision/ijepa", preset="tiny", facts=FACTS)
    with pytest.raises(UserError, match="transformers"):
        export(latent, "transformers", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
