"""Scenes asked for from another side: what a model is given of them, what there is to be seen, and what it draws."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.batches import Batches
from lowerbound.data.views import coordinates
from lowerbound.errors import ModelError
from lowerbound.model import PLAIN, Draw, Drawn, Told, Viewing, rows_of
from lowerbound.pictures import Table, save_table
from lowerbound.progress import Progress
from lowerbound.runs.conditions import NOTHING, Asked
from lowerbound.sampling.drawing import in_parts, pixels
from lowerbound.space import Y

DRAWS = 4  # of each scene


@dataclass(frozen=True)
class Scenes:
    """Scenes, views of which were given, and draws of another."""

    given: np.ndarray  # uint8 [S, M, C, H, W], black after the first `number`
    number: np.ndarray  # int64 [S]
    truth: np.ndarray | None  # uint8 [S, C, H, W], what the camera that was asked for sees, where that is known
    x: np.ndarray  # uint8 [S, n, C, H, W]
    levels: int

    def save(self, out: Path) -> None:
        """By the rule of `--out`: a picture has what was given and the truth too, all else the draws; an .npz has
        `given`, `number` and `truth` beside them."""
        S, n = self.x.shape[:2]
        names = [f"scene{s + 1}-{i + 1}.png" for s in range(S) for i in range(n)]
        arrays = {"given": np.moveaxis(self.given, 2, -1), "number": self.number}
        arrays |= {} if self.truth is None else {"truth": np.moveaxis(self.truth, 1, -1)}
        save_table(self.table(), self.x.reshape(S * n, *self.x.shape[2:]), out, names, arrays=arrays)

    def table(self) -> Table:
        """A row for each scene: what is given, the truth, the draws."""
        shown = int(self.number.max(initial=0))
        there = np.arange(shown) < self.number[:, None]
        given = np.where(there[:, :, None, None, None], self.given[:, :shown], self.levels - 1)  # paper elsewhere
        truth = [] if self.truth is None else [self.truth[:, None]]
        columns = [f"given {k + 1}" for k in range(shown)] + ["truth"] * len(truth)
        columns += [f"{i + 1}" for i in range(self.x.shape[1])]
        return Table(np.concatenate([given, *truth, self.x], 1), self.levels, columns=tuple(columns))


def in_turn(model: Viewing, n: int) -> Tensor:
    """Numbers of views to give of n scenes, from none to as many as there may be, and again: [n]."""
    return torch.arange(n) % (model.context_views + 1)


def check_views(model: Viewing, batches: Batches, n: int, views: int | None) -> None:
    """Raise ModelError where so many scenes, or views of each, can't be given."""
    assert batches.views is not None
    if views is not None and not 0 <= views <= model.context_views:
        raise ModelError(
            f"--views {views}: this model is given 0 to {model.context_views} views, which model.context_views says"
        )
    if n > len(batches.views):
        name = f"the {batches.images.split} images of {batches.images.name}"
        raise ModelError(f"-n {n}: there are {len(batches.views):,} scenes among {name}; ask for fewer")


def draw(
    model: Viewing,
    batches: Batches,
    number: Tensor,
    draws: int = DRAWS,
    how: Draw = PLAIN,
    asked: Asked = NOTHING,
    progress: Progress | None = None,
) -> Scenes:
    """Of the first S scenes, the first view of each drawn so many times, given the next `number` [S] of its views.

    asked: of the camera, in the place of what that view's own has; the truth is then not known. Raises UserError for a
    name that no camera has, and a value out of its range.
    """
    views = batches.views
    assert views is not None
    index, y = views.of_scenes(torch.arange(len(number)), number)
    there = coordinates(asked.over(views.values[index.numpy()], views.factors), views.factors)
    y = (*y[:3], torch.from_numpy(there))
    whole = Batches.on(batches.device, y)

    def some(part: Tensor, given: Y, told: Told) -> Drawn:
        return model.draw(len(part), rows_of(whole, part // draws), how, told)

    drawn = in_parts(model, len(number) * draws, None, some, progress)
    return Scenes(
        given=y[0].cpu().numpy(),
        number=number.numpy(),
        truth=None if asked else batches.x[index.to(batches.x.device)].cpu().numpy(),
        x=pixels(drawn.x.unflatten(0, (-1, draws))),
        levels=batches.levels,
    )
