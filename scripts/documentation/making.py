"""`scripts/docs --make PAGE`: run the commands of a page, and put what they make and print into it."""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import marks, pages
from .pages import EXAMPLES, ROOT, PageError, Step, before, calls, files, picture, recipe, stem

WORK = ROOT / ".pages"  # a folder for each page; what was run in it isn't run again
ROOMS = ("benchmarks", "docs")  # of the checkout, which scripts that a page names are in, and write into
LOOP = re.compile(r"\bfor (\w+) in ([^;\n]+)")


def make(page: Path, fresh: bool = False, long: bool = False) -> Path:
    """Run what has changed since the last time; pictures and outputs are replaced. Gives the page's folder.

    long: what takes long too.
    """
    folder = WORK / (f"examples-{page.parent.name}" if page.is_relative_to(EXAMPLES) else stem(page))
    with alone(folder):
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        if earlier := before(page):
            kept = make(earlier, fresh)
            shutil.copytree(kept, folder, dirs_exist_ok=True, ignore=lambda of, _: ROOMS if Path(of) == kept else ())
        (folder / ".made").mkdir(parents=True, exist_ok=True)
        for file in files(page):
            shutil.copy(file, folder)
        for step in recipe(page):
            if long or not step.block.takes:
                _made(page, step, folder)
    return folder


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder of a page is one process's at a time."""
    WORK.mkdir(exist_ok=True)
    with (WORK / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PageError(f"{folder}: another process makes this page; wait until it has ended") from None
        yield


def _made(page: Path, step: Step, folder: Path) -> None:
    """What a block makes and prints, in its place."""
    if any(f"{room}/" in step.block.code for room in ROOMS):  # scripts write into the pages, as in a checkout
        for room in ROOMS:
            if not (folder / room).exists():
                (folder / room).symlink_to(ROOT / room)
    output = _output(step, folder)
    for name in step.block.makes:
        _keep(folder / name, picture(page, name), step)
    if step.output:
        _fill(page, step, output)
    if step.block.last:
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(step.block.says, step.block.says.replace(f", last on {step.block.last}", "")))


def _output(step: Step, folder: Path) -> str:
    """What the block prints; run unless that was done."""
    stamp = folder / ".made" / f"{step.fingerprint}.json"
    if stamp.is_file() and all((folder / name).is_file() for name in step.block.makes):
        return json.loads(stamp.read_text(encoding="utf-8"))["output"]
    print(f"--- {step.block.where}\n{step.block.code}", end="", flush=True)
    for run in trained(step.block.code):
        shutil.rmtree(folder / run, ignore_errors=True)
    begun, cpu = time.monotonic(), os.times().children_user
    command = ["bash", "-euo", "pipefail", "-c"] if step.block.language in ("bash", "sh") else [sys.executable, "-c"]
    done = subprocess.run([*command, step.block.code], cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise PageError(f"{step.block.where}: exit status {done.returncode}\n{done.stdout}")
    if missing := [name for name in step.block.makes if not (folder / name).is_file()]:
        raise PageError(f"{step.block.where}: makes no {', '.join(missing)} (in {folder})")
    cpu, seconds = os.times().children_user - cpu, time.monotonic() - begun
    print(f"--- {seconds:.0f} s, {cpu:.0f} s of CPU time", flush=True)
    said = done.stdout.replace(f"{folder}/", "").replace(str(Path.home()), "~")
    output = "\n".join(line.rstrip() for line in said.splitlines()).strip("\n")
    stamp.write_text(json.dumps({"output": output, "cpu_seconds": round(cpu, 1)}), encoding="utf-8")
    return output


def trained(code: str) -> list[str]:
    """The runs that a block trains, those of its loops too, which an earlier form of it may have left."""
    found = []
    loops = [[(name, value) for value in values.split()] for name, values in LOOP.findall(code)]
    for words in calls(code):
        if words[:2] == ["lowerbound", "train"] and "--resume" not in words and "--stage" not in words:
            out = words[words.index("--out") + 1] if "--out" in words[:-1] else f"runs/{Path(words[2]).stem}"
            for values in itertools.product(*loops):
                run = re.sub(r"\$\{?(\w+)\}?", lambda v, known=dict(values): known.get(v[1], v[0]), out)
                if "$" not in run and not Path(run).is_absolute() and ".." not in Path(run).parts:
                    found.append(run)
    return [*dict.fromkeys(found)]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PATH": path, "PYTHONPATH": source, "COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}


def _keep(made: Path, kept: Path, step: Step) -> None:
    try:
        image = marks.marked(made.read_bytes(), f"recipe {step.fingerprint}, lowerbound {pages.version()}")
    except ValueError as e:
        raise PageError(f"{step.block.where}: {made.name}: {e}") from None
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(image)


def _fill(page: Path, step: Step, output: str) -> None:
    """Put what was printed, and the fingerprint of what printed it, into the page."""
    block = next(s.output for s in recipe(page) if s.fingerprint == step.fingerprint)  # its lines may have moved
    assert block is not None
    lines = page.read_text(encoding="utf-8").splitlines()
    fence = lines[block.line - 1]
    indent = fence[: len(fence) - len(fence.lstrip())]
    shown = [f"{indent}{line}".rstrip() for line in output.splitlines()]
    lines[block.line : block.end - 1] = shown
    lines[block.line - 2] = f"{indent}<!-- output: {step.fingerprint} -->"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
