"""What mkdocs does besides: pages that are written elsewhere, links out of docs/, equations."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from documentation import notebooks
from documentation.equations import drawn
from documentation.pages import DOCS, RECIPES, ROOT
from documentation.reference import generated

ELSEWHERE = {  # page of the site: file of the repository
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
ITEM = re.compile(r"([-*+]|\d+\.) ")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, source in ELSEWHERE.items():
        text = _indented(_relinked((ROOT / source).read_text(encoding="utf-8"), source, name))
        files.append(File.generated(config, name, content=text))
    for name, text in generated().items():
        files.append(File.generated(config, name, content=text))
    for page in notebooks.course():
        files.append(File.generated(config, f"course/{page.stem}.ipynb", content=notebooks.text(page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    here = page.file.src_uri
    if page.file.generated_by:
        return markdown
    if DOCS / here in notebooks.course():
        markdown += f"\n\n[This page as a notebook]({Path(here).stem}.ipynb)\n"
    return _indented(_relinked(markdown, f"docs/{here}", here))


def on_page_content(html: str, **_: Any) -> str:
    return drawn(html)


def _relinked(text: str, source: str, name: str) -> str:
    """Links of a file of the repository as those of the page of that name: out of docs/ they lead to the pages that
    show such files, and what no page shows is named without a link."""
    folder, depth = (ROOT / source).parent, "../" * name.count("/")
    pages = {ROOT / file: page for page, file in ELSEWHERE.items()} | {ROOT / "README.md": "index.md"}

    def link(found: re.Match[str]) -> str:
        shown, target = found[2], found[3]
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        file = (folder / path).resolve()
        if file in pages:
            return f"{found[1]}[{shown}]({depth}{pages[file]}{hash_sign}{anchor})"
        if file.is_relative_to(ROOT / "docs"):
            return f"{found[1]}[{shown}]({depth}{file.relative_to(ROOT / 'docs').as_posix()}{hash_sign}{anchor})"
        if file.parent == RECIPES and file.is_file():
            return f"[{shown}]({depth}reference/recipes.md#{file.stem})"
        if not file.exists():
            return found[0]  # mkdocs says so
        return shown

    lines, fenced = [], False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        lines.append(line if fenced else LINK.sub(link, line))
    return "\n".join(lines)


def _indented(text: str) -> str:
    """What is inside of items of lists by four spaces, as Python-Markdown reads it; the sources have two, as GitHub
    does."""
    done, item, fenced = [], False, False
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        if line[:1].strip():
            item = not fenced and bool(ITEM.match(line))
        inner = len(line) - len(line.lstrip())
        done.append(" " * inner + line if item and inner and not fenced else line)
    return "\n".join(done)
