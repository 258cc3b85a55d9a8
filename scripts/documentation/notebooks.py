"""Pages as notebooks (.ipynb): what a page runs are cells, all else is Markdown; and how to run them."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from .pages import DOCS, ROOT, Block, before, blocks, picture, steps

SNIPPET = re.compile(r'^( *)--8<-- "([^":]+):(\w[\w-]*)"$', re.MULTILINE)
COMMENT = re.compile(r"^\s*<!--.*?-->\s*$\n?", re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)\n?")
SHOWN = re.compile(r"(!\[[^\]]*\])\((?![a-z]+:)([^)\s]+\.(?:png|gif))\)")
DETAILS = re.compile(r"</?details[^>]*>")
NEEDS = "Its commands need `pip install lowerbound`, and write into the folder of this notebook."
BASH = """import subprocess

def bash(code):
    subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
"""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def notebook(page: Path) -> dict[str, Any]:
    """The page as a notebook, nothing of it run yet."""
    text = page.read_text(encoding="utf-8").split("\n")
    made = {picture(page, name).name for block in blocks(page) if block.marker == "run" for name in block.makes}
    cells: list[dict[str, Any]] = []
    if earlier := before(page):
        cells = [_markdown("The next cells are those of the pages that this one goes on from.")]
        cells += [_code(b) for b in steps(earlier)]
    done = 0
    own: list[dict[str, Any]] = []
    for block in [b for b in blocks(page) if b.marker]:
        own += _prose(text[done : block.line - 1], page, made)
        own += [_code(block), *_shown(block)] if block.marker == "run" else []
        done = block.end
    own += _prose(text[done:], page, made)
    title, _, rest = "".join(own[0]["source"]).partition("\n")
    begun = [_markdown(title), _markdown(NEEDS), *([own[0] | _markdown(rest.lstrip("\n"))] if rest else [])]
    cells = [*begun, *cells, *own[1:]]
    return {
        "cells": [{"id": f"cell-{n}", **cell} for n, cell in enumerate(cells)],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(folder: Path) -> list[Path]:
    """A notebook for every page of the course, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for page in course():
        found.append(folder / f"{page.stem}.ipynb")
        found[-1].write_text(text(page), encoding="utf-8")
    return found


def text(page: Path) -> str:
    return json.dumps(notebook(page), ensure_ascii=False, indent=1) + "\n"


def course() -> list[Path]:
    """The pages of the course that run something."""
    return [page for page in sorted((DOCS / "course").glob("*.md")) if any(b.marker == "run" for b in blocks(page))]


def run(found: dict[str, Any], folder: Path, quick: bool = False) -> None:
    """Run the cells of a notebook in a folder, in one Python process, as Jupyter does. Raises CalledProcessError.

    quick: with trainings of a few steps, by `python -m documentation.quickly` in the place of `lowerbound`.
    """
    parts = [BASH]
    for cell in found["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(cell["source"])
            if code.startswith("%%bash\n"):
                parts.append(f"bash({code.removeprefix('%%bash') + chr(10)!r})")
            elif "IPython.display" not in code:
                parts.append(code)
    commands = folder / ".commands"
    commands.mkdir(parents=True, exist_ok=True)
    module = "documentation.quickly" if quick else "lowerbound.cli"
    program = f'import sys; from {module} import main; sys.argv[0] = "lowerbound"; main()'
    (commands / "lowerbound").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{program}' \"$@\"\n")
    (commands / "lowerbound").chmod(0o755)
    python = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(commands), python, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "scripts")]),
        "MPLBACKEND": "agg",
    }
    (folder / ".cells.py").write_text("\n".join(parts), encoding="utf-8")
    subprocess.run([sys.executable, ".cells.py"], cwd=folder, env=environment, check=True)


def _code(block: Block) -> dict[str, Any]:
    code = block.code.rstrip("\n")
    if block.language != "python":
        code = f"%%bash\n{code}"
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": _lines(code)}


def _shown(block: Block) -> list[dict[str, Any]]:
    """A cell that shows the pictures that the block made."""
    if not block.makes:
        return []
    shown = ", ".join(f'Image("{name}")' for name in block.makes)
    code = f"from IPython.display import Image, display\n\ndisplay({shown})"
    return [{"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": _lines(code)}]


def _prose(lines: list[str], page: Path, made: set[str]) -> list[dict[str, Any]]:
    words = COMMENT.sub("", "\n".join(lines))
    words = SNIPPET.sub(_snippet, words).replace("``` { .python }", "```python")
    words = DETAILS.sub("", words).replace("<summary>", "*").replace("</summary>", "*")
    words = PICTURE.sub(lambda m: "" if Path(m[1]).name in made else m[0], words)
    words = LINK.sub(lambda m: _link(m, page), words).strip()
    inside: dict[str, Any] = {}
    words = SHOWN.sub(lambda m: _inside(m, page, inside), words)
    return [_markdown(words) | ({"attachments": inside} if inside else {})] if words else []


def _inside(found: re.Match[str], page: Path, inside: dict[str, Any]) -> str:
    """A picture that another page made goes along in the notebook, which is read elsewhere than the page."""
    file = (page.parent / found[2]).resolve()
    inside[file.name] = {f"image/{file.suffix[1:]}": base64.b64encode(file.read_bytes()).decode()}
    return f"{found[1]}(attachment:{file.name})"


def _snippet(found: re.Match[str]) -> str:
    """The lines between the markers of a section."""
    source = (ROOT / found[2]).read_text(encoding="utf-8").split("\n")
    start, end = (
        next(n for n, line in enumerate(source) if f"[{what}:{found[3]}]" in line) for what in ("start", "end")
    )
    inner = source[start + 1 : end]
    indent = min((len(line) - len(line.lstrip()) for line in inner if line.strip()), default=0)
    return "\n".join(line[indent:] for line in inner)


def _link(found: re.Match[str], page: Path) -> str:
    """To other notebooks, and to what is on the web; what else a page links to is only named."""
    target = found[2].partition("#")[0]
    if re.match(r"[a-z]+:", target):
        return found[0]
    file = (page.parent / target).resolve()
    return f"[{found[1]}]({file.stem}.ipynb)" if file in course() else found[1]


def _markdown(words: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(words)}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
