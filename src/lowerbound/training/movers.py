"""What moves the weights of a stage: each turn's optimizer, schedule and guard, and the average of all weights."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.devices import Precision, fuse, reduced, rounding
from lowerbound.model import Model
from lowerbound.optimization import Guard, norm_of
from lowerbound.parallel import ALONE, World, own_rows
from lowerbound.runs.recipes import Training
from lowerbound.space import Y
from lowerbound.stages import Loss, Pair, Stage, Turn
from lowerbound.training.gradients import add_up
from lowerbound.training.graph import Graphed, Moved
from lowerbound.training.sharded import Sharded, local

COMPILER = "inductor"  # of torch.compile


class Wishes:
    """What processes ask of each other, which goes with the gradients of a step: none waits for it."""

    def __init__(self, device: torch.device):
        self.own = torch.zeros(2, device=device)
        self.all = torch.zeros(2, device=device)  # how many processes asked, of the last step

    def ask(self, stop: bool, save: bool) -> None:
        self.own.copy_(torch.tensor([float(stop), float(save)]))

    def answer(self) -> tuple[bool, bool]:
        """Whether any asks to stop, and to save. Waits for the device."""
        stop, save = self.all.tolist()
        return stop > 0, save > 0


class Mover:
    """The move of one turn."""

    def __init__(
        self,
        turn: Turn,
        config: Training,
        device: torch.device,
        world: World,
        wishes: Wishes,
        sharded: Sharded | None = None,
    ):
        self.turn, self.world, self.wishes, self.batch, self.sharded = turn, world, wishes, config.batch, sharded
        self.precision: Precision = config.precision
        self.settings, self.schedule = turn.optimizer or config.optimizer, turn.schedule or config.schedule
        self.named = [p for part in turn.parts for p in part.parameters()]  # as modules have them
        self.parameters = self.named if sharded is None else [sharded.own(p) for p in self.named]
        self.optimizer = self.settings.build(self.parameters)
        self.lr = self.settings.lr
        if device.type == "cuda":  # where kernels read it, so that a graph may go on with it
            for group in self.optimizer.param_groups:
                group["lr"], group["capturable"] = torch.tensor(self.lr, device=device), True
        self.guard = Guard(self.optimizer, config.clip, config.skip, device)

    def at(self, step: int, steps: int) -> None:
        """Take the learning rate of a step."""
        self.lr = self.settings.lr * self.schedule.factor(step, steps)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.lr)
            else:
                group["lr"] = self.lr

    def move(self, batches: Sequence[Pair], step: Any) -> Moved:
        """As often as the turn says, each time on the next batch; the mean of what was found."""
        moved = [self._move(*batch, step) for batch in batches[: self.turn.times]]
        return moved[0] if len(moved) == 1 else _mean(moved)

    def _move(self, x: Tensor, y: Y, step: Any) -> Moved:
        with reduced(self.precision):
            loss = self.turn.loss(x, y, step) if self.sharded is None else self.sharded(self.turn.loss, x, y, step)
        for p in (*self.named, *self.parameters):
            p.grad = None
        norm = None
        if self.world.size > 1:
            loss, norm = self._of_all(loss)
        else:
            loss.value.backward()
        return Moved(Loss(loss.value.detach(), loss.terms), self.guard.step(self.parameters, norm))

    def _of_all(self, loss: Loss) -> tuple[Loss, Tensor | None]:
        """The loss of the whole batch, and its gradients: a process's counts by its share of the rows.

        Of terms the mean, [1]. And the norm of all gradients, where this process has a part of them.
        """
        share = own_rows(self.batch).n / self.batch
        (loss.value * share).backward()
        own = [loss.value.detach(), *(t.detach().mean() for t in loss.terms.values())]
        dtype = loss.value.dtype
        numbers = torch.cat([share * torch.stack([t.to(dtype) for t in own]), self.wishes.own.to(dtype)])
        if self.sharded is None:
            numbers, norm = add_up(self.world, self.parameters, numbers), None
        else:
            numbers, norm = self._of_parts(numbers, self.sharded.cut)
        self.wishes.all.copy_(numbers[-2:])
        return Loss(numbers[0], dict(zip(loss.terms, numbers[1:-2].split(1), strict=True))), norm

    def _of_parts(self, numbers: Tensor, cut: set[nn.Parameter]) -> tuple[Tensor, Tensor]:
        """The sums of the numbers, and the norm of all gradients: this process has its part of most, which are added up
        by now; those of parameters that are whole are added up here."""
        pairs = list(zip(self.named, self.parameters, strict=True))
        for p, own in pairs:
            if p in cut:
                own.grad = None if p.grad is None else local(p.grad)
        whole = [p for p in self.named if p not in cut]
        norms = numbers.new_zeros(self.world.size)
        norms[self.world.rank] = norm_of(own for p, own in pairs if p in cut)
        norms, numbers = add_up(self.world, whole, torch.cat([norms, numbers])).split([len(norms), len(numbers)])
        return numbers, torch.linalg.vector_norm(torch.cat([norms, norms.new_zeros(1) + norm_of(whole)]))


class Movers:
    """All turns of a stage, one after another."""

    def __init__(
        self,
        trained: Model,
        stage: Stage,
        config: Training,
        steps: int,
        device: torch.device,
        say: Callable[[str], None] = lambda line: None,
        world: World = ALONE,
    ):
        self.trained, self.steps, self.averaging = trained, steps, config.averaging
        self.rounds = config.precision == "tf32"
        if config.precision == "bfloat16" and device.type == "cuda":  # as its convolutions are fastest
            trained.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if config.compile:
            fuse(trained, COMPILER)
        self.wishes = Wishes(device)
        buffers = _learned_buffers(stage)
        self.sharded: Sharded | None = None
        if is_sharded(stage, config, world):
            parts = tuple(part for turn in stage.turns for part in turn.parts)
            # a second turn may take a slope inside its loss, or hold another's weights: blocks would be in its way
            self.sharded = Sharded(parts, trained.kept_whole, world, device, apart=len(stage.turns) == 1)
        self.each = [Mover(turn, config, device, world, self.wishes, self.sharded) for turn in stage.turns]
        self.weights = [p.detach() for mover in self.each for p in mover.parameters] + buffers
        self.average = [p.clone() for p in self.weights] if self.averaging else []

        whole = config.graph and device.type == "cuda" and world.size == 1
        if config.graph and not whole:
            what = "one process" if world.size > 1 else "a CUDA device"
            say(f"train.graph=true: graphs are of {what}; training goes on without one")
        self.moves = Graphed(self._moves, trained, device, say) if whole else self._moves

    def step(self, batches: Sequence[Pair], step: int) -> list[Moved]:
        """The moves of every turn on `stage.batches` batches, and what follows a step."""
        for mover in self.each:
            mover.at(step, self.steps)
        with rounding(self.rounds):
            moved = self.moves(batches, step)
        if self.averaging:
            self.averaging.update(self.average, self.weights, step)
        return moved

    def _moves(self, batches: Sequence[Pair], step: Any) -> list[Moved]:
        moved = [mover.move(batches, step) for mover in self.each]
        with noise.of_rows(None):  # what follows a step is done alike by all processes
            self.trained.after_step()
        return moved

    def whole(self) -> AbstractContextManager[None]:
        """Inside, modules have their whole weights, and may be asked anything. All processes enter and leave."""
        return nullcontext() if self.sharded is None else self.sharded.whole()

    def changing(self) -> AbstractContextManager[None]:
        """As `whole`; and what weights are changed to inside stays."""
        return nullcontext() if self.sharded is None else self.sharded.changing()

    def average_anew(self) -> None:
        """Forget what the weights were: their average is what they are now."""
        self.average = [w.clone() for w in self.weights] if self.average else []


def is_sharded(stage: Stage, config: Training, world: World) -> bool:
    """Whether processes share out the weights that a stage moves; those of a closed form, they don't."""
    return config.shard and world.size > 1 and stage.fit is None


def _mean(moved: list[Moved]) -> Moved:
    """Of several moves of a turn; their terms are of the events of all."""
    losses, norms = zip(*moved, strict=True)
    terms = {name: torch.cat([loss.terms[name] for loss in losses]) for name in losses[0].terms}
    return Moved(Loss(torch.stack([loss.value for loss in losses]).mean(), terms), torch.stack(norms).mean())


def _learned_buffers(stage: Stage) -> list[Tensor]:
    """What a stage learns without gradients, such as codebooks: the buffers that are saved, of real numbers."""
    kept = [t for turn in stage.turns for part in turn.parts for t in part.state_dict(keep_vars=True).values()]
    return [t for t in kept if not isinstance(t, nn.Parameter) and t.is_floating_point()]
