"""PHG-MAE: what is hidden stays hidden, tasks never reach the network, what is scored, ensembles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Mask, Run, Step, UserError, build
from polymask.evaluation.measurements import Measurement
from polymask.export import export
from polymask.recipes import run_recipe
from polymask_vision.datasets import earth
from polymask_vision.evaluations.dense import Dense
from polymask_vision.evaluations.mask_ensemble import ALL, ALONE, CONSTANT, ONE, MaskEnsemble, alone, told

STEP = Step(3, 10, seed=1)
SIZE = 8
LAYERS = {"image": 3, "height": 1, "ground": 3, "kind": 4, "slope": 2}
FACTS: dict[str, Any] = {
    "size": (SIZE, SIZE),
    "channels": 3,
    "layers": LAYERS,
    "class_layers": ("ground", "kind"),
    "tasks": ("kind", "slope"),
}
INPUTS = ("image", "height", "ground")


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    given = {"tokenizer.patch_size": 1, **options}
    return build("vision/phg-mae", preset="tiny", facts=FACTS, **given).eval()


def batch(n: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    found: Batch = {"id": torch.arange(n) * 7 + 2}
    for name, count in LAYERS.items():
        if name in FACTS["class_layers"]:
            found[name] = torch.randint(count, (n, SIZE, SIZE), generator=generator)
        else:
            found[name] = torch.randn(n, count, SIZE, SIZE, generator=generator)
    return found


def hiding(*names: str, n: int = 4) -> Mask:
    return Mask(torch.tensor([name in names for name in INPUTS]).expand(n, -1).contiguous())


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("name", INPUTS)
def test_what_a_hidden_layer_holds_changes_no_answer(name: str, patch: int) -> None:
    system, given = make(**{"tokenizer.patch_size": patch}), batch()
    changed = {**given, name: batch(seed=1)[name]}
    assert not torch.equal(system.answer(given)["kind"], system.answer(changed)["kind"])
    for task, answer in system.answer(given, hiding(name)).items():
        assert torch.equal(answer, system.answer(changed, hiding(name))[task])


def test_each_layer_has_its_channels_and_its_mask() -> None:
    """Stacked by hand: values as they are, a channel for each class, nothing of tasks."""
    layers, given = make().tokenizer, batch()
    ground = F.one_hot(given["ground"], 3).permute(0, 3, 1, 2).float()
    tasks = torch.zeros(4, 6, SIZE, SIZE)
    by_hand = torch.cat([given["image"], given["height"], ground, tasks], dim=1)
    assert torch.equal(layers.stack(given), by_hand)
    for name in INPUTS:
        by_name = by_hand.clone()
        by_name[:, layers.layers[name]] = 0
        assert torch.equal(layers.stack(given, hiding(name)), by_name)


def test_masks_are_of_each_sample() -> None:
    layers, given = make().tokenizer, batch(2)
    mixed = Mask(torch.tensor([[True, False, False], [False, False, True]]))
    x = layers.stack(given, mixed)
    assert not x[0, :3].any() and torch.equal(x[1, :3], given["image"][1])
    assert not x[1, 4:7].any() and x[0, 4:7].any()


def test_tasks_reach_neither_features_nor_predictions() -> None:
    system, given = make(), batch()
    other = {**given, **{name: batch(seed=5)[name] for name in ("kind", "slope")}}
    for a, b in ((given, other), (given, {k: x for k, x in given.items() if k not in ("kind", "slope")})):
        assert torch.equal(system.encode(a).values, system.encode(b).values)
        assert torch.equal(system.answer(a)["kind"], system.answer(b)["kind"])
    assert not torch.equal(system(given, STEP)["kind"], system(other, STEP)["kind"])


def test_what_is_unknown_changes_neither_loss_nor_gradient() -> None:
    """A pixel of a task or of an input that is unknown: what could stand there makes no difference."""

    def told_of(given: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        system = make(reconstruct="all")
        losses = system(given, STEP)
        sum(losses.values()).backward()
        return losses, {name: p.grad for name, p in system.named_parameters() if p.grad is not None}

    given = batch()
    given["slope"][0, :, 2, 3] = torch.nan
    given["kind"][1] = -1
    given["height"][2, :, 1] = torch.nan
    losses, slopes = told_of(given)
    assert all(x.isfinite() for x in losses.values()) and all(x.isfinite().all() for x in slopes.values())
    other = {name: x.clone() for name, x in given.items()}
    other["slope"][0, 0, 2, 3] = 100.0  # one of two values is unknown still: so is the pixel
    again, again_slopes = told_of(other)
    assert all(torch.equal(losses[name], again[name]) for name in losses)
    assert all(torch.equal(slopes[name], again_slopes[name]) for name in slopes)
    none = {**given, "kind": torch.full_like(given["kind"], -1)}
    assert told_of(none)[0]["kind"] == 0


@pytest.mark.parametrize("reconstruct", ["hidden", "all"])
def test_losses_by_hand(reconstruct: Any) -> None:
    system, given = make(reconstruct=reconstruct, reconstruction_weight=0.3), batch()
    given["kind"][0, :4] = -1
    hidden = system.draw(None, given, STEP).hidden
    out = system.predict(system.tokenizer.stack(given, Mask(hidden)))
    image, height, ground, kind, slope = out.split([3, 1, 3, 4, 2], dim=1)
    losses = system(given, STEP)
    assert losses["kind"].item() == pytest.approx(
        F.cross_entropy(kind, given["kind"], ignore_index=-1).item()
    )
    assert losses["slope"].item() == pytest.approx(F.mse_loss(slope, given["slope"]).item(), rel=1e-5)
    errors = torch.stack(
        [
            (image - given["image"]).square().mean(1),
            (height - given["height"]).square().mean(1),
            F.cross_entropy(ground, given["ground"], reduction="none"),
        ],
        dim=1,
    )
    counted = errors[hidden] if reconstruct == "hidden" else errors
    assert losses["reconstruction"].item() == pytest.approx(0.3 * counted.mean().item(), rel=1e-5)


def test_a_layer_that_a_sample_lacks_is_as_one_that_the_batch_lacks_and_is_never_hidden_or_scored() -> None:
    system, given = make(reconstruct="all"), batch(64)
    lacks = {**given, "height": torch.full_like(given["height"], torch.nan)}
    without = {name: x for name, x in given.items() if name != "height"}
    assert torch.equal(system.answer(lacks)["kind"], system.answer(without)["kind"])
    mask = system.draw(None, lacks, STEP)
    assert not mask.hidden[:, 1].any() and not mask.valid[:, 1].any()
    assert (~mask.hidden & mask.valid).any(1).all()
    for name, loss in system(lacks, STEP).items():
        assert torch.equal(loss, system(without, STEP)[name])


def test_an_ensemble_is_the_mean_of_passes_under_its_masks() -> None:
    system, given = make(), batch()
    masks = [system.draw(None, given, STEP, 1000 + k) for k in range(3)]
    assert not torch.equal(masks[0].hidden, masks[1].hidden)
    passes = [system.answer(given, mask) for mask in masks]
    for name, answer in system.ensemble(given, STEP, 3).items():
        torch.testing.assert_close(answer, torch.stack([one[name] for one in passes]).mean(0))
    torch.testing.assert_close(system.ensemble(given, STEP, 3)["kind"].sum(1), torch.ones(4, SIZE, SIZE))
    whole = make(**{"masking.whole": 1.0})
    assert torch.equal(whole.ensemble(given, STEP, 1)["kind"], whole.answer(given)["kind"])


def test_by_convexity_an_ensemble_costs_no_more_than_its_members() -> None:
    system, given = make(), batch(16)
    known = F.one_hot(given["kind"], 4).permute(0, 3, 1, 2)

    def costs(answer: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return -(answer["kind"].log() * known).sum(1).mean(), F.mse_loss(answer["slope"], given["slope"])

    members = [costs(system.answer(given, system.draw(None, given, STEP, 1000 + k))) for k in range(8)]
    for k, cost in enumerate(costs(system.ensemble(given, STEP, 8))):
        assert cost < torch.stack([one[k] for one in members]).mean()


def test_a_student_sees_the_image_alone_through_the_same_network() -> None:
    student, given = make(**{"tokenizer.visible": ("image",), "reconstruction_weight": 0.0}), batch()
    bare = {"image": given["image"], "id": given["id"]}
    assert student.head.out_features == make().head.out_features and student.encoder.dim == 13
    assert torch.equal(student.answer(given)["kind"], student.answer(bare)["kind"])
    zeros = torch.cat([given["image"], torch.zeros(4, 10, SIZE, SIZE)], dim=1)
    assert torch.equal(student.answer(bare)["kind"], student.predict(zeros)[:, 7:11].softmax(1))
    assert list(student(given, STEP)) == ["kind", "slope"]
    assert not student.draw(None, given, STEP).hidden.any()


def test_an_indicator_says_what_is_hidden_and_what_is_unknown() -> None:
    layers, given = make(**{"tokenizer.indicator": True}).tokenizer, batch()
    given["height"][0, :, 1, 1] = torch.nan
    x = layers.stack(given, hiding("ground"))[:, 13:]
    expected = torch.tensor([1.0, 1.0, 0.0])[:, None, None].expand(4, 3, SIZE, SIZE).clone()
    expected[0, 1, 1, 1] = 0
    assert torch.equal(x, expected)


@pytest.fixture(scope="module")
def planet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return earth.example_source(tmp_path_factory.mktemp("planet"))


@pytest.fixture(scope="module")
def recipe(planet: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, two steps each."""
    folder = tmp_path_factory.mktemp("recipe") / "phg"
    data = {
        "name": "vision/earth-layers",
        "source": planet,
        "labelled": 0.2,
        "tile": 16,
        "stride": 32,
        "land": 1.0,
        "test": 0.1,
    }
    options = {"preset": "tiny", "student": "student", "steps": 2}
    run_recipe("vision/phg-mae", data, folder, options=options, progress=False)
    return folder


