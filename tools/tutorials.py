"""Execute the tutorials, and write them with what they print and draw as pages of the site.

    uv run --group tutorials tools/tutorials.py [NAME ...]

A tutorial is a notebook kept as text, ``docs/tutorials/NAME.py`` in jupytext's percent format. It runs in an
empty folder of its own; its page is ``NAME.md`` beside it, and its pictures and sounds lie in
``docs/assets/tutorials``. What it says on stderr is left out.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
SOURCES, MEDIA = ROOT / "docs/tutorials", ROOT / "docs/assets/tutorials"

COLUMNS = 76
"""Of tables: what a page shows without scrolling to the side, but on a phone."""

WIDEST = 1600
"""Pixels of a picture."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_EMBEDDED = re.compile(r"data:(image|audio)/([\w+-]+);base64,([\w+/=]+)")


def execute(source: Path) -> Any:
    """The notebook, with its outputs."""
    notebook = jupytext.read(source)
    here = os.environ | {"JUPYTER_COLUMNS": str(COLUMNS), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=1800, kernel_name="python3", resources={})
        client.resources = {"metadata": {"path": folder}}
        client.execute(env=here)
    return notebook


def page(notebook: Any, name: str) -> str:
    """The notebook as Markdown, what is embedded in its outputs in files of their own."""
    for old in MEDIA.glob(f"{name}-*"):
        old.unlink()
    keep, parts = _Keeper(name), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts += [text for output in cell.outputs if (text := _shown(output, keep))]
    link = f"[This page as a notebook]({name}.py), in the percent format of jupytext."
    return "\n\n".join([*parts, link]) + "\n"


def _shown(output: Any, keep: _Keeper) -> str:
    """An output as Markdown."""
    if output.output_type == "stream":
        return _text(output.text) if output.name == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        path = keep(base64.b64decode(data["image/png"]), "png")
        return f"[![what the cell above draws]({path})]({path})"
    plain = str(data.get("text/plain", ""))
    if "text/html" in data and plain.startswith("<IPython"):
        # relative to the address of the page, which mkdocs does not do in HTML
        html = _EMBEDDED.sub(
            lambda found: f"../{keep(base64.b64decode(found[3]), found[2])}", data["text/html"]
        )
        lines = [line.strip() for line in html.splitlines() if line.strip()]
        return f'<div class="output">{" ".join(lines)}</div>'
    return _text(plain)


def _text(text: str) -> str:
    """Printed text, in a block that no highlighting colours."""
    lines = [line.rstrip() for line in _COLOURS.sub("", text).strip("\n").splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```"


class _Keeper:
    """Writes what is embedded, pictures as WebP; gives its address from the page."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def __call__(self, content: bytes, kind: str) -> str:
        self.count += 1
        MEDIA.mkdir(parents=True, exist_ok=True)
        path = MEDIA / f"{self.name}-{self.count}.{'webp' if kind == 'png' else kind.removeprefix('x-')}"
        if kind != "png":
            path.write_bytes(content)
        else:
            picture = Image.open(io.BytesIO(content)).convert("RGBA")
            picture.thumbnail((WIDEST, 10 * WIDEST))
            picture.save(path, quality=80)
        return f"../assets/tutorials/{path.name}"


def main() -> None:
    """Execute all, or those that are named."""
    for source in sorted(SOURCES.glob("*.py")):
        if sys.argv[1:] and source.stem not in sys.argv[1:]:
            continue
        began = time.monotonic()
        notebook = execute(source)
        nbformat.validate(notebook)
        source.with_suffix(".md").write_text(page(notebook, source.stem), encoding="utf-8")
        sys.stdout.write(f"{source.stem}: {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
