"""The command line: list the verbs, parse, print."""

import ast
import errno
import functools
import importlib
import io
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cyclopts import App, CycloptsError, UnusedCliTokensError

from lowerbound.errors import Ended, Interrupted, UserError, more
from lowerbound.processes import speaks

ASKED = "--asked"  # `parallel.asked`: by which processes are begun
PACKAGE = Path(__file__).parent
EXPLORE = PACKAGE / "explorer" / "explore.py"  # a verb on the floor above: it shows what others report


class Command(NamedTuple):
    """A verb, or one of a group of them: `data show` is the function show_data of verbs/data.py."""

    words: tuple[str, ...]
    module: str
    function: str
    help: str


@functools.cache
def commands() -> tuple[Command, ...]:
    """Every function that is marked `@verb` in the file, or the main file of the folder, of a name; found by reading
    them, since importing takes seconds. A file's own name is the verb's, that of another function goes before it."""
    return tuple(_found())


def _found() -> Iterator[Command]:
    for path in sorted([*(PACKAGE / "verbs").iterdir(), EXPLORE], key=lambda path: path.name):
        path = path if path.suffix == ".py" else path / f"{path.name}.py"
        if not path.is_file():
            continue
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = path.stem.replace("_", "-")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", "") == "verb" for d in node.decorator_list):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                if node.name == path.stem:
                    yield Command((name,), module, node.name, first)
                elif node.name.endswith(f"_{path.stem}"):
                    yield Command((name, node.name.removesuffix(f"_{path.stem}")), module, node.name, first)


def app(words: list[str]) -> App:
    """The commands, of which the one that is asked for is imported."""
    made = App(
        name="lowerbound",
        help="Train, measure and sample latent-variable models of images. "
        "Every likelihood says whether it is exact (=) or a bound (<=). "
        "What is behind an error, as in (lowerbound.errors/data), says `lowerbound explain data`.",
        version_flags=["--version"],
        suppress_keyboard_interrupt=False,  # main says what happened
    )
    groups: dict[str, App] = {}
    for c in commands():
        wanted = tuple(words[: len(c.words)]) == c.words
        function = _imported(c) if wanted else _unopened(c)
        home = made
        if len(c.words) > 1:
            if c.words[0] not in groups:
                source = PACKAGE.joinpath(*c.module.split(".")).with_suffix(".py")
                about = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
                groups[c.words[0]] = App(name=c.words[0], help=about)
                made.command(groups[c.words[0]])
            home = groups[c.words[0]]
        home.command(function, name=[*c.words][-1])
    return made


def _imported(c: Command) -> Callable[..., int]:
    base = importlib.import_module("lowerbound.verbs.base")
    return base.command(getattr(importlib.import_module(f"lowerbound.{c.module}"), c.function), _show)


def _unopened(c: Command) -> Callable[..., None]:
    def named() -> None: ...

    named.__doc__ = c.help
    return named


def main() -> None:
    """The command `lowerbound`: exit status 0, 2 for a user's mistake, 130 for Ctrl-C; 1 for files that can't be read
    beside others that can, for what `--strict` finds, and for an internal error."""
    _streams()
    os.environ["MPLBACKEND"] = "agg"  # files alone are drawn, and what a notebook draws with may not be here
    words = [w for w in sys.argv[1:] if w != "--debug"]
    debug = len(words) < len(sys.argv) - 1
    try:
        status = _done(words)
    except Ended as e:
        raise SystemExit(e.status) from None
    except UserError as e:
        _fail(f"{_plain(e)} {more(e.page)}", 2, debug)
    except UnusedCliTokensError as e:
        verb = " ".join(("lowerbound", *(e.command_chain or ())))
        said = f"{shlex.join(e.unused_tokens or ())}: more than `{verb}` takes; `{verb} --help` shows what that is"
        _fail(f"{said} {more(UserError.page)}", 2, debug)
    except CycloptsError as e:
        _fail(f"{_plain(e)} {more(UserError.page)}", 2, debug)
    except Interrupted as e:
        if not str(e) or not speaks():  # another process has said so
            raise SystemExit(130) from None
        again = [w for w in words if w not in ("--resume", "--overwrite")]
        _fail(f"stopped; {e} is saved. Go on with: lowerbound {shlex.join(again)} --resume", 130)
    except KeyboardInterrupt:
        if not speaks():
            raise SystemExit(130) from None
        _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as e:
        from lowerbound.devices import out_of_memory  # it imports torch

        if isinstance(e, OSError) and e.errno == errno.ENOSPC:
            _fail(f"{e.filename or 'standard output'}: the disk is full {more(UserError.page)}", 2, debug)
        if out_of_memory(e):
            _fail(f"there is not enough memory: {_plain(e)} {more('memory')}", 1, debug)
        where = "".join(f" {note}" for note in getattr(e, "__notes__", ()))
        _fail(f"internal error{where}: {type(e).__name__}: {_plain(e)} (--debug shows where)", 1, debug)
    else:
        if status:
            raise SystemExit(status)


def _streams() -> None:
    """Standard output and error that may be written to, whatever was closed, and whose encoding refuses no letter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, as long as the process lives
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _done(words: list[str]) -> int | None:
    """What the words ask for, done; the exit status."""
    if words[:1] == [ASKED]:
        return importlib.import_module("lowerbound.parallel.asked").answer(words[1])
    return app(words)(words, exit_on_error=False, print_error=False, result_action="return_value")


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split())


def _fail(message: str, status: int, debug: bool = False) -> None:
    if debug:
        traceback.print_exc()
    clear = "\r\033[K" if sys.stderr.isatty() else ""  # of a bar that was not finished
    sys.stderr.write(f"{clear}lowerbound: {message}\n")
    raise SystemExit(status)


def _show(report: Any, as_json: bool) -> int:
    """The report on standard output: JSON, or for a person; the exit status."""
    if not speaks():
        return report.status()
    if as_json:
        sys.stdout.write(json.dumps(report.json(), indent=1, allow_nan=False) + "\n")
    else:
        from rich.console import Console

        console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)
        text = report.shown()
        console.print(text, soft_wrap=isinstance(text, str))  # a sentence is one line, however long
    for note in () if as_json else report.notes():
        sys.stderr.write(f"{note}\n")
    return report.status()
