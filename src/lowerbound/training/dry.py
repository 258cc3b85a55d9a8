"""`train --dry-run`: what a training will cost, from its first steps on the real data, without a run folder."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
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
from lowerbound.devices import check_precision, pick_device, reduced
from lowerbound.model import Model
from lowerbound.noise import key, seeded
from lowerbound.optimization import Guard
from lowerbound.progress import Progress
from lowerbound.runs import recipes
from lowerbound.runs.facts import Facts
from lowerbound.runs.recipes import Recipe, Training
from lowerbound.stages import Stage
from lowerbound.training.prepared import in_memory

_TIMED, _SECONDS = 7, 20.0  # so many steps are timed, or as many as begin within the time
_IMAGES = 4  # are turned into what a later stage is trained on


def run(
    recipe: str | Path,
    *,
    data: str | Path | None = None,
    changes: Changes = (),
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Parameters, memory, counted FLOPs of a step (forward and backward), steps, and the time expected for them.

    Of a model of several stages, a list of that under `stages`, and the sums. What a later stage is trained on comes
    from the untrained model. Of steps that take long, fewer are timed: the report says how many.
    """
    config = recipes.load(recipe, changes)
    config = config if data is None else recipes.override(config, {"data": {"source": str(data)}})
    where = pick_device(device)
    images = config.data.open("train", progress=(progress or Progress()).count("decoding"))
    facts = Facts.of(images, config)
    with seeded(config.seed, "weights", device=where):
        model = config.model.build(facts.space, facts.given(config)).to(where)
        batches = Batches(images, where, binarize=facts.binarizes, label=config.data.label, flip=config.data.flip)
        stages = [_stage(model, stage, batches, config) for stage in model.stages()]
    about = {
        "recipe": str(recipe),
        "data": f"{facts.name}, {facts.images} images of {list(facts.shape)}",
    }
    if len(stages) == 1:
        return about | stages[0]
    named = [{"stage": s.name, **cost} for s, cost in zip(model.stages(), stages, strict=True)]
    summed = {k: sum(cost[k] for cost in stages) for k in ("parameters", "expected minutes")}
    return about | {"parameters": summed["parameters"], "stages": named} | summed


def _stage(model: Model, stage: Stage, batches: Batches, config: Recipe) -> dict[str, Any]:
    """The costs of one stage."""
    training = config.train.of(stage.name)
    check_precision(training.precision, batches.device)
    images: Any = batches
    if stage.prepare is not None:
        model.eval()
        images = in_memory(batches, stage.prepare, min(_IMAGES, len(batches)))
    steps = _Steps(model, stage, images, training, config.seed)
    with FlopCounterMode(display=False) as counter:
        seconds = [steps.timed(0, steps.keeping)]
    if seconds[0] < _SECONDS:
        seconds.clear()
        while len(seconds) < _TIMED and sum(seconds) < _SECONDS:
            seconds.append(steps.timed(len(seconds) + 1, steps.step))
    epoch = len(batches) * (2 if stage.prepare is not None and batches.flip else 1)
    total = training.total_steps(epoch)
    copies = 3 + (training.averaging is not None)  # gradients, two moments, the average
    weights = sum(p.numel() for p in model.parameters())
    return {
        "parameters": steps.parameters,
        "memory of weights and optimizer, MB": round(4 * (weights + copies * steps.parameters) / 1e6, 1),
        "memory of a batch's activations, MB": round(steps.kept / 1e6, 1),
        "GFLOP per step": round(counter.get_total_flops() / 1e9, 3),
        "steps": total,
        "epochs": round(total * training.batch / epoch, 2),
        "timed steps": len(seconds),
        "images per second": _figure(training.batch / median(seconds)),
        "expected minutes": round(total * median(seconds) / 60, 2),
    }


class _Steps:
    """The steps of a stage, as the training loop takes them."""

    def __init__(self, model: Model, stage: Stage, images: Any, training: Training, seed: int):
        self.stage, self.images, self.training, self.seed = stage, images, training, key(seed, stage.name)
        self.trained = stage.model or model
        self.trained.train()
        self.each = [[p for part in turn.parts for p in part.parameters()] for turn in stage.turns]
        self.parameters = sum(p.numel() for ps in self.each for p in ps)
        optimizers = [training.optimizer.build(ps) for ps in self.each]
        self.guards = [Guard(o, training.clip, training.skip, images.device) for o in optimizers]
        self.held = [*model.parameters(), *model.buffers()]
        self.kept = 0  # bytes between the forward and the backward pass, where `keeping` looked

    def timed(self, i: int, step: Callable[[int], None]) -> float:
        """Seconds of step i."""
        begun = time.perf_counter()
        step(i)
        if self.images.device.type == "cuda":
            torch.cuda.synchronize(self.images.device)
        return time.perf_counter() - begun

    def step(self, i: int, made: "_Made | None" = None) -> None:
        x, y = self.images.training(i, self.training.batch, self.seed)
        for turn, guard, parameters in zip(self.stage.turns, self.guards, self.each, strict=True):
            with reduced(self.training.precision), made or nullcontext():
                loss = turn.loss(x, y, i).value
            if made is not None:
                self.kept = max(self.kept, made.alive(self.held))
            for p in parameters:
                p.grad = None
            loss.backward()
            guard.step(parameters)
        self.trained.after_step()

    def keeping(self, i: int) -> None:
        """A step that also measures what a batch keeps until its backward pass."""
        self.step(i, _Made())


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
