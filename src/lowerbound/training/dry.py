"""`train --dry-run`: what a training will cost, from its first steps on the real data, without a run folder."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lowerbound.config import Changes
from lowerbound.data.batches import Batches
from lowerbound.devices import check_precision, pick_device
from lowerbound.model import Model
from lowerbound.noise import key, seeded
from lowerbound.progress import Progress
from lowerbound.runs import recipes
from lowerbound.runs.facts import Facts
from lowerbound.runs.recipes import Recipe
from lowerbound.space import Y
from lowerbound.stages import Loss, Size, Stage, Turn
from lowerbound.training.movers import Movers
from lowerbound.training.prepared import in_memory

_TIMED, _SECONDS = 7, 20.0  # so many steps are timed, or as many as begin within the time
_IMAGES = 4  # are turned into what a later stage is trained on


@dataclass(frozen=True)
class Cost:
    """What the training of one stage takes."""

    stage: str
    parameters: int
    weights: float  # MB: of weights and optimizer
    activations: float  # MB: of a batch, kept for the backward pass
    flop: float  # 10⁹ a step
    steps: int
    epochs: float
    timed: int  # steps
    rate: float  # images per second
    minutes: float  # expected

    def json(self) -> dict[str, Any]:
        """By the names that they have in a report, without the stage's own."""
        return {name: getattr(self, field) for field, name in _NAMES.items()}


_NAMES = {
    "parameters": "parameters",
    "weights": "memory of weights and optimizer, MB",
    "activations": "memory of a batch's activations, MB",
    "flop": "GFLOP per step",
    "steps": "steps",
    "epochs": "epochs",
    "timed": "timed steps",
    "rate": "images per second",
    "minutes": "expected minutes",
}


@dataclass(frozen=True)
class Costs:
    """What a training takes, stage by stage."""

    recipe: str
    data: str
    stages: tuple[Cost, ...]

    def json(self) -> dict[str, Any]:
        """What there is to say of all; of several stages, a list of them under `stages`, and the sums."""
        about = {"recipe": self.recipe, "data": self.data}
        if len(self.stages) == 1:
            return about | self.stages[0].json()
        named = [{"stage": cost.stage, **cost.json()} for cost in self.stages]
        parameters, minutes = (sum(getattr(c, name) for c in self.stages) for name in ("parameters", "minutes"))
        return about | {"parameters": parameters, "stages": named, "expected minutes": minutes}


def run(
    recipe: str | Path,
    *,
    data: str | Path | None = None,
    changes: Changes = (),
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> Costs:
    """Parameters, memory, counted FLOPs of a step (forward and backward), steps, and the time expected for them.

    What a later stage is trained on comes from the untrained model. Of steps that take long, fewer are timed.
    """
    config = recipes.load(recipe, changes)
    config = config if data is None else recipes.override(config, {"data": {"source": str(data)}})
    where = pick_device(device)
    images = config.data.open("train", progress=(progress or Progress()).count("decoding"))
    facts = Facts.of(images, config)
    with seeded(config.seed, "weights"):
        model = config.model.build(facts.space, facts.given(config)).to(where)
    options = facts.conditions(config) | {"binarize": facts.binarizes, "labelled": facts.labelled}
    batches = Batches(images, where, flip=config.data.flip, **options)
    with seeded(config.seed, "steps", quick=True):
        stages = tuple(_stage(model, stage, batches, config) for stage in model.stages())
    return Costs(str(recipe), f"{facts.name}, {facts.images} images of {list(facts.shape)}", stages)


def _stage(model: Model, stage: Stage, batches: Batches, config: Recipe) -> Cost:
    """The costs of one stage."""
    training = config.train.of(stage.name)
    check_precision(training.precision, batches.device)
    images: Any = batches
    if stage.prepare is not None:
        model.eval()
        images = in_memory(batches, stage.prepare, min(_IMAGES, len(batches)))
    trained = stage.model or model
    trained.train()
    kept = _Kept([*model.parameters(), *model.buffers()])
    measured = stage._replace(turns=tuple(map(kept.of, stage.turns)))
    epoch = len(batches) * (2 if stage.prepare is not None and batches.flip else 1)
    total = 1 if stage.fit else training.total_steps(epoch, stage.batches)
    stage.sized(Size(epoch, training.batch, total))
    images_per_step = training.batch * stage.batches
    movers = Movers(trained, measured, training, total, images.device)  # pyright: ignore[reportArgumentType]

    def timed(i: int) -> float:
        """Seconds of step i, as the loop takes it."""
        begun = time.perf_counter()
        taken, n = key(config.seed, stage.name), stage.batches
        movers.step([images.training(i * n + j, training.batch, taken) for j in range(n)], i)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        return time.perf_counter() - begun

    with FlopCounterMode(display=False) as counter:
        seconds = [timed(0)]
    kept.looking = False
    if seconds[0] < _SECONDS:
        seconds.clear()
        while len(seconds) < _TIMED and sum(seconds) < _SECONDS:
            seconds.append(timed(len(seconds) + 1))
    parameters = sum(p.numel() for mover in movers.each for p in mover.parameters)
    copies = 3 + (training.averaging is not None)  # gradients, two moments, the average
    weights = sum(p.numel() for p in model.parameters())
    return Cost(
        stage=stage.name,
        parameters=parameters,
        weights=round(4 * (weights + copies * parameters) / 1e6, 1),
        activations=round(kept.bytes / 1e6, 1),
        flop=round(counter.get_total_flops() / 1e9, 3),
        steps=total,
        epochs=round(total * images_per_step / epoch, 2),
        timed=len(seconds),
        rate=_figure(images_per_step / median(seconds)),
        minutes=round(total * median(seconds) / 60, 2),
    )


class _Kept:
    """Measures what a batch keeps from its forward pass to its backward pass, in bytes."""

    def __init__(self, held: Iterable[Tensor]):
        self.held, self.bytes, self.looking = list(held), 0, True

    def of(self, turn: Turn) -> Turn:
        """The turn, whose loss is measured while `looking`."""

        def loss(x: Tensor, y: Y, step: int) -> Loss:
            if not self.looking:
                return turn.loss(x, y, step)
            with _Made() as made:
                value = turn.loss(x, y, step).value
            self.bytes = max(self.bytes, made.alive(self.held))
            return Loss(value, {})

        return turn._replace(loss=loss)


class _Made(TorchDispatchMode):
    """Remembers what is computed inside, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                ref = StorageWeakRef(t.untyped_storage())
                self.storages[ref.cdata] = ref, t.untyped_storage().nbytes()
        return out

    def alive(self, but: Iterable[Tensor]) -> int:
        """Bytes of what is still there, but for these tensors."""
        not_these = {StorageWeakRef(t.untyped_storage()).cdata for t in but}
        return sum(n for place, (ref, n) in self.storages.items() if place not in not_these and not ref.expired())


def _figure(x: float) -> float:
    """With two digits at least."""
    return round(x) if x >= 10 else float(f"{x:.2g}")
