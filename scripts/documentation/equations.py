"""Equations of a page, from TeX to MathML, which browsers draw themselves."""

import html
import re

from latex2mathml.converter import convert

FOUND = re.compile(r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.DOTALL)

WORD = re.compile(r"<mi>(log|ln|exp|det|min|max|sin|cos)</mi>(?=<m(?:i|n|sub|sup|subsup|frac|over|mover)>)")

LONG = 40  # characters of TeX, from which on a narrow page may have to scroll


def drawn(page: str) -> str:
    """The HTML of a page with MathML where pymdownx.arithmatex left TeX."""
    return FOUND.sub(_drawn, page)


def _drawn(found: re.Match[str]) -> str:
    tex = html.unescape(found[2] if found[3] is None else found[3])
    block = found[3] is not None
    # what the converter doesn't know
    tex = re.sub(r"\\arg\\(max|min)", r"\\mathrm{arg\\,\1}", re.sub(r"(\\[bB]ig+)\\\|", "\\1‖", tex))
    tex = tex.replace("||", r"\|")
    math = convert(tex.strip(), display="block" if block else "inline")
    math = WORD.sub(r'<mi>\1</mi><mspace width="0.17em"/>', math)  # as TeX does
    if block:
        return f'<div class="equation">{math}</div>'
    return f'<span class="equation">{math}</span>' if len(tex) > LONG else math
