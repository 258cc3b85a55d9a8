"""What a message names in brackets: the pages of errors and of what doctor finds, which come with the package."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowerbound import errors
from lowerbound.errors import UserError, did_you_mean
from lowerbound.verbs.base import Report, verb

PACKAGE = Path(__file__).parent.parent
PAGES = PACKAGE / "pages"  # in a wheel; a checkout has them in docs/
HOME = PAGES if PAGES.is_dir() else PACKAGE.parent.parent / "docs" / "errors"
COMMENT = re.compile(r"^ *<!--.*?-->\n", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?![a-z]+:)[^)\s]+\)")  # of the site


@dataclass(frozen=True, eq=False)
class Explanation(Report):
    """A page, or the part of it under one heading, as Markdown."""

    page: str
    text: str

    def shown(self) -> Any:
        from rich.markdown import Markdown

        return Markdown(LINK.sub(r"\1", self.text))


@verb
def explain(page: str = "index", /) -> Explanation:
    """What is behind an error or a finding: the page that a message names in brackets.

    Args:
        page: as the message has it, lowerbound.errors/data or doctor/latents#collapsed alone; or the name of a class of
            errors, such as DataError; by default the list of them

    Raises UserError where there is no such page.
    """
    name, _, part = page.strip("()").removeprefix("lowerbound.errors/").removesuffix(".md").partition("#")
    named = getattr(errors, name, None)
    name = named.page if isinstance(named, type) and issubclass(named, UserError) else name
    pages = {p.relative_to(HOME).with_suffix("").as_posix(): p for p in sorted(HOME.rglob("*.md"))}
    if name not in pages:
        raise UserError(f"{page}: no such page{did_you_mean(name, pages)}")
    text = COMMENT.sub("", pages[name].read_text(encoding="utf-8"))
    if part:
        parts = {section.partition("\n")[0].strip(): section for section in text.split("\n## ")[1:]}
        if part not in parts:
            raise UserError(f"{page}: the page has no {part}{did_you_mean(part, parts)}")
        text = f"## {parts[part]}"
    return Explanation(page=f"{name}#{part}" if part else name, text=text.strip() + "\n")
