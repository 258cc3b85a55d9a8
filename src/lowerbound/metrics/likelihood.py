"""Likelihoods and bounds."""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from lowerbound.chunks import draws_of, keyed_chunks, log_density
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.model import CodeModel, LatentModel
from lowerbound.parallel import gathered
from lowerbound.space import Density, Estimate
from lowerbound.units import bits_per_dim

NATS = "nats/image"


class Bound(Metric):
    """The plain evidence lower bound (beta 1, no free bits) and its two parts, from the sampled ratio
    log p(x, z) - log q(z|x): elbo = -(distortion + kl). A part has the relation of its own density: of a dequantized
    likelihood, or a prior that is itself a bound, it is at most the value. Of several levels of latents also each one's
    KL given the coarser: kl.z1 is that of the coarsest, and they add up. The KL of each latent dimension, where it is a
    sum of them, is in the saved report."""

    names: ClassVar[tuple[str, ...]] = ("elbo", "kl", "distortion")

    def applies(self, world: World) -> bool:
        return isinstance(world.model, LatentModel) and world.model.density is not Density.NONE

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        assert isinstance(model, LatentModel)
        parts: list[np.ndarray] = []
        dimensions: list[np.ndarray] = []
        for batch, chunks in keyed_chunks(model, world.batches, 1, world.seed):
            for draws in chunks:
                terms = model.elbo_terms(batch.x, batch.y, draws)
            kl = (terms.log_qz - terms.log_pz)[0].T  # [L, B]
            parts.append(torch.stack([terms.log_weight[0], -terms.log_px[0], *kl]).double().cpu().numpy())
            each = [k.flatten(1) for k in terms.kl_dimensions if k is not None]
            if len(each) == len(terms.z):
                dimensions.append(torch.cat(each, 1).double().cpu().numpy())
            world.advance(len(batch.index))
        elbo, distortion, *levels = np.concatenate(gathered(parts), 1)
        of_all = gathered(dimensions)
        detail = {"per_dimension": np.concatenate(of_all).mean(0).tolist()} if of_all else None
        prior = Density.worst(*model.prior_densities).value
        likelihood = model.likelihood_density.value
        estimated = model.density is Density.ESTIMATE
        common = {"common": common_error(model.estimate), "given": world.given}
        found = {
            "elbo": Value.mean(elbo, NATS, "~" if estimated else "=", **common),
            "kl": Value.mean(np.sum(levels, 0), NATS, prior, detail=detail, **common),
            "distortion": Value.mean(distortion, NATS, likelihood, given=world.given),
        }
        if len(levels) == 1 or isinstance(model, CodeModel):
            return found
        of = zip(levels, model.prior_densities, strict=True)
        return found | {
            f"kl.z{l + 1}": Value.mean(kl, NATS, density.value, given=world.given) for l, (kl, density) in enumerate(of)
        }


class NLL(Metric):
    """The negative log-likelihood, exact or a bound of it with this many importance-weighted draws
    (Burda et al. 2016, eq. 8), in memory that does not grow with them. Where draws are only averaged they are fewer
    (`chunks.draws_of`)."""

    names: ClassVar[tuple[str, ...]] = ("nll", "bits_per_dim")
    draws: int = Field(default=500, gt=0)  # importance-weighted, for each image; of an exact model one

    def applies(self, world: World) -> bool:
        return True

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        if model.density is Density.NONE:
            nothing = Value(None, None, NATS, "?", 0, 0)
            return {"nll": nothing, "bits_per_dim": nothing._replace(unit="bits/dim")}
        draws = draws_of(model, self.draws)
        nll = -log_density(model, world.batches, draws, world.seed, advance=world.advance)
        of = {"relation": model.density.value, "draws": draws, "given": world.given}
        dims, e = model.space.dims, model.estimate
        return {
            "nll": likelihood(nll, NATS, e, **of),
            "bits_per_dim": likelihood(bits_per_dim(nll, dims), "bits/dim", e, float(bits_per_dim(1.0, dims)), **of),
        }


def common_error(estimate: Estimate | None) -> float:
    """The standard error, in nats, that log p of all images has in common."""
    return 0.0 if estimate is None else estimate.error


def likelihood(each: np.ndarray, unit: str, estimate: Estimate | None, nat: float = 1.0, **of: Any) -> Value:
    """The mean of NLLs [N], nat being one nat in their unit.

    Where a constant in them is estimated, its error is in the standard error. It is estimated from both sides: the one
    log Z is too low in the mean, and log p too high; the reverse one the other way round. The interval holds both, with
    two standard errors around. How it was estimated is in `recipe`, with the mean by the reverse estimate.
    """
    value = Value.mean(each, unit, common=nat * common_error(estimate), **of)
    if estimate is None or value.value is None or value.stderr is None:
        return value
    reverse = value.value + nat * (estimate.reverse - estimate.log_z)
    low, high = min(value.value, reverse) - 1.96 * value.stderr, max(value.value, reverse) + 1.96 * value.stderr
    return value._replace(interval=(low, high), recipe={"reverse": reverse, "estimate": estimate._asdict()})
