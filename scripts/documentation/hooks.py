"""What mkdocs does besides: pages that are written elsewhere, links out of docs/, equations."""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from PIL import Image

from documentation import notebooks, printed
from documentation.equations import drawn
from documentation.pages import DOCS, EXAMPLES, LONG, RECIPES, ROOT
from documentation.reference import generated

ELSEWHERE = {  # page of the site: file of the repository
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
} | {
    page.relative_to(ROOT).as_posix(): page.relative_to(ROOT).as_posix()
    for page in sorted(EXAMPLES.glob("*/README.md"))
}
TAKES = re.compile(rf"^( *)<!-- long: {LONG.pattern} -->$", re.MULTILINE)
CELL = re.compile(r"(?<=<td>).*?(?=</td>)|(?<=<td style=\"text-align: right;\">).*?(?=</td>)", re.DOTALL)
BREAK = re.compile(r"(?<=[\w\])])([._=,/])(?=[^\W\d][^<>]*</code>)")  # in code, not in numbers
ITEM = re.compile(r"([-*+]|\d+\.) ")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


PARAGRAPH = re.compile(r"<p>(?:(?!</p>).)*<img.*?</p>", re.DOTALL)
IMAGE = re.compile(r'<img [^>]*?src="([^":]+\.(?:png|gif))"[^>]*>')
DIALOG = 'data-md-component="search" role="dialog"'
COLUMN = 940  # CSS pixels: how wide a page's text is, and a little more
SCREEN = 1150  # CSS pixels, how high a picture may become


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, source in ELSEWHERE.items():
        text = _indented(_relinked((ROOT / source).read_text(encoding="utf-8"), source, name))
        files.append(File.generated(config, name, content=text))
        for picture in [*(ROOT / source).parent.glob("*.png"), *(ROOT / source).parent.glob("*.gif")]:
            files.append(File.generated(config, picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture)))
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
    markdown = TAKES.sub(_takes, markdown)
    return _indented(_relinked(markdown, f"docs/{here}", here))


def on_page_content(html: str, page: Any, files: Files, **_: Any) -> str:
    html = PARAGRAPH.sub(lambda found: _enlarged(found[0], page.file.dest_uri, files), drawn(html))
    html = printed.shown(html)
    return CELL.sub(lambda cell: BREAK.sub(r"\1<wbr>", cell[0]), html)


def on_post_page(output: str, **_: Any) -> str:
    return _named(output)


def on_post_template(output_content: str, template_name: str, **_: Any) -> str:
    return _named(output_content) if template_name.endswith(".html") else output_content


@event_priority(-100)  # once the index is there
def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """The index of the search as a script too, which a page that is opened as a file may read."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")


def _named(page: str) -> str:
    """The dialog of the search has a name, which the theme doesn't give it."""
    return page.replace(DIALOG, f'{DIALOG} aria-label="Search"')


def _enlarged(paragraph: str, page: str, files: Files) -> str:
    """Pictures whose pixels are those of small images, two or three times as large; plots are larger from the start."""
    count = paragraph.count("<img")

    def image(found: re.Match[str]) -> str:
        file = files.src_uris.get(posixpath.normpath(posixpath.join(posixpath.dirname(page), found[1])))
        if file is None or not file.abs_src_path:
            return found[0]
        with Image.open(file.abs_src_path) as picture:
            width, height = picture.size
            times = min(3, COLUMN // (width * count), SCREEN // height) if small(picture) else 1
        if times < 2:
            return found[0]
        return found[0].replace("<img", f'<img class="pixels" width="{times * width}" height="{times * height}"')

    return IMAGE.sub(image, paragraph)


def small(picture: Image.Image) -> bool:
    """Whether most columns of pixels differ from the next; where images are drawn larger already, they don't."""
    x = np.asarray(picture.convert("L"))
    differs = (x[:, 1:] != x[:, :-1]).mean(0)
    return float(np.quantile(differs, 0.45)) > 0.1 * float(differs.mean())


def _takes(found: re.Match[str]) -> str:
    """What a reader is told of a command that takes long."""
    last = f" Its pictures were last made on {found[3]}." if found[3] else ""
    return f"{found[1]}*{found[2]}.{last}*\n"


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
        if not file.exists() or (found[1] and file.is_relative_to(EXAMPLES)):
            return found[0]  # mkdocs says so; a picture beside its page
        return shown

    lines, fenced = [], False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        lines.append(line if fenced else LINK.sub(link, line))
    return "\n".join(lines)


def _indented(text: str) -> str:
    """What is inside of items of lists by four spaces, as Python-Markdown reads it; the sources have two, as GitHub
    does."""
    done, item, fenced, begun = [], False, False, 0
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        if line[:1].strip():
            if item and ITEM.match(line) and done[-1].startswith(" ") and "" in done[begun:]:
                done.append("")  # after an item of several paragraphs
            item, begun = not fenced and bool(ITEM.match(line)), len(done)
        inner = len(line) - len(line.lstrip())
        done.append(" " * inner + line if item and inner and not fenced else line)
    return "\n".join(done)
