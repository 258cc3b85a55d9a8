"""How well an image comes back from its code."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound.chunks import own_batches
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.model import CodeModel, LatentModel
from lowerbound.parallel import gathered


class Reconstruction(Metric):
    """The error of the mean of p(x|z) at the posterior mean of z, on pixels scaled to [0, 1].

    mse: mean over pixels; squared_error: their sum, per image; psnr: -10 log10(mse), averaged over images; ssim: the
    structural similarity, 1 for the image itself, averaged over images. Of several levels of codes also those of what
    the coarsest alone decode to: mse.top is that of the top level, mse.middle that of the top and the middle one.
    """

    names: ClassVar[tuple[str, ...]] = ("mse", "squared_error", "psnr", "ssim")

    def applies(self, world: World) -> bool:
        return isinstance(world.model, LatentModel) and world.model.space.levels is not None

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        assert isinstance(model, LatentModel)
        assert model.space.levels is not None
        parts: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
        for batch in own_batches(world.batches, model.rows):
            x = batch.x.double() / (model.space.levels - 1)
            found = {}
            for suffix, r in _reconstructions(model, batch.x, batch.y):
                r = r.double() / (model.space.levels - 1)
                squared = (r - x).square().flatten(1).sum(1).cpu().numpy()
                similar = [ssim(*part).cpu().numpy() for part in zip(r.split(256), x.split(256), strict=True)]
                found[suffix] = squared, np.concatenate(similar)
            parts.append(found)
            world.advance(len(batch.index))
        parts = gathered(parts)
        values: dict[str, Value] = {}
        for suffix in parts[0]:
            squared, similar = (np.concatenate(each) for each in zip(*(part[suffix] for part in parts), strict=True))
            values |= {name + suffix: value for name, value in _values(squared, similar, model).items()}
        return values


def _reconstructions(model: LatentModel, x: Tensor, y: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """From all of z, with no suffix; and from the coarsest levels of codes alone."""
    yield "", model.reconstruct(x, y)
    for l, name in enumerate(model.levels[:-1] if isinstance(model, CodeModel) else ()):
        yield f".{name}", model.reconstruct(x, y, model.levels[: l + 1])


def _values(squared: np.ndarray, similar: np.ndarray, model: LatentModel) -> dict[str, Value]:
    """From the squared errors [N] and the similarities [N] of images."""
    mse = squared / model.space.dims
    return {
        "mse": Value.mean(mse, "per pixel"),
        "squared_error": Value.mean(squared, "per image"),
        "psnr": Value.mean(-10 * np.log10(np.maximum(mse, 1e-12)), "dB"),
        "ssim": Value.mean(similar, "of at most 1"),
    }


WINDOW, SPREAD = 11, 1.5  # pixels: the side of ssim's window, and the standard deviation of its Gaussian


def ssim(a: Tensor, b: Tensor) -> Tensor:
    r"""The structural similarity of images a and b [B, C, H, W] on a scale from 0 to 1: [B].

    .. math:: \frac{2 \mu_a \mu_b + C_1}{\mu_a^2 + \mu_b^2 + C_1} \cdot
        \frac{2 \sigma_{ab} + C_2}{\sigma_a^2 + \sigma_b^2 + C_2}, \quad C_1 = 0.01^2, \quad C_2 = 0.03^2

    with means, variances and the covariance under a Gaussian window, averaged over all places where the window lies
    within the image, and over channels. Wang et al. (2004), eq. 13, https://doi.org/10.1109/TIP.2003.819861. Where the
    image is smaller than 11 pixels, so is the window: the largest odd number of them.
    """
    size = min(WINDOW, *a.shape[-2:])
    size -= 1 - size % 2
    t = torch.arange(size, dtype=a.dtype, device=a.device) - size // 2
    w = (-(t**2) / (2 * SPREAD**2)).softmax(0)  # the window is w_i w_j
    whole = torch.stack([a, b, a * a, b * b, a * b])  # [5, B, C, H, W]
    seen = F.conv2d(F.conv2d(whole.flatten(0, 2)[:, None], w.view(1, 1, -1, 1)), w.view(1, 1, 1, -1))
    mean_a, mean_b, aa, bb, ab = seen.view(5, *a.shape[:2], *seen.shape[-2:])
    means, product = mean_a**2 + mean_b**2, mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * product + c1) * (2 * (ab - product) + c2) / ((means + c1) * (aa + bb - means + c2))
    return similarity.flatten(1).mean(1)
