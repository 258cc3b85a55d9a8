"""What folders mean: which are parts, which are classes, which only wrap the others; and what was left out."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lowerbound.data.split import PARTS, UNDECIDED
from lowerbound.errors import DataError, counted

PART_NAMES = {"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "test": 2, "testing": 2}
Names = Sequence[tuple[str, ...]]  # a path each, in pieces


class Place(NamedTuple):
    """Where a file lies within a data set."""

    index: int  # of its name among those given
    path: str  # relative to the root, the common top folder stripped
    part: int
    label: str | None


class Layout(NamedTuple):
    """The places of all files but those left out, and what was made of their folders, in a few words."""

    places: list[Place]
    taken: str


def arrange(names: list[str], root: Path) -> Layout:
    """The part and label of every file, from the folders it lies in: [wrapper/ ...][train|valid|test/][class/].../file

    Pictures beside folders that hold more of them are left out, where those folders have a meaning.
    Raises DataError where parts are told apart in no clear way.
    """
    split = [tuple(n.split("/")) for n in names]
    wrapper, stray = _wrapper(split)
    inner = {i: s[len(wrapper) :] for i, s in enumerate(split) if i not in stray}
    parts = _parts({s[0] if len(s) > 1 else "" for s in inner.values()}, root)
    part = {i: parts[s[0]] if parts else UNDECIDED for i, s in inner.items()}
    classes, beside, why = _classes({i: s[1:] if parts else s for i, s in inner.items()}, part)
    kept = [i for i in inner if i not in beside]
    top = _common_top([split[i] for i in kept])
    places = [Place(i, "/".join(split[i][top:]), part[i], classes.get(i)) for i in kept]
    said = [_classes_said(set(classes.values()), why), _parts_said(set(part.values()), wrapper)]
    if stray or beside:
        said.append(f"left out, beside the folders: {listed([names[i] for i in sorted({*stray, *beside})])}")
    return Layout(places, "; ".join(said))


def _wrapper(split: Names) -> tuple[tuple[str, ...], set[int]]:
    """The folders around all that have a meaning, and the few pictures beside them, by index."""
    wrapper: tuple[str, ...] = ()
    stray: set[int] = set()
    while True:
        inner = {i: s[len(wrapper) :] for i, s in enumerate(split) if i not in stray}
        folders = Counter(s[0] for s in inner.values() if len(s) > 1)
        loose = {i for i, s in inner.items() if len(s) == 1}
        if len(folders) != 1 or len(loose) >= folders.total():
            meaning = len(folders) > 1
            break
        stray = stray | loose
        (only,) = folders
        if meaning := only.lower() in PART_NAMES:
            break
        wrapper = (*wrapper, only)
    return (wrapper, stray) if meaning or not stray else ((), set())


def _parts(tops: set[str], root: Path) -> dict[str, int]:
    """Top folder -> part; empty where the top folders are something else, such as classes."""
    parts = {t: PART_NAMES[t.lower()] for t in tops if t.lower() in PART_NAMES}
    others = sorted(tops - set(parts))
    if others and len(set(parts.values())) > 1:
        where = "beside them" if others == [""] else f"in {next(o for o in others if o)}/"
        raise DataError(f"{root}: has the parts {', '.join(sorted(parts))}, but images {where} too; move those")
    if others:
        return {}
    if parts and 0 not in parts.values():
        raise DataError(f"{root}: has {', '.join(sorted(parts))}, but no train folder")
    return parts


def _classes(inner: dict[int, tuple[str, ...]], part: dict[int, int]) -> tuple[dict[int, str], set[int], str]:
    """Label by index, the few pictures beside class folders, and why there are no labels where there are none.

    inner: the paths within their parts. Where every part holds one folder alone, classes are looked for inside it.
    """
    folders: dict[int, Counter[str]] = {p: Counter() for p in set(part.values())}
    beside = {i for i, s in inner.items() if len(s) == 1}
    for i, s in inner.items():
        if i not in beside:
            folders[part[i]][s[0]] += 1
    if all(len(found) == 1 for found in folders.values()) and not beside:
        return _classes({i: s[1:] for i, s in inner.items()}, part)
    if len(set().union(*folders.values())) < 2:
        return {}, set(), "no class folders"
    loose = Counter(part[i] for i in beside)
    for p, found in sorted(folders.items()):
        if loose[p] >= found.total():
            where = "" if p == UNDECIDED else f" in {PARTS[p]}"
            return {}, set(), f"no labels, as {counted(loose[p], 'image')}{where} lie in no class folder"
    return {i: s[0] for i, s in inner.items() if i not in beside}, beside, ""


def _common_top(split: Names) -> int:
    """1 where all lie in one top folder that is no part, else 0."""
    tops = {s[0] if len(s) > 1 else "" for s in split}
    return int(len(tops) == 1 and "" not in tops and tops.pop().lower() not in PART_NAMES)


def _classes_said(classes: set[str], why: str) -> str:
    return why or f"{counted(len(classes), 'class folder')} ({listed(sorted(classes))})"


def _parts_said(found: set[int], wrapper: tuple[str, ...]) -> str:
    where = f"in {'/'.join(wrapper)}/: " if wrapper else ""
    given = [p for i, p in enumerate(PARTS) if i in found]
    if len(given) < 2:
        return f"{where}{given[0] if given else 'all'} split 80/10/10 by a hash of the names"
    missing = [p for p in PARTS if p not in given]
    carved = f", {' and '.join(missing)} carved from train" if missing else ""
    return f"{where}{' and '.join([', '.join(given[:-1]), given[-1]])} as given{carved}"


def ignored(names: Iterable[str]) -> str:
    """What to say of files that are no images by their extension; "" where there are none."""
    found = sorted(names, key=lambda n: (n.count("/"), os.path.splitext(n)[1], n))
    return f"ignored, no images: {listed(found)}" if found else ""


def listed(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 5 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
