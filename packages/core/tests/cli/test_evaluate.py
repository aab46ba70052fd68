"""``polymask evaluate``, and evaluations within a comparison."""

from __future__ import annotations

import json

import pytest

from polymask import UserError
from polymask.evaluation import evaluate_run
from polymask.report.compare import compare
from polymask.run import Run

TRAIN = ("toy/mean", "--preset", "small", "--data", "toy/shapes", "--steps", "2")


@pytest.fixture
def trained(polymask):
    assert polymask("pretrain", *TRAIN, "--out", "run", "--no-report").status == 0
    return "run"


def test_scores_are_printed_and_kept(polymask, trained, tmp_path):
    result = polymask("evaluate", trained, "brightness", "--scale", "2")
    assert result.status == 0, result.err
    assert "the moon" in result.out and "100 99 to 101" in result.out
    (file,) = (tmp_path / trained).glob("evaluation-toy-brightness-*.json")
    kept = json.loads(file.read_text())
    rows = {score["row"]: score["value"] for score in kept["scores"]}
    assert kept["settings"] == {"scale": 2.0}
    assert rows["pre-trained"] != rows["untrained"]
    once = json.loads(polymask("evaluate", trained, "toy/brightness", "--json").out)
    assert 2 * once["scores"][0]["value"] == pytest.approx(rows["pre-trained"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a run's folder and what to measure, one of:"),
        (["run"], "give a run's folder and what to measure, one of:"),
        (["run", "darkness"], "no evaluation is called 'darkness'"),
        (["run", "brightness", "--scales", "2"], "did you mean --scale?"),
        (["nowhere", "brightness"], "nowhere is no run folder"),
    ],
)
def test_what_is_wrong_is_said(polymask, words, message):
    result = polymask("evaluate", *words)
    assert result.status == 2 and message in result.err


def test_help_lists_options_of_the_evaluation(polymask):
    assert "toy/brightness" in polymask("evaluate", "--help").out
    for words in (["brightness"], ["run", "brightness"]):
        assert "--scale" in polymask("evaluate", *words, "--help").out


@pytest.mark.slow
def test_variants_are_compared_by_an_evaluation(polymask, tmp_path):
    words = (
        "compare",
        "toy/mean,toy/other",
        *TRAIN[3:5],
        "--steps",
        "2",
        "--batch_size",
        "8",
        "--seeds",
        "2",
    )
    evaluation = ("--evaluation", "brightness", "--evaluation.scale", "3", "--out", "c")
    result = polymask(*words, *evaluation)
    assert result.status == 0, result.err
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert found["rivals"] == {"the moon": {"brightness": 100.0}}
    for label, measured in found["results"].items():
        for folder, values in zip(measured["runs"], measured["values"], strict=True):
            (file,) = (tmp_path / "c" / folder).glob("evaluation-toy-brightness-*.json")
            kept = json.loads(file.read_text())
            rows = {score["row"]: score["value"] for score in kept["scores"]}
            assert values["brightness"] == rows["pre-trained"], label
            assert values["untrained brightness"] == rows["untrained"]
    assert "the moon" in (tmp_path / "c" / "comparison.md").read_text()
    stamp = file.stat().st_mtime_ns
    assert polymask(*words, *evaluation).status == 0  # nothing is measured again
    assert file.stat().st_mtime_ns == stamp


def test_several_label_sets_are_probed(polymask, trained, tmp_path):
    """The rows of the set that training used are those of ``polymask probe``."""
    sets = {
        "plain": {"order": "plain"},
        "turned": [{"order": "turned"}],
        "both": [{"order": "plain"}, {"order": "turned"}],
    }
    result = polymask("evaluate", trained, "core/multi-label-probe", "--sets", json.dumps(sets), "--json")
    assert result.status == 0, result.err
    scores = {(s["row"], s["metric"]): s for s in json.loads(result.out)["scores"]}
    probed = json.loads((tmp_path / trained / "probe.json").read_text())["rows"]
    for row in probed:
        plain, turned, both = (scores[row["features"], f"{name} {row['method']}"] for name in sets)
        ends = row["accuracy"]
        assert (plain["value"], plain["low"], plain["high"]) == (ends["mean"], ends["low"], ends["high"])
        assert both["value"] == pytest.approx((plain["value"] + turned["value"]) / 2)  # sets of one size
        assert min(plain["low"], turned["low"]) < both["low"] < both["value"] < both["high"]
    metrics = [f"{name} {method}" for name in sets for method in ("kNN", "linear")]
    assert [metric for row, metric in scores if row == "untrained"] == metrics
    raw = [scores["raw input", metric]["value"] for metric in metrics]
    assert raw[:2] != raw[2:4]


