"""How a model is trained: losses, the turns of optimizers, and stages one after another."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from lowerbound.space import Space, Y


class Loss(NamedTuple):
    value: Tensor  # the scalar to descend
    terms: dict[str, Tensor]  # [B] each, nats per image, for the log


class Turn(NamedTuple):
    """One optimizer's move; a GAN has two."""

    parts: tuple[nn.Module, ...]
    loss: Callable[[Tensor, Y, int], Loss]
    name: str = ""


class Prepare(NamedTuple):
    """What a stage is trained on instead of images: made of each image once, and kept."""

    names: tuple[str, ...]  # of the parts that are kept
    spaces: "tuple[Space, ...]"  # of each part
    make: Callable[[Tensor], tuple[Tensor, ...]]  # images [B, C, H, W] -> their parts [B, *shape]
    given: Callable[[tuple[Tensor, ...], Y], tuple[Tensor, Y]]  # parts and labels -> event and condition of the stage


class Stage(NamedTuple):
    """One step of a training in several."""

    name: str
    turns: tuple[Turn, ...]
    prepare: Prepare | None = None
    fit: Callable | None = None  # called once with the training Batches in place of all gradient steps
    model: nn.Module | None = None  # what is trained and measured, where that is a part with a density of its own
    learned: Callable[[bool], None] = lambda yes: None  # told False before its first step, True when weights are kept
