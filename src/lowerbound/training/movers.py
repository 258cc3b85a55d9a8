"""What moves the weights of a stage: each turn's optimizer, schedule and guard, and the average of all weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.devices import Precision, fuse, reduced, rounding
from lowerbound.model import Model
from lowerbound.optimization import Guard
from lowerbound.runs.recipes import Training
from lowerbound.space import Y
from lowerbound.stages import Loss, Pair, Stage, Turn
from lowerbound.training.graph import Graphed, Moved

COMPILER = "inductor"  # of torch.compile


class Mover:
    """The move of one turn."""

    def __init__(self, turn: Turn, config: Training, device: torch.device):
        self.turn = turn
        self.precision: Precision = config.precision
        self.settings, self.schedule = turn.optimizer or config.optimizer, turn.schedule or config.schedule
        self.parameters = [p for part in turn.parts for p in part.parameters()]
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
            loss = self.turn.loss(x, y, step)
        for p in self.parameters:
            p.grad = None
        loss.value.backward()
        return Moved(Loss(loss.value.detach(), loss.terms), self.guard.step(self.parameters))


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
    ):
        self.trained, self.steps, self.averaging = trained, steps, config.averaging
        self.rounds = config.precision == "tf32"
        if config.precision == "bfloat16" and device.type == "cuda":  # as its convolutions are fastest
            trained.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if config.compile:
            fuse(trained, COMPILER)
        self.each = [Mover(turn, config, device) for turn in stage.turns]
        self.weights = [p.detach() for mover in self.each for p in mover.parameters] + _learned_buffers(stage)
        self.average = [p.clone() for p in self.weights] if self.averaging else []

        whole = config.graph and device.type == "cuda"
        if config.graph and not whole:
            say("train.graph=true: graphs are of a CUDA device; training goes on without one")
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
        self.trained.after_step()
        return moved

    def average_anew(self) -> None:
        """Forget what the weights were: their average is what they are now."""
        self.average = [w.clone() for w in self.weights] if self.average else []


def _mean(moved: list[Moved]) -> Moved:
    """Of several moves of a turn; their terms are of the events of all."""
    losses, norms = zip(*moved, strict=True)
    terms = {name: torch.cat([loss.terms[name] for loss in losses]) for name in losses[0].terms}
    return Moved(Loss(torch.stack([loss.value for loss in losses]).mean(), terms), torch.stack(norms).mean())


def _learned_buffers(stage: Stage) -> list[Tensor]:
    """What a stage learns without gradients, such as codebooks: the buffers that are saved, of real numbers."""
    kept = [t for turn in stage.turns for part in turn.parts for t in part.state_dict(keep_vars=True).values()]
    return [t for t in kept if not isinstance(t, nn.Parameter) and t.is_floating_point()]