@pytest.mark.parametrize("sets", ["{}", '{"word": []}'])
def test_label_sets_take_options(polymask, trained, sets):
    assert "which label sets?" in polymask("evaluate", trained, "core/multi-label-probe", "--sets", sets).err
    assert "which label sets?" in polymask("evaluate", trained, "core/multi-label-probe").err


def test_the_report_shows_what_was_measured(polymask, trained, tmp_path):
    assert polymask("evaluate", trained, "brightness").status == 0
    assert polymask("report", trained).status == 0
    page = (tmp_path / trained / "report.html").read_text()
    assert "toy/brightness" in page and "the moon" in page and "99 to 101" in page


def test_losses_are_compared_under_the_same_masks(polymask, tmp_path):
    """Runs trained with different maskings are asked the same; their own maskings are left alone."""
    words = ("compare", "toy/mean", *TRAIN[3:5], "--steps", "2", "--batch_size", "8", "--seeds", "[0]")
    words += ("--masking.ratio", "0.25,0.75", "--evaluation", "core/heldout-loss", "--out", "c")
    assert polymask(*words).status == 0
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())["results"]
    one, other = (result["values"][0]["untrained held-out loss"] for result in found.values())
    assert one == other  # the same weights, samples and masks
    run = Run.open(tmp_path / "c" / "0.25-seed0")
    own = run.system.masking
    measured = evaluate_run(run, {"name": "core/heldout-loss", "masking.ratio": 0.25})
    assert run.system.masking is own
    assert measured.row("untrained") != evaluate_run(run, "core/heldout-loss").row("untrained")


@pytest.mark.filterwarnings("ignore:.*have collapsed:UserWarning")
def test_several_evaluations_stand_side_by_side(polymask, tmp_path):
    """What one of them found stays when another is asked with other options."""
    config = {"system": "toy/mean", "data": "toy/shapes", "steps": 2, "batch_size": 8}
    variants = {"plain": {}, "more hidden": {"masking.ratio": 0.75}}

    def asked(scale: float) -> dict[str, float]:
        both = ({"name": "toy/brightness", "scale": scale}, "core/heldout-loss")
        found = compare(config, variants, tmp_path / "c", seeds=1, evaluation=both, progress=False)
        return found.values["plain"][0]

    once = asked(1.5)
    (bright,) = (tmp_path / "c" / "plain-seed0").glob("evaluation-toy-brightness-*.json")
    loss = tmp_path / "c" / "plain-seed0" / "evaluation-core-heldout-loss.json"
    stamps = [file.stat().st_mtime_ns for file in (bright, loss)]
    twice = asked(3.0)
    assert twice["brightness"] == pytest.approx(2 * once["brightness"])
    assert twice["held-out loss"] == once["held-out loss"]
    assert asked(1.5)["brightness"] == once["brightness"]
    assert [file.stat().st_mtime_ns for file in (bright, loss)] == stamps


def test_one_evaluation_with_two_sets_of_options_is_refused(tmp_path):
    """Its scores would have one name; nothing is trained."""
    both = ("brightness", {"name": "toy/brightness", "scale": 2.0})
    with pytest.raises(UserError, match="toy/brightness is asked for twice"):
        compare(
            {"system": "toy/mean", "data": "toy/shapes", "steps": 2},
            {"plain": {}, "more hidden": {"masking.ratio": 0.75}},
            tmp_path / "c",
            evaluation=both,
        )
    assert not (tmp_path / "c").exists()
