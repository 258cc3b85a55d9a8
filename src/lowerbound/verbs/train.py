"""Train a recipe into a run folder, then write pictures and a short evaluation."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from rich import box
from rich.console import Group
from rich.table import Table as Printed

from lowerbound.devices import pick_device
from lowerbound.metrics.report import finish
from lowerbound.parallel import Environment, asked, joined, together
from lowerbound.runs.run import Run
from lowerbound.sampling.sheets import Live
from lowerbound.training import dry
from lowerbound.training.train import train as run_training
from lowerbound.verbs import tables
from lowerbound.verbs.base import DAYS, WHOLE, Device, File, Option, Shown, SomeWhole, Table, Told, verb


class Trained(Run, Shown):
    """The run, and the report of the short evaluation on its validation images."""

    def __init__(self, run: Run, report: Mapping[str, Any]):
        super().__init__(run.path, run.name, run.recipe, run.facts)
        self.report = report

    def json(self) -> Mapping[str, Any]:
        return dict(self.report)

    def shown(self) -> Any:
        return tables.metrics(self.report)

    def notes(self) -> list[str]:
        drawn = "".join(f", pictures/{p.name}" for p in sorted((self.path / "pictures").glob("*s.png")))
        return [f"{self.path}: model.safetensors, log.jsonl{drawn}, …"]


class Costs(dry.Costs, Shown):
    """What a training will cost: what there is to say of all, then of each stage."""

    def shown(self) -> Any:
        report = self.json()
        whole = tables.plain({k: v for k, v in report.items() if k != "stages"})
        if "stages" not in report:
            return whole
        columns = report["stages"]
        table = Printed("stage", *(stage["stage"] for stage in columns), box=box.SIMPLE)
        for name in list(columns[0])[1:]:
            table.add_row(name, *(tables.cell(stage[name]) for stage in columns))
        return Group(whole, table)


@verb
def train(
    recipe: Annotated[str | Path, Option(kind=str)],
    /,
    *changes: str,
    data: Annotated[str | Path | None, Option(kind=str | None)] = None,
    out: File = None,
    resume: bool = False,
    overwrite: bool = False,
    stage: str | None = None,
    dry_run: bool = False,
    model: Table = None,
    train: Table = None,
    options: Table = None,
    device: Device = "auto",
    seed: Annotated[int | None, WHOLE] = None,
    progress: Told = False,
    allow: Iterable[str] = (),
    processes: SomeWhole = None,
) -> Trained:
    """Train a recipe into a run folder, then write pictures and a short evaluation.

    Args:
        recipe: a bundled name (see `lowerbound recipes`), or a TOML or JSON file
        changes: KEY=VALUE, such as train.steps=500 model.latent=10
        data: a bundled name, a folder, .zip, .tar or .npz, or shards and their URL
        out: the run's folder; by default runs/RECIPE
        resume: go on where the run was stopped, exactly
        overwrite: start over where a run exists
        stage: only this stage
        dry_run: show parameters, memory, FLOPs and expected time, all of one process, and stop
        model: changes to the recipe's table of that name, as in {"latent": 10}; `train` and `options` likewise, the
            latter to the table of the data
        train: see `model`
        options: see `model`
        allow: packages besides lowerbound that components may come from
        processes: train in so many processes of this machine, which share each batch; as torchrun starts them

    Returns the run, with the `report` of the evaluation; of a dry run, the costs. Raises UserError, with a message that
    names the mistake; Interrupted, after saving, on Ctrl-C.
    """
    tables_of = {"model": model, "train": train, "data": options}
    wanted = [*changes, {name: table for name, table in tables_of.items() if table is not None}]
    if dry_run:
        costs = dry.run(recipe, data=data, changes=wanted, device=device, progress=progress)
        if processes is not None and processes > 1:
            progress.say(f"these are of one process that takes whole batches; {processes} share each (docs/scale.md)")
        return cast(Any, Costs(costs.recipe, costs.data, costs.stages))
    environment = Environment.read()
    more: dict[str, Any] = {"data": data, "out": out, "stage": stage, "seed": seed}
    if environment.begins(processes):
        said = {"device": str(device), "resume": resume, "overwrite": overwrite, "allow": tuple(allow)}
        said |= {"model": model, "train": train, "options": options, "processes": processes}
        return asked.of_processes((__name__, "train"), (recipe, *changes), more | said, cast(int, processes), progress)
    if environment.restarts:  # what was begun goes on
        resume, overwrite = True, False
    where = pick_device(environment.device(str(device)))
    with joined(environment, where) as world:
        held = run_training(
            recipe,
            resume=resume,
            overwrite=overwrite,
            changes=wanted,
            device=where,
            pictures=Live,
            progress=progress,
            world=world,
            **more,
        )
        world.patience = DAYS
        with together(world):
            return Trained(held.run, finish(held, progress if world.first else None))
