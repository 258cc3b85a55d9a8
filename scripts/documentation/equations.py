"""Equations of a page, from TeX to MathML, which browsers draw themselves."""

import html
import re

from latex2mathml.converter import convert

FOUND = re.compile(r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.DOTALL)

WORD = re.compile(r"<mi>(log|ln|exp|det|min|max|sin|cos)</mi>(?=<m(?:i|n|sub|sup|subsup|frac|over|mover)>)")


def drawn(page: str) -> str:
    """The HTML of a page with MathML where pymdownx.arithmatex left TeX."""
    return FOUND.sub(_drawn, page)


def _drawn(found: re.Match[str]) -> str:
    tex = html.unescape(found[2] if found[3] is None else found[3])
    block = found[3] is not None
    math = convert(tex.strip(), display="block" if block else "inline")
    math = WORD.sub(r'<mi>\1</mi><mspace width="0.17em"/>', math)  # as TeX does
    return f'<{found[1]} class="equation">{math}</{found[1]}>' if block else math
