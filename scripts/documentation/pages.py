"""Pages of Markdown: their fenced blocks, the commands that make their pictures, and a fingerprint of these.

A comment in the line before a fence says what the block is (CONTRIBUTING.md, "Pages and their pictures"):

    <!-- run -->                        its commands are run, in the order of the page
    <!-- run: makes samples.png -->     and samples.png is then docs/pictures/PAGE-samples.png
    <!-- long: 20 minutes, makes samples.png -->                         the same, run by --long alone
    <!-- long: 20 minutes, last on 2026-11-23, makes samples.png -->     made that day, without a fingerprint
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
MARKER = re.compile(r"^\s*<!--\s*(run|long|output)\b(?::\s*(.*?))?\s*-->\s*$")
LONG = re.compile(r"([^,]+?)(?:, last on (\d{4}-\d\d-\d\d))?, makes (\S.*)")
SCRIPTS = ("benchmarks", "docs/pictures")  # folders of scripts that pages may name
AFTER = re.compile(r"^\s*<!--\s*after:\s*(\S+)\s*-->\s*$", re.MULTILINE)


class PageError(Exception):
    """A page that says what can't be so, in one sentence."""


@dataclass(frozen=True)
class Block:
    """A fenced block. line: that of its fence, from 1. end: that of the closing fence. marker: run, output, or none.

    says: what follows the marker's colon.
    """

    page: Path
    line: int
    end: int
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
        if self.marker == "long":
            return self._long[2].split()
        words = self.says.split() if self.marker == "run" else []
        if words and (words[0] != "makes" or len(words) == 1):
            raise PageError(f"{self.where}: expected `run: makes FILE…`, got `run: {self.says}`")
        return words[1:]

    @property
    def takes(self) -> str:
        """How long it takes, if it is long."""
        return self._long[0] if self.marker == "long" else ""

    @property
    def last(self) -> str:
        """The day on which its pictures were made, if no fingerprint says what by."""
        return self._long[1] if self.marker == "long" else ""

    @property
    def _long(self) -> tuple[str, str, str]:
        found = LONG.fullmatch(self.says)
        if not found:
            raise PageError(f"{self.where}: expected `long: TIME, makes FILE…`, got `long: {self.says}`")
        return found[1], found[2] or "", found[3]


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


def scripts(code: str) -> list[Path]:
    """The scripts of the checkout that a block names."""
    return sorted(p for room in SCRIPTS for p in (ROOT / room).glob("*.py") if f"{room}/{p.name}" in code)


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
    """A block of a page to run, and all that is run up to its end."""

    block: Block
    run: list[Block]
    output: Block | None  # where what it printed goes

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.run, version())

    def made(self, mark: str) -> bool:
        """Whether a picture of that mark is of these commands. What takes long need not be of this version."""
        by = re.search(r"lowerbound (\S+)", mark)
        return fingerprint(self.run, by[1] if by and self.block.marker == "long" else version()) in mark


def recipe(page: Path) -> list[Step]:
    """What the page itself runs, in order. What takes long is run given all before it, the rest given the rest."""
    earlier = before(page)
    inherited = steps(earlier) if earlier else []
    found: list[Step] = []
    own = [b for b in blocks(page) if b.marker]
    for n, block in enumerate(own):
        if block.marker == "output":
            if not n or own[n - 1].marker != "run":
                raise PageError(f"{block.where}: an output follows a block that is run")
            continue
        counted = ("run", "long") if block.marker == "long" else ("run",)
        output = own[n + 1] if n + 1 < len(own) and own[n + 1].marker == "output" else None
        found.append(Step(block, [*inherited, *(b for b in own[: n + 1] if b.marker in counted)], output))
    return found


def picture(page: Path, name: str) -> Path:
    """Where a file that a page makes is kept: docs/course/bound.md's samples.png in course-bound-samples.png.

    That of an example lies beside its page, and what a script has put into docs/pictures/ stays there.
    """
    if name.startswith("docs/pictures/"):
        return ROOT / name
    if page.is_relative_to(EXAMPLES):
        return page.parent / Path(name).name
    return PICTURES / f"{stem(page)}-{Path(name).name}"


def stem(page: Path) -> str:
    """A page of docs/ as one word: docs/course/bound.md is course-bound."""
    return "-".join(page.relative_to(DOCS).with_suffix("").parts)


def fingerprint(run: list[Block], version: str) -> str:
    """Of commands, the recipes and files that they name, and the version of the library: 12 hexadecimal digits.

    Comments, and what recipes say of themselves, don't count.
    """
    said = [re.sub(r"(^|\s+)#.*$", "", block.code, flags=re.MULTILINE).strip() for block in run]
    named = {words[2] for block in run for words in calls(block.code) if words[:2] == ["lowerbound", "train"]}
    library = {name: RECIPES / f"{name}.toml" for name in sorted(named)}
    recipes: dict[str, object] = {name: _asked(file) for name, file in library.items() if file.is_file()}
    beside = {file.name: file for block in run for file in files(block.page) if file.name in block.code}
    recipes |= {name: _asked(file) for name, file in beside.items() if file.suffix == ".toml"}
    beside |= {file.name: file for block in run for file in scripts(block.code)}
    recipes |= {name: file.read_text(encoding="utf-8") for name, file in beside.items() if file.suffix == ".py"}
    text = json.dumps({"version": version, "commands": said, "recipes": recipes}, sort_keys=True)
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
