"""How the codes of a VQ-VAE are used, and what they cost."""

from typing import ClassVar

import numpy as np

from lowerbound.chunks import keyed_chunks
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.model import CodeModel
from lowerbound.parallel import gathered, team
from lowerbound.quantizers import Usage
from lowerbound.space import Density
from lowerbound.units import bits_per_dim


class Codes(Metric):
    """Of each level, over all images at once:

    usage: the share of the codebook that is chosen at all; perplexity: how many codes, evenly used, would have the same
    entropy; unigram_bits: that entropy, what a code costs without a model of its neighbours; bits_per_code: what it
    costs by the prior, log2 K as long as that is uniform.

    rate: what the parts of the bound cost, in bits for each dimension of the image: rate.top, ..., and rate.pixels for
    -log p(x|z) where that is a probability. They add up to bits_per_dim (that of one draw).
    """

    names: ClassVar[tuple[str, ...]] = ("usage", "perplexity", "unigram_bits", "bits_per_code", "rate")

    def applies(self, world: World) -> bool:
        return isinstance(world.model, CodeModel)

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        assert isinstance(model, CodeModel)
        used = [Usage(space.levels or 1) for space in model.latents]
        nats, pixels = [], []
        for batch, chunks in keyed_chunks(model, world.batches, 1, world.seed):
            for draws in chunks:
                terms = model.elbo_terms(batch.x, batch.y, draws)
            for usage, z in zip(used, terms.z, strict=True):
                usage.add(z)
            nats.append(-terms.log_pz[0].double().cpu().numpy())  # [B, L]
            pixels.append(-terms.log_px[0].double().cpu().numpy())
            world.advance(len(batch.index))
        for usage in used:
            team().sum_(usage.counts)
        whole = np.concatenate(gathered(nats)), np.concatenate(gathered(pixels))
        return _values(model, used, whole[0].T, whole[1], world.given)


def _values(
    model: CodeModel, used: list[Usage], nats: np.ndarray, pixels: np.ndarray, given: str | None
) -> dict[str, Value]:
    """nats [L, N] of each level's codes, pixels [N]."""
    found: dict[str, Value] = {}
    n = len(pixels)
    for name, usage in zip(model.levels, used, strict=True):
        K = len(usage.counts)
        found[f"usage.{name}"] = Value(usage.share, None, f"of {K} codes", "=", n, 1)
        found[f"perplexity.{name}"] = Value(usage.perplexity, None, f"of {K} codes", "=", n, 1)
        found[f"unigram_bits.{name}"] = Value(usage.bits, None, "bits/code", ">=", n, 1)
    of = zip(model.levels, nats, model.latents, model.learned, model.prior_densities, strict=True)
    for name, level, space, learned, density in of:
        unit = "bits/code" if learned else "bits/code, uniform prior"
        found[f"bits_per_code.{name}"] = Value.mean(bits_per_dim(level, space.dims), unit, density.value, given=given)
        found[f"rate.{name}"] = Value.mean(
            bits_per_dim(level, model.space.dims), "bits/dim", density.value, given=given
        )
    if model.likelihood_density is not Density.NONE:
        bits, relation = bits_per_dim(pixels, model.space.dims), model.likelihood_density.value
        found["rate.pixels"] = Value.mean(bits, "bits/dim", relation, given=given)
    return found
