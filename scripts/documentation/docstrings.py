"""What griffe, which reads the sources, is told of this library's docstrings: equations, and examples."""

import re
import textwrap
from typing import Any

import griffe

DIRECTIVE = re.compile(r"^\.\. math::(.*(?:\n(?:[ \t]+.*|[ \t]*(?=\n[ \t]+\S)))*)", re.MULTILINE)
ROLE = re.compile(r":math:`([^`]+)`")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """reStructuredText's equations as those of Markdown; `Example:` as the section that holds a session."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    text = DIRECTIVE.sub(lambda m: f"\n$${textwrap.dedent(m[1]).strip()}$$\n", text)
    text = text.replace("<!--", "&lt;!--")
    return EXAMPLE.sub("Examples:", ROLE.sub(r"$\1$", text)).replace("``", "`")
