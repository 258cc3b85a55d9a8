"""A likelihood as a file: its bytes beside the bound of the same images."""

import copy
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from lowerbound.chunks import keyed_chunks
from lowerbound.codec import archive
from lowerbound.codec.choice import Way, scheme_of
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.model import Diffusing, LatentModel
from lowerbound.parallel import by_first, gathered
from lowerbound.units import bits_per_dim

BITS = "bits/dim"
DRAWS = 10  # of the bound, which are averaged: a file is one draw of it for each image


class FileBits(Metric):
    """The bytes of the file that `compress` makes of the images, read back and compared, and what they are made of:

    - `file_bits`: the whole file, = net + initial + framing
    - `file_bits.net`: the messages without the bits that were there before their first image. The relation is that of
      the likelihood: an autoregressive model's is log2 p(x), bits back pay for the plain bound, not a weighted one
    - `file_bits.initial`: those bits, which more images would share
    - `file_bits.framing`: head, lengths and checksums
    - `file_bits.bound`: what the model says of the same images, averaged over draws where it has noise; of a diffusion
      model, in as many steps as the file

    Of the first `limit` images, unless `evaluate` is given a limit.
    """

    names: ClassVar[tuple[str, ...]] = ("file_bits",)
    suffixes: ClassVar[tuple[str, ...]] = ("", ".net", ".initial", ".framing", ".bound")
    costly: ClassVar[bool] = True
    limit: int | None = Field(default=None, gt=0)  # the first so many images; None: 256, and 16 where one takes seconds

    def applies(self, world: World) -> bool:
        return True

    def _limit(self, world: World) -> int:
        return self.limit or (16 if isinstance(world.model, Diffusing) else 256)

    def __call__(self, world: World) -> dict[str, Value]:
        by = scheme_of(world.model)  # raises ModelError, which says why, where there is no file
        own = World(by.model, world.batches.head(self._limit(world)), seed=world.seed, progress=world.progress)
        batches = [*own.batches.in_order(1024)]
        x = np.concatenate([batch.x.cpu().numpy() for batch in batches])
        y = np.concatenate([batch.y.cpu().numpy() for batch in batches]) if world.model.given else None
        model = world.model if world.model.device.type == "cpu" else copy.deepcopy(world.model).cpu()
        told = world.progress.count("compressing")

        def compressed() -> archive.Written:
            with tempfile.TemporaryDirectory() as folder:
                return archive.write(Path(folder) / "a.lb", model, x, {}, y=y, told=told)

        made = by_first(compressed)
        relation = world.model.density.value
        parts = {
            "file_bits": (made.bits, relation),
            "file_bits.net": (made.net, relation),
            "file_bits.initial": (made.initial, "="),
            "file_bits.framing": (made.framing, "="),
        }
        of = {"given": world.given, "remark": _said(made, by.way)}
        values = {name: Value(n / x.size, None, BITS, r, len(x), 1, **of) for name, (n, r) in parts.items()}
        return values | {"file_bits.bound": bound(own)}


def _said(made: archive.Written, way: Way) -> str:
    steps = f", in {way.steps} steps" if way.steps else ""
    return f"{made.n:,} images in a file of {made.bits // 8:,} bytes{steps}, read back and compared"


@torch.no_grad()
def bound(world: World) -> Value:
    """What the model says of all images, by draws that are averaged, as those of a file are."""
    model, found = world.model, []
    draws = DRAWS if isinstance(model, LatentModel) and model.noisy else 1
    for batch, chunks in keyed_chunks(model, world.batches, draws, world.seed):
        log_w = torch.cat([model._log_weights(batch.x, batch.y, k).double() for k in chunks])
        found.append(-log_w.mean(0).cpu().numpy())
    each = bits_per_dim(np.concatenate(gathered(found)), model.space.dims)
    return Value.mean(each, BITS, model.density.value, draws, given=world.given)
