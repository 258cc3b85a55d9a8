"""What is wrong with a run, as `lowerbound doctor` finds it, each thing with what shows it."""

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from lowerbound.errors import UserError
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import Name, Panel, action
from lowerbound.explorer.shelf import Shown
from lowerbound.progress import Progress
from lowerbound.runs.run import Run
from lowerbound.units import to_bytes
from lowerbound.verbs.doctor.doctor import NAMES, Look, finding, looked_at
from lowerbound.verbs.doctor.evidence import Bars, Evidence, Histograms, Line

BINS = 40  # of a histogram


class Doctor(Panel):
    """For all runs: of one that has no weights yet, the training is looked at."""

    title = "Doctor"
    place = 90

    def fits(self, shown: Shown) -> bool:
        return True

    @action
    def examine(self, shown: Shown) -> Iterator[Answer]:
        """Part after part: what was checked, and what is wrong."""
        run = shown.run.again()
        return _told(run, shown, _kept(shown, run))

    @action
    def show(self, shown: Shown, *, name: Name) -> Answer:
        """What is to be seen of a finding of this name. Raises UserError where the run was not examined."""
        looks = _kept(shown, shown.run.again()).looks
        check = next((c for look in looks for c in look.checks if c.name == name), None)
        if check is None:
            raise UserError(f"{name}: the run has another state by now, or was not examined; examine it again")
        parts, arrays = [], {}
        for i, part in enumerate(check.shows()):
            said, own = _drawn(part)
            parts.append(said | {"title": part.title})
            arrays |= {f"{name}{i}": a for name, a in own.items()}
        return Answer({"parts": parts}, arrays)


class Found:
    """What was found of a run so far."""

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self.whole = False


def _kept(shown: Shown, run: Run) -> Found:
    """What was found of a run with these weights, this log and this state; filled by whoever examines it."""
    files = [run.log.path, *sorted((run.path / "state").glob("[!.]*"))]
    stamps = []
    for path in files:
        with suppress(OSError):
            stamps.append((path.name, path.stat().st_mtime_ns))
    return shown.once(("doctor", *stamps), Found)


def _told(run: Run, shown: Shown, kept: Found) -> Iterator[Answer]:
    whole, found = kept.whole, []
    parts = iter(kept.looks) if whole else looked_at(run, None, shown.device, Progress())
    for look in parts:
        found.append(look)
        if len(found) > len(kept.looks):  # two pages may look at once
            kept.looks = [*found]
        following = NAMES[len(found)] if len(found) < len(NAMES) else ""
        yield Answer(_said(look) | {"done": len(found), "of": len(NAMES), "next": following})
    kept.whole = True


def _said(look: Look) -> dict[str, Any]:
    findings = [finding(check) for check in look.checks if check.wrong]
    for found in findings:
        found |= {key: found[key] if math.isfinite(found[key]) else None for key in ("value", "threshold")}
    return {
        "part": look.part,
        "images": look.images,
        "findings": findings,
        "checked": [check.name for check in look.checks],
    }


def _drawn(part: Evidence) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the page draws: bars and lines by their numbers, images by their pixels."""
    if isinstance(part, Bars):
        said = {"kind": "bars", "names": [*part.names], "bound": part.bound}
        return said, {"values": np.asarray(part.values, np.float64)}
    if isinstance(part, Line):
        return {"kind": "line", "x_name": part.x_name}, {"x": np.array(part.x, float), "y": np.array(part.y, float)}
    if isinstance(part, Histograms):
        every = np.concatenate([*part.sets.values(), np.zeros(0)])
        edges = np.histogram_bin_edges(every[np.isfinite(every)], BINS) if every.size else np.array([0.0, 1.0])
        counts = [np.histogram(each, edges)[0] / max(1, len(each)) for each in part.sets.values()]
        return {"kind": "histograms", "names": [*part.sets]}, {"edges": edges, "shares": np.array(counts)}
    rows = {f"row{j}.": _pictures(x, part.levels) for j, x in enumerate(part.rows.values())}
    return {"kind": "pictures", "names": [*part.rows]}, rows


def _pictures(x: np.ndarray, levels: int) -> np.ndarray:
    """uint8 [n, H, W, C] of pixel values [n, C, H, W]."""
    return np.moveaxis(to_bytes(x, levels), -3, -1)
