"""Write the posterior means (of a VQ-VAE, the codes of each level) of all images of a split."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.chunks import in_rounds
from lowerbound.data.batches import Batch
from lowerbound.data.images import Failed, Images
from lowerbound.errors import ModelError, RunError, counted
from lowerbound.files import Rows, replacing
from lowerbound.model import CodeModel, Invertible, LatentModel
from lowerbound.parallel import team
from lowerbound.runs.inputs import as_batches, code_model, open_data
from lowerbound.runs.run import Run
from lowerbound.verbs.base import Device, Option, Processes, Seed, Shown, Told, verb


class Encoded(int, Shown):
    """So many codes, in the file `out`."""

    out: Path

    def __new__(cls, n: int, out: Path, failed: tuple[Failed, ...] = ()) -> "Encoded":
        made = super().__new__(cls, n)
        made.out, made.failed = out, failed
        return made

    def __getnewargs__(self) -> Any:
        return int(self), self.out, self.failed

    def json(self) -> dict[str, Any]:
        return {"out": str(self.out), "n": int(self), "failed": self.failures()}

    def shown(self) -> str:
        return f"{counted(int(self), 'code')} in {self.out}"


@verb
def encode(
    run: Run,
    /,
    *,
    out: Annotated[str | Path, Option(kind=Path)],
    data: str | None = None,
    split: str = "train",
    scale: bool = False,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
    processes: Processes = None,
) -> Encoded:
    """Write the posterior means (of a VQ-VAE, the codes of each level) of all images of a split.

    z float32 [N, D], what `features` gives; of latents that take whole numbers the probabilities of their values, and
    `codes_z` int64 [N, D], the likeliest values; of a VQ-VAE `codes_LEVEL` int64 [N, h, w] of each level; of a flow z
    is the noise that it takes the image to, of a diffusion model by its probability flow. Rows go to disk as they are
    computed.

    Args:
        out: a file ending in .npz: z (or codes_LEVEL), label, path
        scale: the posterior standard deviations too, as the array scale
        seed: nothing is drawn
        processes: encode in so many processes of this machine, which share the images
    """
    out = Path(out)
    if out.suffix != ".npz":
        raise RunError(f"--out {out}: expected a file ending in .npz")
    model = code_model(run, device)
    if scale:
        _check_scale(run, model)
    images = open_data(run, split, data, progress)
    told = progress.count("encoding")
    batches, world = as_batches(run, images, torch.device(device)), team()
    with replacing(out) if world.first else nullcontext(out) as temporary, Rows(out.parent) as rows, torch.no_grad():
        for index, found in in_rounds(batches, model.rows, lambda batch: _encoded(model, batch, scale)):
            for name, values in found.items() if world.first else ():
                rows.add(name, values)
            told(int(index[-1]) + 1, len(images))
        if world.first:
            _add_names(rows, images)
            rows.save(temporary)
    return Encoded(len(images), out, () if data is None else images.unreadable)


def _check_scale(run: Run, model: LatentModel | Invertible) -> None:
    if isinstance(model, Invertible):
        raise ModelError("--scale: a flow takes an image to one point, without a standard deviation")
    if any(space.levels is not None for space in model.latents):
        whose = "a VQ-VAE" if isinstance(model, CodeModel) else run.path
        raise ModelError(f"--scale: the codes of {whose} are whole numbers, without a standard deviation")


def _encoded(model: LatentModel | Invertible, batch: Batch, scale: bool) -> dict[str, np.ndarray]:
    return {name: values.cpu().numpy() for name, values in _codes(model, batch, scale).items()}


def _codes(model: LatentModel | Invertible, batch: Batch, scale: bool) -> dict[str, Tensor]:
    if isinstance(model, Invertible):
        return {"z": model.to_noise(batch.x, batch.y).flatten(1).float()}
    if isinstance(model, CodeModel):
        return {f"codes_{name}": c for name, c in zip(model.levels, model.codes(batch.x), strict=True)}
    found = {"z": model.features(batch.x, batch.y).float()}
    if all(space.levels is not None for space in model.latents):
        found["codes_z"] = torch.cat([q.mode.long().flatten(1) for q in model.posteriors(batch.x, batch.y)], 1)
    if scale:
        scales = [q.stddev.flatten(1) for q in model.posteriors(batch.x, batch.y)]
        found["scale"] = torch.cat(scales, 1).float()
    return found


def _add_names(rows: Rows, images: Images, block: int = 4096) -> None:
    """The labels and paths of images, where there are any."""
    starts = range(0, len(images), block)
    if images.y is not None:
        for i in starts:
            rows.add("label", np.asarray(images.y[i : i + block]))
    if images.paths is not None:
        longest = max(max(map(len, images.paths[i : i + block])) for i in starts)
        for i in starts:
            rows.add("path", np.asarray(images.paths[i : i + block], f"<U{longest}"))
