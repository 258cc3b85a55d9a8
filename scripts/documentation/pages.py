"""Pages of Markdown: their fenced blocks, the commands that make their pictures, and a fingerprint of these.

A comment in the line before a fence says what the block is (CONTRIBUTING.md, "Pages and their pictures"):

    <!-- run -->                        its commands are run, in the order of the page
    <!-- run: makes samples.png -->     and samples.png is then docs/pictures/PAGE-samples.png
    <!-- output -->                     what the run block before it printed

and `<!-- after: course/bound.md -->` anywhere in a page, that its commands begin where those of another one ended. The
README.md of a folder of examples/ is such a page too, whose files and pictures lie beside it.
"""

import hashlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
PICTURES = DOCS / "pictures"
EXAMPLES = ROOT / "examples"
RECIPES = ROOT / "src" / "lowerbound" / "recipes"
FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*(\w*)")
MARKER = re.compile(r"^\s*<!--\s*(run|output)\b(?::\s*(.*?))?\s*-->\s*$")
AFTER = re.compile(r"^\s*<!--\s*after:\s*(\S+)\s*-->\s*$", re.MULTILINE)


class PageError(Exception):
    """A page that says what can't be so, in one sentence."""


@dataclass(frozen=True)
class Block:
    """A fenced block. line: that of its fence, from 1. last: that of the closing fence. marker: run, output, or none.

    says: what follows the marker's colon.
    """

    page: Path
    line: int
    last: int
    language: str
    code: str
    marker: str = ""
    says: str = ""

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def makes(self) -> list[str]:
        """The files that it leaves in the page's folder as pictures."""
        words = self.says.split() if self.marker == "run" else []
        if words and (words[0] != "makes" or len(words) == 1):
            raise PageError(f"{self.where}: expected `run: makes FILE…`, got `run: {self.says}`")
        return words[1:]


def sources() -> list[Path]:
    """The pages that are checked: those of docs/ and of examples/, and those in the root."""
    return [
        *runnable(),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
    ]


def runnable() -> list[Path]:
    """The pages whose blocks may be run."""
    return [*sorted(DOCS.rglob("*.md")), *sorted(EXAMPLES.glob("*/README.md"))]


def files(page: Path) -> list[Path]:
    """What lies beside a page of examples/ for its commands: recipes and scripts."""
    if not page.is_relative_to(EXAMPLES):
        return []
    return sorted(p for p in page.parent.iterdir() if p.suffix in (".toml", ".py"))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, str, str] | None = None
    for n, line in enumerate(lines):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened = (n, fence[1], fence[2], fence[3])
        elif opened and line.strip() == opened[2]:
            start, indent, _, language = opened
            code = "".join(f"{inner.removeprefix(indent)}\n" for inner in lines[start + 1 : n])
            marker = MARKER.match(lines[start - 1]) if start else None
            says = (marker[1], marker[2] or "") if marker else ("", "")
            found.append(Block(page, start + 1, n + 1, language, code, *says))
            opened = None
    if opened:
        raise PageError(f"{page.relative_to(ROOT)}:{opened[0] + 1}: the block is not closed")
    return found


def before(page: Path) -> Path | None:
    """The page that this one's commands go on from."""
    names = AFTER.findall(page.read_text(encoding="utf-8"))
    if not names:
        return None
    found = DOCS / names[0]
    if len(names) > 1 or not found.is_file() or found == page:
        raise PageError(f"{page.relative_to(ROOT)}: `after: {' '.join(names)}` is no one page of docs/")
    return found


def steps(page: Path) -> list[Block]:
    """The blocks to run, in their order, those of the pages it goes on from first."""
    earlier = before(page)
    return [*(steps(earlier) if earlier else []), *(b for b in blocks(page) if b.marker == "run")]


@dataclass(frozen=True)
class Step:
    """A block of a page to run, and the fingerprint of all that is run up to its end."""

    block: Block
    fingerprint: str
    output: Block | None  # where what it printed goes


def recipe(page: Path) -> list[Step]:
    """What the page itself runs, in order."""
    inherited = len(steps(page)) - sum(b.marker == "run" for b in blocks(page))
    run, found = steps(page), []
    following = {}
    own = [b for b in blocks(page) if b.marker]
    for n, block in enumerate(own):
        if block.marker == "output":
            if not n or own[n - 1].marker != "run":
                raise PageError(f"{block.where}: an output follows a block that is run")
            following[own[n - 1].line] = block
    for n in range(inherited, len(run)):
        found.append(Step(run[n], fingerprint(run[: n + 1]), following.get(run[n].line)))
    return found


def picture(page: Path, name: str) -> Path:
    """Where a file that a page makes is kept: docs/course/bound.md's samples.png in course-bound-samples.png.

    That of an example lies beside its page.
    """
    if page.is_relative_to(EXAMPLES):
        return page.parent / Path(name).name
    return PICTURES / f"{stem(page)}-{Path(name).name}"


def stem(page: Path) -> str:
    """A page of docs/ as one word: docs/course/bound.md is course-bound."""
    return "-".join(page.relative_to(DOCS).with_suffix("").parts)


def fingerprint(run: list[Block]) -> str:
    """Of commands, the recipes and files that they name, and the version of the library: 12 hexadecimal digits.

    Comments, and what recipes say of themselves, don't count.
    """
    said = [re.sub(r"(^|\s+)#.*$", "", block.code, flags=re.MULTILINE).strip() for block in run]
    named = {words[2] for block in run for words in calls(block.code) if words[:2] == ["lowerbound", "train"]}
    library = {name: RECIPES / f"{name}.toml" for name in sorted(named)}
    recipes: dict[str, object] = {name: _asked(file) for name, file in library.items() if file.is_file()}
    beside = {file.name: file for block in run for file in files(block.page) if file.name in block.code}
    recipes |= {name: _asked(file) for name, file in beside.items() if file.suffix == ".toml"}
    recipes |= {name: file.read_text(encoding="utf-8") for name, file in beside.items() if file.suffix == ".py"}
    text = json.dumps({"version": version(), "commands": said, "recipes": recipes}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _asked(path: Path) -> dict[str, object]:
    return {key: value for key, value in tomllib.loads(path.read_text(encoding="utf-8")).items() if key != "about"}


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


KEYWORDS = ("do", "then", "else", "time", "!", "{")


def calls(code: str) -> Iterator[list[str]]:
    """The words of every command in a shell block that has at least two."""
    for line in code.replace("\\\n", " ").splitlines():
        plain = re.sub(r"\s\d?>>?\s*(&\d|\S+)", "", line.strip().removeprefix("$ "))  # where its output goes
        words = shlex.shlex(plain, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        call: list[str] = []
        for word in [*_words(words), ";"]:
            if set(word) <= set("&|;()<>"):
                while call and call[0] in KEYWORDS:
                    call = call[1:]
                if len(call) > 1:
                    yield call
                call = []
            else:
                call.append(word)


def _words(line: shlex.shlex) -> list[str]:
    try:
        return [*line]
    except ValueError:  # a quotation over several lines: no command of the library
        return []