@pytest.mark.slow
def test_the_recipe_distils_the_ensemble_into_a_network_of_the_image(recipe: Path) -> None:
    student: Any = Run.open(recipe / "student").system
    teacher: Any = Run.open(recipe / "ensemble").system
    assert sum(p.numel() for p in student.parameters() if p.requires_grad) < 1_000_000
    assert student.tokenizer.inputs == ("image",) and teacher.tokenizer.inputs[1:] == (
        "relief",
        "elevation",
        "land",
    )
    for name, x in student.teacher.module.state_dict().items():
        assert torch.equal(x, teacher.state_dict()[name])


def test_a_teacher_stands_in_where_a_sample_has_no_label(recipe: Path) -> None:
    run = Run.open(recipe / "student")
    student: Any = run.system.eval()
    samples = run.data.split("train")
    given = {k: torch.stack([samples[i][k] for i in range(8)]) for k in samples[0]} | {"id": torch.arange(8)}
    given["climate"][0] = 2
    given["climate"][1] = -1
    given["climate"][1, 0, 0] = 3
    given["climate"][2:] = -1
    said = student.teacher.module.ensemble(given, STEP, student.passes)["climate"]
    truth, known = student.truth(given, "climate", said)
    assert torch.equal(truth[2:], said[2:]) and known[2:].all()
    assert truth[0].argmax(0).unique().tolist() == [2] and known[0].all() and known[1].sum() == 1
    logits = student.predict(student.tokenizer.stack(given))[:, student.tokenizer.layers["climate"]]
    soft = F.cross_entropy(logits[2:], said[2:], reduction="none")
    hard = F.cross_entropy(logits[:2], given["climate"][:2], reduction="none", ignore_index=-1)
    by_hand = (soft.sum() + hard.sum()) / known.sum()
    losses = student(given, STEP)
    torch.testing.assert_close(losses["climate"], by_hand)
    losses["climate"].backward()
    assert all(p.grad is None for p in student.teacher.parameters())


