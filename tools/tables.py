"""Write the generated parts of README.md and docs/ anew: what is registered, files, measured figures.

    uv run tools/tables.py

Each stands between ``<!-- WHAT: ARGUMENT -->`` and ``<!-- end -->``: ``table`` of a kind of part, of the
``verbs`` or the ``tags``; the ``gallery`` of a kind; a ``file``; what a benchmark (``race``), a run's
``probe.json`` (``probe``), the runs of a package (``learns``) or a comparison (``evidence``) found; and all
``papers``, with what comparisons say of them.
``tests/test_docs.py`` fails where something else stands there than this would write.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.cli import VERBS
from polymask.parts import KINDS, Part
from polymask.plugins.registry import Registry
from polymask.report.comparison import Comparison
from polymask.report.curves import Curves
from polymask.testing import TAGS

ROOT = Path(__file__).parent.parent
GENERATED = re.compile(
    r"(<!-- (table|gallery|file|race|probe|learns|papers|evidence): (\S+) -->\n).*?(<!-- end -->)",
    re.DOTALL,
)


ARXIV = re.compile(r"arXiv (\d+\.\d+)")


def own_registry() -> Registry:
    """The parts of the packages in this repository, whatever else is installed."""
    projects = (tomllib.loads(p.read_text()) for p in ROOT.glob("packages/*/pyproject.toml"))
    own = [name for p in projects for name in p["project"]["entry-points"]["polymask"]]
    return Registry(environ={"POLYMASK_PLUGINS": ",".join(own), "POLYMASK_STRICT": "1"})


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, one line per row."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def paper(part: Part) -> str:
    """The citation of a part."""
    return paper_links(part.paper)


def paper_links(text: str) -> str:
    """A text, with arXiv numbers as links."""
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def table(kind: str, registry: Registry) -> str:
    """The table of one kind of part, of the verbs of the command line, or of the tags of parts."""
    if kind == "verbs":
        docs = (importlib.import_module(f"polymask.cli.verbs.{verb}").__doc__ or "" for verb in VERBS)
        rows = [[f"`polymask {verb}`", doc.split("\n")[0]] for verb, doc in zip(VERBS, docs, strict=True)]
        return markdown(["verb", "what it does"], rows)
    if kind == "tags":
        rows = [[kind, f"`{tag}`", meaning] for kind, tags in TAGS.items() for tag, meaning in tags.items()]
        return markdown(["of", "tag", "meaning"], rows)
    if kind not in KINDS:
        raise ValueError(f"no kind of part is called {kind!r}")
    parts = registry.parts(kind)
    rows = [[f"`{p.full_name}`", p.summary, p.modality, paper(p)] for p in parts]
    return markdown([kind.removesuffix("s"), "in a few words", "modality", "paper"], rows)


def picture_of(part: Part) -> str:
    """Where ``tools/gallery.py`` draws what a part hides, below the root."""
    return f"docs/assets/gallery/{part.kind}-{part.full_name.replace('/', '-')}.webp"


def gallery(kind: str, registry: Registry) -> str:
    """What every part of a kind hides, and what it suits."""
    entries = []
    for part in registry.parts(kind):
        drawn = ROOT / picture_of(part)
        picture = (
            f"![what {part.full_name} hides]({drawn.relative_to(ROOT / 'docs')})\n\n"
            if drawn.exists()
            else ""
        )
        entries.append(
            f"### {part.full_name}\n\n{picture}{part.summary[0].upper()}{part.summary[1:]}.\n\n"
            f"**Suits** {part.suits}.\n"
        )
    return "\n".join(entries) + "\n"


def shown(path: str) -> str:
    """A file as a block of code; its title is its path below the folder of the example."""
    language = {".py": "python", ".toml": "toml"}[Path(path).suffix]
    title = path.split("/", 2)[-1]
    return f'```{language} title="{title}"\n{(ROOT / path).read_text()}```\n'


def race(path: str) -> str:
    """The figures a benchmark wrote as JSON: what it ran on, then a row per contestant."""
    found = json.loads((ROOT / path).read_text())
    setup = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in found["setup"].items() if key != "versions"
    )
    versions = ", ".join(f"{name} {number}" for name, number in found["setup"].get("versions", {}).items())
    rows = found["results"]
    columns = list(next(iter(rows.values())))
    table = markdown(
        ["", *(column.replace("_", " ") for column in columns)],
        [
            [name, *(figure(row[column]) if column in row else "" for column in columns)]
            for name, row in rows.items()
        ],
    )
    return f"{setup}{'; ' if versions else ''}{versions}\n\n{table}"


def probe(path: str) -> str:
    """The table of a run's ``probe.json``, with intervals of 95 % over test samples."""
    rows: dict[str, dict[str, str]] = {}
    for row in json.loads((ROOT / path).read_text())["rows"]:
        accuracy = row["accuracy"]
        text = f"{accuracy['mean']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f})"
        rows.setdefault(row["features"], {})[row["method"]] = text
    methods = list(next(iter(rows.values())))
    return markdown(["features", *methods], [[name, *found.values()] for name, found in rows.items()])


def learns(path: str) -> str:
    """What the systems of a package have learned, as ``benchmarks/learns.py`` kept it."""
    rows = []
    for name, found in json.loads((ROOT / path).read_text())["systems"].items():
        probes = [cell for method in found["probes"].values() for cell in compared(method)]
        for metric, cost in found["objectives"].items():
            told = f"`{name}`" + (f", {metric}" if len(found["objectives"]) > 1 else "")
            rows.append([told, *compared(cost), *probes])
            probes = [""] * len(probes)
    head = ["system", "loss", "minus best constant", "kNN", "minus untrained", "linear", "minus untrained"]
    return markdown(head, rows)


