"""How functions are called from Python: plain types, and what the command line has otherwise."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from cyclopts import Parameter

from lowerbound.runs.run import Run
from lowerbound.verbs.base import Device, Option, OtherRun, Runs, Told

SAID = {  # what a verb takes beside what is inside of it
    Run: "Run | str | Path",
    OtherRun: "Run | str | Path | None",
    Runs: "Sequence[Run | str | Path]",
    Device: "str",
    Told: "bool",
}
MODULE = re.compile(r"\b(?:[a-z_]\w*\.)+(?=\w)")
WIDTH = 100  # characters of a line


def plain(annotation: Any) -> str:
    """A type without what is said beside it, and without the modules of its parts.

    Example:
        >>> plain(Annotated[int | None, "whole"])
        'int | None'
    """
    for known, said in SAID.items():
        if annotation == known:
            return said
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    return MODULE.sub("", inspect.formatannotation(annotation))


def types(function: Callable[..., Any]) -> dict[str, str]:
    """Of each parameter the type in words."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {p.name: plain(p.annotation) for p in parameters if p.annotation is not p.empty}


def called(function: Callable[..., Any], name: str) -> str:
    """A line for each parameter, or one for all, and what the command line has otherwise behind it."""
    signature = inspect.signature(function, eval_str=True)
    parts: list[tuple[str, str]] = []
    before = None
    for p in signature.parameters.values():
        if before is inspect.Parameter.POSITIONAL_ONLY and p.kind is not before:
            parts.append(("/", ""))
        if p.kind is p.KEYWORD_ONLY and before not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            parts.append(("*", ""))
        parts.append((_parameter(p), _otherwise(p)))
        before = p.kind
    if before is inspect.Parameter.POSITIONAL_ONLY:
        parts.append(("/", ""))
    gives = "" if signature.return_annotation is signature.empty else f" -> {plain(signature.return_annotation)}"
    line = f"{name}({', '.join(part for part, _ in parts)}){gives}"
    if len(line) <= WIDTH and not any(said for _, said in parts):
        return line
    lines = [f"    {part},{f'  # {said}' if said else ''}" for part, said in parts]
    return "\n".join([f"{name}(", *lines, f"){gives}"])


def _parameter(p: inspect.Parameter) -> str:
    stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    kind = "" if p.annotation is p.empty else f": {plain(p.annotation)}"
    default = "" if p.default is p.empty else f" = {_value(p.default)}" if kind else f"={_value(p.default)}"
    return f"{stars}{p.name}{kind}{default}"


def _value(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else str(value) if isinstance(value, Path) else repr(value)


def _otherwise(p: inspect.Parameter) -> str:
    """Its name on the command line, where that is another, and its default there."""
    said = get_args(p.annotation)[1:] if get_origin(p.annotation) is Annotated else ()
    names = [name for m in said if isinstance(m, Parameter) and m.name for name in m.name]
    defaults = [m.default for m in said if isinstance(m, Option) and m.default is not p.empty]
    default = [f"by default {'a new one' if callable(d) else d}" for d in defaults]
    words = ", ".join([*names[:1], *default])
    return f"on the command line {words}" if words else ""
