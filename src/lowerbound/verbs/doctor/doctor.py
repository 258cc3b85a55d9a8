"""What is wrong with a run: `lowerbound doctor`. A file for each thing measures it and judges it."""

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

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
    a message, a remedy, and the value that is beyond a threshold.
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
    checks = training.checks(run)
    model, found = weights.loaded(run, device)
    checks += found
    looked: dict[str, int] = {}
    if model is not None:
        examined = Examined.of(run, model, data, device, progress)
        looked = {"train": len(examined.train), "valid": len(examined.valid)}
        checks += examine(examined)
    return Diagnosis(
        run=str(run.path),
        model=run.recipe.model.type_name(),
        version=version("lowerbound"),
        data={"name": run.facts.name if data is None else data, "images": looked},
        findings=[_finding(check) for check in checks if check.wrong],
        checked=[{"name": c.name, "value": float(c.value), "threshold": float(c.threshold)} for c in checks],
        strict=strict,
    )


@torch.no_grad()
def examine(e: Examined) -> list[Check]:
    """What the images say of a model: every check that its kind has."""
    with networks.watched(e.model) as active:
        asked = [*likelihoods.checks(e), *labels.checks(e), *latents.checks(e), *reconstructions.checks(e)]
    return [
        *pixels.checks(e),
        *asked,
        *ends.checks(e),
        *networks.checks(active),
        *samples.checks(e),
        *adversarial.checks(e),
        *codes.checks(e),
    ]


def _finding(check: Check) -> dict[str, Any]:
    numbers = {"value": float(check.value), "threshold": float(check.threshold)}
    return {k: v for k, v in check._asdict().items() if k != "wrong"} | numbers