def compared(found: Mapping[str, Any]) -> list[str]:
    """A number, and its difference to another with an interval of 95 %."""
    middle, low, high = found["difference"]
    ours = next(iter(found.values()))
    return [f"{ours:.3f}", f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"]


def comparison(found: Mapping[str, Any]) -> Comparison:
    """A comparison as ``benchmarks/evidence.py`` kept it, without its curves."""
    values = {label: result["values"] for label, result in found["results"].items()}
    about = (found.get(key, {}) for key in ("reference", "rivals"))
    return Comparison(
        found["config"],
        found["variants"],
        tuple(found["seeds"]),
        values,
        *about,
        answers=found.get("answers", {}),
    )


def verdict(found: Mapping[str, Any]) -> str:
    """What a comparison says of its claim, by what is known of intervals today."""
    if "decided by" not in found:
        return str(found["verdict"])
    by, kept = found["decided by"], comparison(found)
    if "curves" in found:
        kept = dataclasses.replace(kept, curves=Curves(found["curves"]["lines"], found["curves"]["rows"]))
    return kept.claimed(by["variants"], by["measure"], by.get("better") == "lower")


def evidence(path: str) -> str:
    """What a comparison found, as ``benchmarks/evidence.py`` kept it: claim, verdict, command, numbers."""
    found = json.loads((ROOT / path).read_text())
    kept = comparison(found)
    # files that differ from the commit are said to
    commit = re.sub(r"^(\w{10})\w*", r"\1", found["commit"])
    _, means, differences, notes = kept.markdown().split("\n\n")
    more = f"{claims_table(found['claims'])}\n" if "claims" in found else ""
    more += f"{curves_table(found['curves'], kept.first)}\n" if "curves" in found else ""
    more += f"{masks_table(found['masks'])}\n" if "masks" in found else ""
    return (
        f"*{found['claim']}* **{verdict(found).capitalize()}.**\n\n{means}\n\n{differences}\n\n{more}"
        f"```console\n$ {found['command']}\n```\n\n"
        f"{kept.title}; commit {commit}. {notes}"
    )


def papers(folder: str, registry: Registry) -> str:
    """Every paper of a system, with the comparisons that are about it and what they say."""
    seen: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.json")):
        found = json.loads(path.read_text())
        told = f"{claim_alone(found['claim'])}: **{verdict(found)}**"
        for number in ARXIV.findall(found["claim"]):
            seen.setdefault(number, []).append(told)
    rows: dict[str, list[Part]] = {}
    for part in registry.parts("systems"):
        for citation in part.paper.split("; "):
            # a recipe that a system follows is not what it is
            if ARXIV.search(citation) and not citation.startswith("recipe"):
                rows.setdefault(re.sub(r"^of \w+: ", "", citation), []).append(part)
    return markdown(
        ["paper", "system", "in a few words", "what was compared here: **what was seen**"],
        [
            [
                paper_links(citation),
                ", ".join(f"`{part.full_name}`" for part in parts),
                parts[0].summary,
                "<br>".join(told for number in ARXIV.findall(citation) for told in seen.get(number, [])),
            ]
            for citation, parts in sorted(rows.items(), key=lambda row: row[0].lower())
        ],
    )


def claim_alone(claim: str) -> str:
    """A claim without its citation."""
    return re.sub(r" ?\([^()]*arXiv [\d.]+[^()]*\)", "", claim).rstrip(". ")


def claims_table(found: Mapping[str, Mapping[str, str]]) -> str:
    """What each score says about each claim."""
    measures = list(next(iter(found.values())))
    rows = [[paper_links(text), *(said[m] for m in measures)] for text, said in found.items()]
    return markdown(["claim", *(f"by {m}" for m in measures)], rows)


def curves_table(found: Mapping[str, Any], first: str) -> str:
    """What variants reach at equal budgets, beside the first."""
    heading, *rows = Curves(found["lines"], found["rows"]).table(first)
    return markdown(heading, rows)


def masks_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What the masks of each variant hide, and what a step with them costs."""
    rows = [
        [
            label,
            f"{one['hidden']:.3f}",
            f"{one['coverage'][0]:.2f} to {one['coverage'][1]:.2f}",
            "yes" if one["uniform"] else "no",
            f"{one['neighbour correlation']:+.2f}",
            f"{one['cost']:.2f}",
        ]
        for label, one in found.items()
    ]
    head = ["masks", "hidden", "hidden by site", "uniform", "neighbours", "time of a step"]
    return markdown(head, rows)


def figure(value: float | str) -> str:
    """A measured number: whole ones in full, others to four digits; what is text already stays."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def pages() -> dict[Path, str]:
    """Every page with generated parts, and what it should hold."""
    registry = own_registry()

    def fresh(found: re.Match[str]) -> str:
        makers = {
            "table": lambda kind: table(kind, registry),
            "gallery": lambda kind: gallery(kind, registry),
            "file": shown,
            "race": race,
            "probe": probe,
            "learns": learns,
            "papers": lambda folder: papers(folder, registry),
            "evidence": evidence,
        }
        return found[1] + makers[found[2]](found[3]) + found[4]

    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {path: path.read_text() for path in paths}
    return {path: GENERATED.sub(fresh, text) for path, text in texts.items() if GENERATED.search(text)}


if __name__ == "__main__":
    for path, text in pages().items():
        if path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
