"""The README is true: its Python runs, its commands exist, the files in its tree are there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from command import right

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
CODE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list[str]:
    return [code for language, code in CODE.findall(TEXT) if language in languages]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all blocks, in their order: a run that one trains may be loaded by the next."""
    return tmp_path_factory.mktemp("readme")


def test_there_is_code():
    assert blocks("python"), "README.md has no ```python block"
    assert commands(), "README.md calls no `lowerbound VERB` in a ```bash block"


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, folder: Path):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{code}\n{done.stderr}"


@pytest.mark.parametrize("code", blocks("bash", "sh", "console"))
def test_shell_is_shell(code: str):
    done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stderr}"


def calls(code: str) -> list[list[str]]:
    """The words of every command in a shell block."""
    found = [[]]
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        words.whitespace_split = True
        found.append([])
        for word in words:
            if set(word) <= set("&|;()<>"):
                found.append([])
            else:
                found[-1].append(word)
    return [words for words in found if words]


def commands() -> list[tuple[str, list[str]]]:
    """Every verb that a shell block calls, with all the options it is given anywhere."""
    found: dict[str, set[str]] = {}
    for words in calls("\n".join(blocks("bash", "sh", "console"))):
        if Path(words[0]).name == "lowerbound" and len(words) > 1 and not words[1].startswith("-"):
            verb = " ".join(words[1:3]) if words[1] == "data" else words[1]
            found.setdefault(verb, set()).update(w.partition("=")[0] for w in words[2:] if w.startswith("--"))
    return sorted((verb, sorted(options)) for verb, options in found.items())


@pytest.mark.parametrize(("verb", "options"), commands(), ids=[verb for verb, _ in commands()])
def test_commands_exist(verb: str, options: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")  # no option's name is broken into two lines
    told = right(*verb.split(), "--help").out
    unknown = [option for option in options if option not in told]
    assert not unknown, f"lowerbound {verb} --help knows no {', '.join(unknown)}"


def tree() -> list[Path]:
    """The paths of the block that shows the source tree: each line's first word, indented under its folder."""
    block = next((b for b in blocks("", "text") if re.search(r"^src/lowerbound/|^lowerbound/", b, re.MULTILINE)), "")
    paths: list[Path] = []
    folders: list[tuple[int, Path]] = []  # indentation, folder
    for line in block.splitlines():
        plain = re.sub("[│├└─]", " ", line)
        if not (words := re.split(r"\s{2,}", plain.strip())) or not words[0]:
            continue
        indent = len(plain) - len(plain.lstrip())
        folders = [(i, f) for i, f in folders if i < indent]
        parent = folders[-1][1] if folders else Path()
        here = [parent / word for word in re.split(r",\s*|\s+", words[0])]
        folders.append((indent, here[0]))
        paths += here
        if not indent:  # several names in one line: `tests/  docs/  scripts/check`
            paths += [Path(word) for word in words[1:] if re.search(r"/|\.\w+$", word) and " " not in word]
    return paths


def test_the_tree_is_there():
    paths = tree()
    assert paths, "README.md shows no tree of src/lowerbound/"
    start = ROOT / "src" if paths[0].parts[0] == "lowerbound" else ROOT
    missing = [str(path) for path in paths if not (start / path).exists()]
    assert not missing, f"README.md shows files that don't exist: {', '.join(missing)}"
