"""Images as a model over codes has them: their codes, what those cost by the priors, what they decode to."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.batches import Batch
from lowerbound.likeness import PixelFeatures, frechet
from lowerbound.metrics.extractors import parted
from lowerbound.model import CodeModel, Draw
from lowerbound.noise import KeyedNoise, key, randint, seeded
from lowerbound.sampling import drawing
from lowerbound.units import bits_per_dim
from lowerbound.verbs.doctor.examined import distances

COMPONENTS = 16  # principal components, in which few samples are judged


class Encoded(NamedTuple):
    """Images, their codes, and what those cost by the priors."""

    x: Tensor  # float64 [N, C, H, W]
    y: Tensor | None
    codes: tuple[Tensor, ...]  # [N, h, w] each
    bits: Tensor  # [L, N], per code

    @staticmethod
    def of(model: CodeModel, batches: Iterable[Batch]) -> "Encoded":
        xs, ys, codes, bits = [], [], [], []
        dims = torch.tensor([[s.dims] for s in model.latents])
        for batch in batches:
            z = model.codes(batch.x)
            with KeyedNoise(0, batch.index) as noise:
                noise.chunk(1)
                nats = -model.log_p_codes(z, batch.y).double().cpu()
            xs.append(batch.x.double().cpu())
            ys.append(batch.y)
            codes.append([c.cpu() for c in z])
            bits.append(bits_per_dim(nats / dims, 1))
        y = None if ys[0] is None else torch.cat(ys)
        return Encoded(torch.cat(xs), y, tuple(map(torch.cat, zip(*codes, strict=True))), torch.cat(bits, 1))

    def error(self, model: CodeModel, codes: tuple[Tensor, ...]) -> float:
        """The mean squared distance of the images from what codes decode to."""
        return float(distances(self.x, torch.from_numpy(means(model, codes))).mean())

    def error_without(self, model: CodeModel, level: int) -> float:
        """The same with the codes of a level shuffled."""
        n = len(self.x)
        return self.error(model, tuple(shuffled_places(c, n) if k == level else c for k, c in enumerate(self.codes)))


def means(model: CodeModel, codes: tuple[Tensor, ...]) -> np.ndarray:
    """What codes [n, h, w] of each level decode to: uint8 [n, C, H, W]."""
    return drawing.pixels(model.render(tuple(c.to(model.device) for c in codes), mean=True).cpu())


def shuffled_places(codes: Tensor, n: int) -> Tensor:
    """Codes [N, h, w] -> [n, h, w], the code of each place that of any of the N images, drawn anew for each place."""
    flat = codes.flatten(1)
    with seeded(0, "shuffled", quick=True):
        chosen = randint(0, len(flat), (n, flat.shape[1]))
    return torch.gather(flat, 0, chosen).view(n, *codes.shape[1:])


def frechets(model: CodeModel, train: Encoded, valid: Encoded) -> dict[str, float]:
    """Squared Fréchet distances to the validation images of samples, of pictures whose codes are each drawn from
    another image, and of training images (floor), in few components, since there are few of them, of other training
    images; none before the priors are trained."""
    n = min(drawing.affordable(model), len(train.x) // 2, len(valid.x))
    if not model.can_sample or n < 2:
        return {}
    images, reference = (e.x.numpy().astype(np.uint8) for e in (train, valid))
    order = np.random.default_rng(key(0, "doctor", "order")).permutation(len(images))
    scored, others = parted(order, n, model.space.dims)
    features = PixelFeatures(images[others], model.space.levels or 2, components=COMPONENTS)
    with seeded(0, "doctor", quick=True):
        samples = drawing.pixels(drawing.draw(model, n, _some(train.y, n), Draw(mean=True)).x)
    shuffled = means(model, tuple(shuffled_places(c, n) for c in valid.codes))
    named = {"samples": samples, "shuffled": shuffled, "floor": images[scored]}
    return {name: frechet(features(x), features(reference)) for name, x in named.items()}


def _some(y: Tensor | None, n: int) -> Tensor | None:
    """n of the labels, without order."""
    if y is None:
        return None
    generator = torch.Generator().manual_seed(key(0, "doctor", "labels"))
    return y[torch.randperm(len(y), generator=generator)[:n].to(y.device)]