def test_a_teacher_of_other_layers_is_refused(recipe: Path) -> None:
    with pytest.raises(UserError, match="knows image, relief, elevation, land, climate, and this data"):
        make(teacher=str(recipe / "ensemble"))


def test_the_student_is_exported_with_its_answers(recipe: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = Run.open(recipe / "student")
    student: Any = run.system
    out = export(run, "tasks", tmp_path / "out")
    session = runtime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["image"]
    image = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    (answer,) = session.run(None, {"image": image.numpy()})
    expected = student.answer({"image": image})["climate"].detach()
    torch.testing.assert_close(torch.from_numpy(answer), expected, rtol=1e-4, atol=1e-5)
    assert answer.sum(1) == pytest.approx(1, abs=1e-4)
    about = json.loads((out / "tasks.json").read_text())
    assert about["outputs"] == ["climate"] and set(about["scales"]) == set(run.facts["scales"])
    # the teacher stays behind
    weights = sum(p.numel() for p in student.parameters() if p.requires_grad)
    assert (out / "model.onnx").stat().st_size < 4 * weights + 200_000


def test_a_teacher_of_other_scales_is_refused(recipe: Path) -> None:
    run = Run.open(recipe / "ensemble")
    facts = dict(run.facts)
    assert set(facts["scales"]) == {"image", "relief", "elevation"} and len(facts["scales"]["image"][0]) == 3

    def student(**scales: Any) -> Any:
        asked = {**facts, "scales": {**facts["scales"], **scales}}
        teacher = str(recipe / "ensemble")
        return build("vision/phg-mae", preset="tiny", facts=asked, teacher=teacher)

    mean, std = facts["scales"]["elevation"]
    moved = [[m + share * s for m, s in zip(mean, std, strict=True)] for share in (0.05, 0.2)]
    assert student(elevation=(moved[0], [1.05 * s for s in std])).teacher is not None
    for other in ((moved[1], std), (mean, [1.2 * s for s in std])):
        with pytest.raises(
            UserError, match="was trained on elevation with mean .* taken out, and here it is"
        ):
            student(elevation=other)
    with pytest.raises(UserError, match="was trained on image"):
        student(image=([0.1] * 3, facts["scales"]["image"][1]))


def test_what_cannot_work_is_refused() -> None:
    facts = {"size": (8, 8), "channels": 3}
    with pytest.raises(UserError, match="nothing to predict"):
        build("vision/phg-mae", preset="tiny", facts=facts)
    with pytest.raises(UserError, match="stacks none: use vision/layer-patches"):
        build("vision/phg-mae", preset="tiny", facts={**facts, "size": 16}, tokenizer="vision/patches")
    with pytest.raises(UserError, match="it is no task"):
        make(**{"tokenizer.visible": ("height",)})
    with pytest.raises(UserError, match="this data has no depth"):
        make(**{"tokenizer.tasks": ("depth",)})


def test_the_evaluation_scores_passes_and_their_ensemble(recipe: Path) -> None:
    run = Run.open(recipe / "ensemble")
    found = {(one.row, one.metric): one.value for one in MaskEnsemble(passes=3, images=16)(run)}
    rows = {row for row, _ in found}
    assert rows == {"pre-trained", "untrained", ALL, ONE, ALONE, CONSTANT}
    assert {metric for _, metric in found} == {"climate accuracy", "climate mIoU", "climate consistency"}
    still = {(x.row, x.metric): x for x in MaskEnsemble(passes=2, jitter=0.0, images=16)(run)}
    assert still[ALL, "climate consistency"].value == 1 == still[ALONE, "climate consistency"].value
    assert still[ONE, "climate consistency"].value < 1
    run.system.masking.whole = 1.0
    whole = {
        (x.row, x.metric): x for x in MaskEnsemble(passes=2, images=16)(run) if "consist" not in x.metric
    }
    for metric in ("climate accuracy", "climate mIoU"):
        assert whole["pre-trained", metric].value == whole[ALL, metric].value == found[ALL, metric]
    assert isinstance(still[ALL, "climate mIoU"], Measurement)


def test_scores_are_of_known_pixels_and_the_image_alone_is_the_first_layer() -> None:
    layers, given = make().tokenizer, batch(2)
    given["kind"][0, :, 4:] = -1
    given["kind"][1] = -1
    right = F.one_hot(given["kind"].clamp(min=0), 4).permute(0, 3, 1, 2).float()
    (found,) = told(layers, given, "kind", right)
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2]) and found[1].sum() == 32
    off = given["slope"] + 2.0
    assert told(layers, given, "slope", off)[0][3] == pytest.approx(2 * 64 * 4)
    assert alone(layers.given(given)).hidden.tolist() == [[False, True, True]] * 2


def test_the_dense_probe_reads_any_layer_and_features_never_see_it(recipe: Path) -> None:
    run = Run.open(recipe / "ensemble")
    found = {(one.row, one.metric): one.value for one in Dense(images=24)(run)}
    assert {metric for _, metric in found} >= {"accuracy", "mIoU", f"IoU of {earth.GROUPS[2]}"}
    again = {
        (one.row, one.metric): one.value for one in Dense(images=24, layer="climate", by_class=False)(run)
    }
    assert again == {key: value for key, value in found.items() if "IoU of" not in key[1]}
    with pytest.raises(UserError, match="one number of each pixel, and relief has several"):
        list(Dense(images=4, layer="relief")(run))
