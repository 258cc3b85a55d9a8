"""How a model is trained: losses, the turns of optimizers, and stages one after another."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.optimization import Optimizer, Schedule
from lowerbound.progress import Told, told_nobody
from lowerbound.space import Space, Y

Pair = tuple[Tensor, Y]  # events and what is given of each


class Loss(NamedTuple):
    value: Tensor  # the scalar to descend
    terms: dict[str, Tensor]  # [B] each, nats per image, for the log


class Turn(NamedTuple):
    """One optimizer's move; a GAN has two. Of several in a stage, each but the main one has a name, by which it is
    logged."""

    parts: tuple[nn.Module, ...]
    loss: Callable[[Tensor, Y, int], Loss]
    name: str = ""
    optimizer: Optimizer | None = None  # None: the stage's
    schedule: Schedule | None = None  # None: the stage's
    times: int = 1  # moves in a step, each on a batch of its own


class Prepare(NamedTuple):
    """What a stage is trained on instead of images: made of each image once, and kept."""

    names: tuple[str, ...]  # of the parts that are kept
    spaces: "tuple[Space, ...]"  # of each part
    make: Callable[[Tensor, Y], tuple[Tensor, ...]]  # images [B, C, H, W] and labels -> their parts [B, *shape]
    given: Callable[[tuple[Tensor, ...], Y], tuple[Tensor, Y]]  # parts and labels -> event and condition of the stage


class Fit(Protocol):
    """What takes the place of all gradient steps: it looks at all training events, and tells how much is done where
    that takes long."""

    def __call__(self, pairs: Iterable[Pair], told: Told = told_nobody, /) -> None: ...


def of_events(fit: Callable[[Iterable[Tensor]], None]) -> Fit:
    """A `Stage.fit` that looks at the events alone."""
    return lambda pairs, told=told_nobody: fit(x for x, _ in pairs)


def some(events: Iterable[Tensor], n: int) -> Tensor:
    """n of all events of the batches, read once, each as likely to be among them: [n or fewer, *shape]."""
    kept, keys = None, torch.zeros(0)
    for x in events:
        keys = torch.cat([keys.to(x.device), noise.rand((len(x),), device=x.device).to(torch.float32)])
        keys, first = keys.topk(min(n, len(keys)))
        kept = (x if kept is None else torch.cat([kept, x]))[first]
    return torch.zeros(0) if kept is None else kept


class Size(NamedTuple):
    """How large the training of a stage is."""

    events: int  # that it is trained on
    batch: int
    steps: int


class Score(NamedTuple):
    """By what a stage's weights are chosen, on the validation images: the higher, the better."""

    draws: int | None = 1  # of the bound of log p(x); None, and where there is no bound: minus the first turn's loss
    # where it is given: minus the squared Fréchet distance of so many samples, or as many as there are images, if more
    samples: int | None = None


class Stage(NamedTuple):
    """One step of a training in several."""

    name: str
    turns: tuple[Turn, ...]
    prepare: Prepare | None = None
    fit: Fit | None = None  # in place of all gradient steps
    begin: Callable[[Iterable[Tensor]], None] | None = None  # all training events, before the first gradient step
    model: nn.Module | None = None  # what is trained and measured, where that is a part with a density of its own
    learned: Callable[[bool], None] = lambda yes: None  # told False before its first step, True when weights are kept
    sized: Callable[[Size], None] = lambda size: None  # told before its first step; raises ConfigError for another size
    score: Score | None = Score()  # None: nothing says which weights are better; the last, averaged, are kept

    @property
    def batches(self) -> int:
        """How many a step takes."""
        return max((turn.times for turn in self.turns), default=1)
