"""Which models compress, and how; for the others, why not."""

from typing import Any

import torch
from torch.distributions import Distribution

from lowerbound.codec.bits_back import BitsBack, is_normal
from lowerbound.codec.in_order import InOrder
from lowerbound.codec.scheme import Scheme
from lowerbound.codec.symbols import CODABLE
from lowerbound.errors import ModelError
from lowerbound.model import CodeModel, LatentModel, Model, Ordered
from lowerbound.space import Density, told_of


def scheme_of(model: Model) -> type[Scheme]:
    """How a model's images are coded. Raises ModelError for one that can't, which says why in a sentence."""
    if reason := why_not(model):
        raise ModelError(f"{type(model).__name__} can't compress: {reason}")
    return InOrder if isinstance(model, Ordered) else BitsBack


def why_not(model: Model) -> str:
    """Why a model does not compress; "" where it does."""
    if model.given:
        return f"it is given the {told_of(model.given)} of each image, which is no part of the image"
    if model.density is Density.NONE:
        return f"it says nothing of log p(x): {model.why_no_density()}"
    if model.density is Density.ESTIMATE:
        return "its log p(x) is an estimate (~), and coding needs the probability of each value"
    if model.space.levels is None:
        return "its events are real numbers, and a density is no probability of any value"
    if isinstance(model, Ordered):
        return ""
    if not isinstance(model, LatentModel):
        return (
            "it is a density of real numbers, applied to pixels through dequantization (<=), which says nothing of how "
            "probable one value is after another"
        )
    if isinstance(model, CodeModel):
        return "codes of a VQ-VAE and pixels given them are not coded yet"
    return _why_not_latent(model)


@torch.no_grad()
def _why_not_latent(model: LatentModel) -> str:
    """By what the parts are of one event, whose values are 0."""
    x = torch.zeros(1, *model.space.shape, dtype=model.space.dtype, device=model.device)
    seen, z = model.bottom_up(x), ()
    for l, space in enumerate(model.latents):
        q, p = model.posterior(l, seen, z), model.prior_of(l, z)
        for d, what in ((q, "posterior"), (p, "prior")):
            if not (is_normal(d) if space.levels is None else isinstance(d, CODABLE)):
                wanted = "independent normals" if space.levels is None else "probabilities of each value"
                return f"its {what} is a {_named(d)}, where bits back needs {wanted}"
        z = (*z, torch.zeros(1, *space.shape, dtype=model.dtype if space.levels is None else space.dtype))
    likelihood = model.likelihood(z)
    if not isinstance(likelihood, CODABLE):
        return (
            f"its likelihood is a {_named(likelihood)}, which has no probability of each pixel value; "
            "families.DiscretizedNormal and families.LogisticMixture have"
        )
    return ""


def _named(d: Distribution) -> str:
    inner: Any = getattr(d, "base_dist", d)
    return type(inner).__name__
