"""What griffe, which reads the sources, is told of this library: equations and examples of docstrings, types."""

import importlib
import re
import textwrap
from typing import Any

import griffe

from documentation.signatures import types

DIRECTIVE = re.compile(r"^\.\. math::(.*(?:\n(?:[ \t]+.*|[ \t]*(?=\n[ \t]+\S)))*)", re.MULTILINE)
ROLE = re.compile(r":math:`([^`]+)`")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """reStructuredText's equations as those of Markdown; `Example:` as the section that holds a session; the types of
    verbs without what they say to the command line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        if any(decorator.callable_path.endswith(".verb") for decorator in func.decorators):
            known = types(getattr(importlib.import_module(func.module.path), func.name))
            for parameter in func.parameters:
                parameter.annotation = known.get(parameter.name)


def plain(text: str) -> str:
    text = DIRECTIVE.sub(lambda m: f"\n$${textwrap.dedent(m[1]).strip()}$$\n", text)
    text = text.replace("<!--", "&lt;!--")
    return EXAMPLE.sub("Examples:", ROLE.sub(r"$\1$", text)).replace("``", "`")
