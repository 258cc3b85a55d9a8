"""What is checked of the pages besides the site's own links: their code, their commands, their pictures and outputs."""

import ast
import functools
import html
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import marks, pages
from .pages import DOCS, ROOT, Block, PageError, blocks, calls, picture, recipe, sources

if TYPE_CHECKING:
    from cyclopts import App

FETCHED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="?(?:https?:)?//[^>]*>|<link\b[^>]*\bstylesheet[^>]*//[^>]*>'
)
ARTICLE = re.compile(r"<article.*?</article>", re.DOTALL)
MATH = re.compile(r"<math.*?</math>", re.DOTALL)
CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
MACHINERY = re.compile(  # of Python, which says nothing to a reader
    r"\bAnnotated\[|\btyping\.|<class '|<function |\bobject at 0x|\bPydanticUndefined|\bdefault_factory|<factory>"
    r"|\bForwardRef\(|\bFieldInfo|\bParameter\("
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def problems() -> Iterator[str]:
    """Everything that is wrong with the pages, a sentence each."""
    for page in sources():
        try:
            if not page.is_relative_to(DOCS):  # mkdocs looks at those
                yield from _links(page)
            for block in blocks(page):
                yield from code(block)
            if page in pages.runnable():
                yield from made(page)
        except PageError as e:
            yield str(e)
    yield from unmade()


def outside(site: Path) -> Iterator[str]:
    """What pages of the built site would fetch from elsewhere."""
    for page in sorted(site.rglob("*.html")):
        for tag in sorted(set(FETCHED.findall(page.read_text(encoding="utf-8")))):
            yield f"{page.relative_to(site)}: fetches from the network: {tag}"


def unread(site: Path) -> Iterator[str]:
    """Equations of the built site that were left as TeX, whole or in part."""
    for page in sorted(site.rglob("*.html")):
        (text, *_) = ARTICLE.findall(page.read_text(encoding="utf-8")) or [""]
        for math in MATH.findall(text):
            if "\\" in math:
                yield f"{page.relative_to(site)}: an equation has TeX left in it: {TAG.sub('', math)[:80]}"
        if left := re.search(r"\$[^$]{1,40}", TAG.sub("", CODE.sub("", text))):
            yield f"{page.relative_to(site)}: an equation was not seen as one: {left[0]}"


def machinery(site: Path) -> Iterator[str]:
    """What pages of the built site show of Python's own workings instead of a type or a value."""
    for page in sorted(site.rglob("*.html")):
        (text, *_) = ARTICLE.findall(page.read_text(encoding="utf-8")) or [""]
        text = html.unescape(TAG.sub("", text))
        if found := MACHINERY.search(text):
            around = " ".join(text[max(0, found.start() - 60) : found.end() + 40].split())
            yield f"{page.relative_to(site)}: shows Python's workings: {around}"


def _links(page: Path) -> Iterator[str]:
    """Files that are linked to and aren't there."""
    text = re.sub(r"^```.*?^```|^    .*?$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in sorted(set(LINK.findall(re.sub(r"`[^`\n]*`", "", text)))):
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
            yield f"{page.relative_to(ROOT)}: links to {target}, which is not there"


def code(block: Block) -> Iterator[str]:
    """What is wrong with a block of code."""
    if block.language == "python" and "--8<--" not in block.code:
        try:
            ast.parse(re.sub(r"^(>>>|\.\.\.) .*\n", "", block.code, flags=re.MULTILINE))
        except SyntaxError as e:
            yield f"{block.where}: line {e.lineno} of the block is no Python: {e.msg}"
    elif block.language in ("bash", "sh"):
        done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True)
        if done.returncode:
            yield f"{block.where}: {done.stderr.strip()}"
        for words in calls(re.sub(r"^.*\|\|.*$", "", block.code, flags=re.MULTILINE)):  # which may fail, on purpose
            if words[0] == "lowerbound":
                yield from (f"{block.where}: {' '.join(words)}: {wrong}" for wrong in command(words[1:], block))


def command(words: list[str], block: Block) -> Iterator[str]:
    """What the command line says against a command; it isn't run."""
    from cyclopts import CycloptsError

    from lowerbound.errors import ConfigError
    from lowerbound.runs import recipes

    first = dict(re.findall(r"^\s*for (\w+) in (\S+)", block.code, re.MULTILINE))  # what a loop's variable is at first
    words = [re.sub(r"\$\{?(\w+)\}?", lambda variable: first.get(variable[1], "0"), word) for word in words]
    try:
        function, given, _ = _app(*words[: 2 if words[0] == "data" else 1]).parse_args(
            words, exit_on_error=False, print_error=False
        )
    except CycloptsError as e:
        yield " ".join(str(e).split())
        return
    if words[0] == "train":
        name = given.args[0]
        beside = block.page.parent / name
        try:
            if beside.is_file() or Path(name).suffix not in (".toml", ".json"):
                recipes.load(str(beside) if beside.is_file() else name, given.args[1:])
        except ConfigError as e:
            yield str(e)
    if words[0] == "train":  # its seed is the recipe's
        return
    if block.marker in ("run", "long") and "seed" in inspect.signature(function).parameters and "--seed" not in words:
        seed = inspect.signature(function).parameters["seed"].default
        if seed is None:
            yield "draws otherwise each time; --seed 0 makes the same again"


@functools.cache
def _app(*words: str) -> "App":
    from lowerbound.cli import app

    return app([*words])


def made(page: Path) -> Iterator[str]:
    """Pictures and outputs that aren't there, aren't shown, or whose recipe has changed since."""
    text, again = page.read_text(encoding="utf-8"), f"scripts/docs --make {page.relative_to(ROOT)}"
    for step in recipe(page):
        command = again + (" --long" if step.block.takes else "")
        for name in step.block.makes:
            kept = picture(page, name)
            shown = str(kept.relative_to(ROOT))
            if not kept.is_file():
                yield f"{step.block.where}: {shown} was not made yet; make it with: {command}"
            elif step.block.last:
                if marks.mark(kept):
                    yield f"{step.block.where}: {shown} was made after {step.block.last}: its recipe is known"
            elif not step.made(marks.mark(kept)):
                told = marks.mark(kept) or "no recipe of it is known"
                yield (
                    f"{step.block.where}: {shown} was made by another recipe ({told}); this one is "
                    f"{step.fingerprint}. Make it anew with: {command}"
                )
            if not re.search(rf"[(/]{re.escape(kept.name)}\b", text):
                yield f"{step.block.where}: makes {shown}, which the page doesn't show"
        if step.output and step.output.says != step.fingerprint:
            yield f"{step.output.where}: was printed by other commands. Make it anew with: {command}"


def counted() -> tuple[int, int, int]:
    """Pictures whose recipe is known; of these, those of another version of the library, which take long; and those
    made before, by commands that take long, of which the day alone is known."""
    kept = [(s, picture(page, name)) for page in pages.runnable() for s in recipe(page) for name in s.block.makes]
    known = [path for step, path in kept if not step.block.last]
    now = f"lowerbound {pages.version()}"
    return len(known), sum(now not in marks.mark(path) for path in known), len(kept) - len(known)


def unmade() -> Iterator[str]:
    """Pictures that no page has a command for."""
    known = {picture(page, name) for page in pages.runnable() for step in recipe(page) for name in step.block.makes}
    for path in sorted(pages.PICTURES.iterdir()):
        if path.suffix in (".png", ".gif") and path not in known:
            yield f"{path.relative_to(ROOT)}: no page says by which command it is made"
