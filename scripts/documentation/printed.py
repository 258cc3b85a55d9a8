"""What commands printed, as a page shows it: no wider than the page where that can be."""

import re
import textwrap
from html import escape, unescape

BLOCK = re.compile(r'<div class="language-text highlight">(<pre>.*?<code>)(.*?)(</code></pre>)', re.DOTALL)
GAP = re.compile(r"(?<=\S) {2,}(?=\S)")
LINE = 121  # characters that fit beside one another
LAST = 60  # where the last column of a table may begin whose text goes on in the next line


def shown(html: str) -> str:
    """Of a page the blocks that are no code."""
    return BLOCK.sub(_shown, html)


def _shown(found: re.Match[str]) -> str:
    if "<" in found[2]:  # something is marked in it
        return found[0]
    text = unescape(found[2])
    if all(
        line.startswith("lowerbound: ") for line in text.strip().splitlines()
    ):  # goes on in the next line, by the CSS
        return found[0].replace("language-text", "language-text sentences")
    return f'<div class="language-text highlight">{found[1]}{escape(narrowed(text), quote=False)}{found[3]}'


def narrowed(text: str) -> str:
    """Long lines go on below the last column of theirs, and take along what went on there already."""
    lines = text.split("\n")
    for n, line in enumerate(lines):  # which grows
        if len(line) <= LINE:
            continue
        gaps = [gap.end() for gap in GAP.finditer(line)]
        column = gaps[-1] if gaps else len(line) - len(line.lstrip())
        words = textwrap.wrap(line[column:], LINE - column, break_long_words=False, break_on_hyphens=False)
        if column > LAST or len(words) < 2:
            continue
        lines[n], rest = line[:column] + words[0], " " * column + " ".join(words[1:])
        after = lines[n + 1] if n + 1 < len(lines) else ""
        goes_on = column and after[:column].isspace() and after[column : column + 1] not in ("", " ", "(")
        lines[n + 1 : n + 2 if goes_on else n + 1] = [f"{rest} {after.strip()}" if goes_on else rest]
    return "\n".join(lines)
