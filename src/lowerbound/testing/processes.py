"""What several processes train is what one does, the same losses, the same weights, the same codebooks; and what they
draw."""

import gc
import multiprocessing
import pickle
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, HashStore, PrefixStore

from lowerbound.data.base import Data
from lowerbound.model import Model
from lowerbound.noise import seeded
from lowerbound.optimization import Adam, Averaging
from lowerbound.parallel import ALONE, World, together
from lowerbound.progress import Progress
from lowerbound.runs.facts import Facts
from lowerbound.runs.recipes import Recipe, Training
from lowerbound.runs.run import Run
from lowerbound.sampling.drawing import draw
from lowerbound.space import Space
from lowerbound.testing.base import expect
from lowerbound.testing.cases import ModelCase
from lowerbound.testing.training import EVENTS, Events
from lowerbound.training.loop import Loop, load_weights
from lowerbound.training.movers import is_sharded
from lowerbound.training.prepared import in_memory

T = TypeVar("T")
UNEVEN = Training(  # a batch that two processes can't halve
    steps=6, batch=11, optimizer=Adam(lr=0.01), averaging=Averaging(every=1), log_every=1, valid_every=3
)
DRAWN = 7  # events
EQUAL = 1e-9  # relative, in float64


def in_threads(n: int, work: Callable[[World], T], patience: float = 60.0) -> list[T]:
    """What `work` gives in each process of a world of n; each is a thread here, and they meet over gloo all the same.

    Raises what the first thread raised that was to blame.
    """
    store, found, errors = HashStore(), {}, {}

    def run(rank: int) -> None:
        try:
            limit = timedelta(seconds=patience)
            world = World(rank, n, {"cpu": dist.ProcessGroupGloo(PrefixStore("cpu", store), rank, n, limit)}, store)
            world.patience = patience
            try:
                found[rank] = work(world)
            except Exception as e:
                errors[rank] = world.fail(e)
            finally:
                world.groups.clear()  # whose threads end here, whoever keeps an error and what it is of
        except BaseException as e:
            errors[rank] = e

    threads = [threading.Thread(target=run, args=(r,), daemon=True) for r in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors.values(), key=lambda e: type(e).__name__ == "Ended"):
        raise error
    return [found[r] for r in range(n)]


def in_processes(n: int, work: Callable[[World], T], patience: float = 60.0) -> list[T]:
    """As `in_threads`, in processes that are forked from this one: for what torch has one of for each process."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:

        def run(rank: int, found: Any) -> None:
            gc.freeze()  # what this one has left, its threads too, is not to be cleared away where they are not
            torch.set_num_threads(1)
            store = FileStore(f"{folder}/store", n)
            group = dist.ProcessGroupGloo(PrefixStore("cpu", store), rank, n, timedelta(seconds=patience))
            world = World(rank, n, {"cpu": group}, store)
            world.patience = patience
            try:
                found.send_bytes(pickle.dumps((work(world), None)))
            except Exception as e:
                found.send_bytes(pickle.dumps((None, world.fail(e))))

        ends = [context.Pipe(duplex=False) for _ in range(n)]
        workers = [context.Process(target=run, args=(r, sent), daemon=True) for r, (_, sent) in enumerate(ends)]
        for worker in workers:
            worker.start()
        for _, sent in ends:
            sent.close()
        results = [pickle.loads(received.recv_bytes()) for received, _ in ends]
        for worker in workers:
            worker.join()
    for _, error in sorted(results, key=lambda result: type(result[1]).__name__ == "Ended"):
        if error is not None:
            raise error
    return [found for found, _ in results]


def check_processes(
    config: Model.Config | type[Model.Config],
    space: Space | None = None,
    given: tuple[Space, ...] = (),
    *,
    training: Training = UNEVEN,
    size: int = 2,
    world: Callable[[int, Callable[[World], Any]], list[Any]] = in_threads,
) -> None:
    """Every stage of a model is trained to the same numbers by one process and by several, in float64, on batches that
    these can't share evenly; and all processes hold the same weights. What they draw together is what one draws.

    Without a space: the one of the configuration's example().
    """
    case = ModelCase.of(config, space, given)
    if not any(True for _ in case.build().parameters()):
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
            alone = _trained(case, Path(folder) / "one", training, ALONE)
            each = world(size, lambda world: _trained(case, Path(folder) / "several", training, world))
    finally:
        torch.set_default_dtype(before)
    for name, w in alone[0].items():
        for rank, (weights, *_) in enumerate(each):
            expect(_like(weights[name], w), f"{name} of process {rank} of {size} is not what one process trains")
    for several in each:
        same = all(_like(a, b) for a, b in zip(several[2], alone[2], strict=True))
        expect(same, f"{size} processes draw other events than one does")
    lines = each[0][1]
    expect(len(lines) == len(alone[1]), f"{len(lines)} lines of the log, of one process {len(alone[1])}")
    for one, several in zip(alone[1], lines, strict=True):
        for key, value in one.items():
            if key not in ("seconds", "images_per_second"):
                same = _like(torch.tensor(several[key]), torch.tensor(value)) if isinstance(value, float) else True
                what = f"{key} of step {one['step']} of {one['stage']} ({one['split']})"
                expect(same, f"{what} is {several.get(key)} in {size} processes, {value} in one")


def _like(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool(((a - b).abs() <= EQUAL * b.abs().clamp(min=1)).all() | torch.equal(a, b))


def _trained(
    case: ModelCase, path: Path, training: Training, world: World
) -> tuple[dict[str, Tensor], list[dict[str, Any]], list[Tensor]]:
    """The weights and buffers after all stages, the log, and what is drawn then."""
    shape = case.space.shape if len(case.space.shape) == 3 else (1, 1, case.space.dims)
    facts = Facts(name="random", shape=shape, levels=case.space.levels or 256, images=EVENTS)
    recipe = Recipe(data=Data(), model=case.config, train=training)
    run = Run.create(path, "tiny", recipe, facts) if world.first else Run(path, "tiny", recipe, facts)
    model = case.build("training")
    for stage in model.stages():
        stage.learned(False)
    for name in [stage.name for stage in model.stages()]:
        (stage,) = [stage for stage in model.stages() if stage.name == name]
        parts, prepare = (Events(case, "train"), Events(case, "valid")), stage.prepare
        data: Any = parts if prepare is None else tuple(in_memory(part, prepare, EVENTS) for part in parts)
        Loop(run, model, stage, data, Progress(), threading.Event(), world=world).run_through()
        if is_sharded(stage, training, world):
            model = case.build("training")
            load_weights(world, run, model)
    weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
    drawn: list[Tensor] = []
    if model.can_sample:
        with together(world), seeded("drawn", quick=True):
            x, z = draw(model.eval(), DRAWN, case.y(DRAWN))
        drawn = [x, *z]
    return weights, list(run.log.records()) if world.first else [], drawn
