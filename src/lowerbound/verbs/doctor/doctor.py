"""What is wrong with a run: `lowerbound doctor`. A file for each thing measures it and judges it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lowerbound.errors import more
from lowerbound.progress import Progress
from lowerbound.runs.run import Run
from lowerbound.verbs import tables
from lowerbound.verbs.base import ASIDE, Device, Report, Told, verb
from lowerbound.verbs.doctor import (
    adversarial,
    codes,
    ends,
    labels,
    latents,
    likelihoods,
    networks,
    pixels,
    reconstructions,
    samples,
    training,
    weights,
)
from lowerbound.verbs.doctor.check import Check
from lowerbound.verbs.doctor.examined import Examined


@dataclass(frozen=True, eq=False)
class Diagnosis(Report):
    """The findings, and what was looked at.

    A finding has a name (part.what), a severity (problem: the run does not do its work; advice: it could do better),
    a message, a remedy, the value that is beyond a threshold, and a page of docs/errors/ that says more.
    """

    run: str
    model: str
    version: str
    data: dict[str, Any]  # name, and how many images of each split were measured
    findings: list[dict[str, Any]]
    checked: list[dict[str, Any]]  # name, value and threshold of all that was
    strict: bool = field(default=False, metadata=ASIDE)

    def status(self) -> int:
        return int(self.strict and any(f["severity"] == "problem" for f in self.findings))

    def shown(self) -> Any:
        table = Table(box=box.SIMPLE, show_header=False)
        for f in sorted(self.findings, key=lambda f: f["severity"] != "problem"):
            table.add_row(f["severity"], f["name"], Text(f["message"]))
            table.add_row(
                "", f"{tables.cell(f['value'])}, bound {tables.cell(f['threshold'])}", Text(f"do: {f['remedy']}")
            )
            table.add_row("", "", more(f["page"]))
        names = ", ".join(dict.fromkeys(c["name"] for c in self.checked))
        n = ", ".join(f"{n:,} of {split}" for split, n in self.data["images"].items())
        looked = Text(f"checked{f' on {n} images of ' + self.data['name'] if n else ''}: {names}")
        return Group(table if self.findings else Text("nothing wrong found"), looked)


@verb
def doctor(
    run: Run,
    /,
    *,
    strict: bool = False,
    data: str | None = None,
    device: Device = "auto",
    progress: Told = False,
) -> Diagnosis:
    """Name what is wrong with a run, part by part, and what to do about it.

    Its log and its states are read, and some images of train and valid measured, evenly spaced over their split.
    Nothing is written.

    Args:
        strict: exit status 1 where there is a problem
        data: measure on this data set instead of the run's

    Raises RunError or DataError where there is no such run, or no such data.
    """
    looks = list(looked_at(run, data, device, progress))
    checks = [check for look in looks for check in look.checks]
    return Diagnosis(
        run=str(run.path),
        model=run.recipe.model.type_name(),
        version=version("lowerbound"),
        data={"name": run.facts.name if data is None else data, "images": looks[-1].images},
        findings=[finding(check) for check in checks if check.wrong],
        checked=[{"name": c.name, "value": float(c.value), "threshold": float(c.threshold)} for c in checks],
        strict=strict,
    )


class Look(NamedTuple):
    """A part of a run that was looked at."""

    part: str
    checks: list[Check]
    images: dict[str, int]  # of each split, that are measured


Part = Callable[[Examined], list[Check]]
ASKED: dict[str, Part] = {
    "data": pixels.checks,
    "likelihood": likelihoods.checks,
    "labels": labels.checks,
    "latents": latents.checks,
    "reconstructions": reconstructions.checks,
}
THEN: dict[str, Part] = {
    "noise": ends.checks,
    "samples": samples.checks,
    "discriminator": adversarial.checks,
    "codes": codes.checks,
}
NAMES = ("training", "weights", *ASKED, "networks", *THEN)


def looked_at(run: Run, data: str | None, device: torch.device, progress: Progress) -> Iterator[Look]:
    """Part by part, in the order of NAMES; of a run without weights that can be measured, the first two alone."""
    yield Look("training", training.checks(run), {})
    model, found = weights.loaded(run, device)
    yield Look("weights", found, {})
    if model is not None:
        yield from examined(Examined.of(run, model, data, device, progress))


def examined(e: Examined) -> Iterator[Look]:
    """What the images say of a model: every check that its kind has."""
    images = {"train": len(e.train), "valid": len(e.valid)}
    with networks.watched(e.model) as active:
        for part, checks in ASKED.items():
            yield Look(part, _without_gradients(checks, e), images)
    yield Look("networks", networks.checks(active), images)
    for part, checks in THEN.items():
        yield Look(part, _without_gradients(checks, e), images)


@torch.no_grad()
def _without_gradients(checks: Part, e: Examined) -> list[Check]:
    return checks(e)


def finding(check: Check) -> dict[str, Any]:
    """As it stands in the report."""
    numbers = {"value": float(check.value), "threshold": float(check.threshold)}
    return {k: v for k, v in check._asdict().items() if k not in ("wrong", "shows")} | numbers | {"page": check.page}
