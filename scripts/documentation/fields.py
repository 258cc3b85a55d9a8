"""The fields of components: the values they take, the default, and the comment that says what each means."""

import ast
import functools
import importlib
import inspect
import io
import json
import pkgutil
import textwrap
import tokenize
from typing import Any, NamedTuple

from lowerbound.config import Component, described, dump


class Key(NamedTuple):
    """A key of a configuration: what may be said, what is said where nothing is, and what it means."""

    name: str
    takes: str
    default: str
    meaning: str


@functools.cache
def components() -> dict[type[Component], list[type[Component]]]:
    """Every component of the package by its kind: the class below Component that it is one of."""
    import lowerbound

    for found in pkgutil.walk_packages(lowerbound.__path__, "lowerbound."):
        if not found.name.startswith(("lowerbound.testing", "lowerbound.explorer")):
            importlib.import_module(found.name)
    kinds: dict[type[Component], list[type[Component]]] = {}
    queue = [*Component.__subclasses__()]
    while queue:
        cls = queue.pop()
        queue += cls.__subclasses__()
        if not cls.abstract and cls.__module__.startswith("lowerbound.") and ".testing" not in cls.__module__:
            kinds.setdefault(_kind(cls), []).append(cls)
    return {kind: sorted(of, key=lambda c: c.type_name()) for kind, of in kinds.items()}


def _kind(cls: type[Component]) -> type[Component]:
    return [c for c in cls.__mro__ if issubclass(c, Component) and c is not Component][-1]


def keys(cls: type[Component]) -> list[Key]:
    """The keys of a component, in the order of its fields."""
    found = []
    for name, field in cls.model_fields.items():
        default = "needed" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        found.append(Key(name, described(field), default, _meaning(cls, name)))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Component):
        said = {k: v for k, v in dump(value).items() if k != "type"}
        changed = {k: v for k, v in said.items() if k in value.model_fields_set}
        name = value.type_name()
        return f"{name}, {', '.join(f'{k}={json.dumps(v)}' for k, v in changed.items())}" if changed else name
    if isinstance(value, tuple) and any(isinstance(v, Component) for v in value):
        return ", ".join(_shown(v) for v in value)
    return json.dumps(value)


def _meaning(cls: type[Component], name: str) -> str:
    """The comment of the class that declares the field."""
    for owner in cls.__mro__:
        if name in vars(owner).get("__annotations__", {}):
            return _comments(owner).get(name, "")
    return ""


@functools.cache
def _comments(cls: type[Any]) -> dict[str, str]:
    """Field -> the comment behind it, or in the lines above it."""
    lines, _ = inspect.getsourcelines(cls)
    source = textwrap.dedent("".join(lines))
    comments = {}  # line: (text, whether it stands alone)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            comments[token.start[0]] = (token.string.lstrip("# "), alone)
    found = {}
    (body,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno:
            behind = [comments[n][0] for n in range(node.lineno, node.end_lineno + 1) if n in comments]
            above, n = [], node.lineno - 1
            while n in comments and comments[n][1]:
                above.insert(0, comments[n][0])
                n -= 1
            if text := " ".join([*above, *behind]):
                found[node.target.id] = text
    return found
