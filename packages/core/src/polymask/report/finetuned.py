"""One self-contained HTML page about a fine-tuning, and its chart."""

from __future__ import annotations

import warnings
from pathlib import Path

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from polymask.errors import UserError
from polymask.evaluation.finetuning import RESULT, Finetuned
from polymask.evaluation.finetuning.result import NOTES
from polymask.files import read_json, write_text
from polymask.report import charts
from polymask.report.charts import PAGE
from polymask.report.templates import flat, render


def write_page(folder: str | Path) -> Path:
    """Write ``finetune.html`` about a fine-tuning.

    Args:
        folder: of its runs.

    Returns:
        Path of the page.

    Raises:
        UserError: no finished fine-tuning is there.
    """
    folder = Path(folder)
    found = read_finetuned(folder)
    if found is None:
        raise UserError(f"{folder} holds no finished fine-tuning")
    path = folder / "finetune.html"
    write_text(
        path,
        render(
            "finetuned.html.j2", found=found, chart=draw(found), notes=NOTES, config=flat(dict(found.config))
        ),
    )
    return path


def read_finetuned(folder: Path) -> Finetuned | None:
    """What the fine-tuning in a folder came to; None while it is not finished.

    Raises:
        UserError: its file is damaged.
    """

    def whole(found: dict[str, object]) -> Finetuned | None:
        return Finetuned.from_json(found) if "right" in found else None

    return read_json(folder / RESULT, whole) if (folder / RESULT).is_file() else None


def read_all(folder: Path, within: str = "finetune*/") -> list[Finetuned]:
    """What fine-tunings within the folder of a run came to; a damaged file is left out, with a warning."""
    found = []
    for path in sorted(folder.glob(within + RESULT)):
        try:
            one = read_finetuned(path.parent)
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)
        else:
            found += [one] if one else []
    return found


def draw(found: Finetuned) -> str:
    """Accuracy by number of labels as SVG, with intervals."""
    made, axes = charts.panel(4.6, 2.6)
    charts.style(axes, PAGE, "training samples with labels", "accuracy")
    order = sorted(range(len(found.shares)), key=lambda place: found.labels[place])
    counts = [found.labels[place] for place in order]
    for start, colour in zip(found.starts, (PAGE.muted, PAGE.series[0])[-len(found.starts) :], strict=True):
        accuracies = [found.accuracy(start, place) for place in order]
        means = [one.mean for one in accuracies]
        ends = [[one.mean - one.low for one in accuracies], [one.high - one.mean for one in accuracies]]
        axes.errorbar(
            counts,
            means,
            ends,
            color=colour,
            linewidth=1.5,
            marker="o",
            markersize=3.5,
            capsize=2,
            label=start,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.legend(frameon=False, fontsize=8, labelcolor=PAGE.text)
    return charts.svg(made, "Accuracy by number of labels with intervals")
