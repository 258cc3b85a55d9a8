"""Which models compress, and how; for the others, why not."""

from typing import Any, NamedTuple

import torch
from torch.distributions import Distribution

from lowerbound.codec import codes
from lowerbound.codec.bit_swap import BitSwap
from lowerbound.codec.bits_back import BitsBack
from lowerbound.codec.container import Container, Damaged
from lowerbound.codec.in_order import InOrder
from lowerbound.codec.latents import codable
from lowerbound.codec.scheme import Scheme
from lowerbound.codec.symbols import CODABLE
from lowerbound.errors import ModelError
from lowerbound.model import CodeModel, Diffusing, Invertible, LatentModel, Markov, Model, Ordered, Stepwise
from lowerbound.space import Density, told_of

STEPS = 16  # of a diffusion model in continuous time, where it isn't said how many
MOST_STEPS = 1000


class Way(NamedTuple):
    """What is asked for of a file, and is kept in its table."""

    lossy: bool = False  # of a VQ-VAE, its codes alone
    steps: int | None = None  # in which a diffusion model is coded

    @property
    def entries(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value}

    @staticmethod
    def of(container: Container) -> "Way":
        """Raises Damaged for what no file says."""
        lossy, steps = (container.head.table.get(name) for name in Way._fields)
        sound = lossy in (None, True) and (steps is None or (type(steps) is int and 0 < steps <= MOST_STEPS))
        if not sound:
            raise Damaged(f"{container.path}: its table of images is damaged")
        return Way(bool(lossy), steps)


PLAINLY = Way()


class Scheming(NamedTuple):
    """A scheme, and the model that it codes by: the hierarchy that a diffusion model is, or the model itself."""

    kind: type[Scheme]
    model: Model
    way: Way


def scheme_of(model: Model, way: Way = PLAINLY) -> Scheming:
    """How a model's images are coded. Raises ModelError for one that can't, which says why in a sentence."""
    name = type(model).__name__
    if way.steps is not None and not isinstance(model, Diffusing):
        raise ModelError(f"--steps {way.steps}: those of a diffusion model, and this is a {name}")
    if way.lossy:
        if not isinstance(model, CodeModel):
            raise ModelError(
                f"--lossy: the codes of a VQ-VAE alone, and a {name} has none; without it, nothing is lost"
            )
        if reason := _why_no_codes(model):
            raise ModelError(f"{name} can't compress: {reason}")
        return Scheming(codes.Lossy, model, way)
    if reason := why_not(model):
        raise ModelError(f"{name} can't compress: {reason}")
    if isinstance(model, Diffusing):
        steps = way.steps if way.steps is not None else model.config.steps or STEPS
        if not 0 < steps <= MOST_STEPS:
            raise ModelError(f"--steps {steps}: expected 1 to {MOST_STEPS}")
        return Scheming(BitSwap, model.hierarchy(steps), way._replace(steps=steps))
    return Scheming(_kind(model), model, way)


def _kind(model: Model) -> type[Scheme]:
    kinds = {Ordered: InOrder, CodeModel: codes.Lossless, Markov: BitSwap}
    return next((kind for role, kind in kinds.items() if isinstance(model, role)), BitsBack)


def why_not(model: Model) -> str:
    """Why a model does not compress without loss; "" where it does."""
    if model.given and told_of(model.given) != "label":
        return f"it is given the {told_of(model.given)} of each image, which an image file does not say"
    if model.density is Density.NONE:
        lossy = "; --lossy keeps its codes" if isinstance(model, CodeModel) else ""
        return f"it says nothing of log p(x): {model.why_no_density()}{lossy}"
    if model.density is Density.ESTIMATE:
        return "its log p(x) is an estimate (~), and coding needs the probability of each value"
    if model.space.levels is None:
        return "its events are real numbers, and a density is no probability of any value"
    if isinstance(model, Ordered | Diffusing):
        return ""
    if isinstance(model, Stepwise):
        return "its bound is a mean over orders in which values are found, and coding one of them is not done here"
    if isinstance(model, Invertible):
        return (
            "it is a density of real numbers, applied to pixels through dequantization (<=): coding by it takes bits "
            "back for the noise that is put on them (Ho et al. 2019), which is not done here"
        )
    if not isinstance(model, LatentModel):
        return "it gives no probability of one value after another"
    if isinstance(model, CodeModel):
        return _why_no_codes(model) or _why_no_pixels(model.likelihood(_zeros(model)))
    return _why_not_latent(model)


@torch.no_grad()
def _why_no_codes(model: CodeModel) -> str:
    z = _zeros(model)
    for l, space in enumerate(model.latents):
        p = model.prior_of(l, z[:l], _label(model))
        if not codable(p, space):
            name = model.levels[l]
            return f"the prior of its {name} codes is a {_named(p)}, which gives no probability of one after another"
    return ""


@torch.no_grad()
def _why_not_latent(model: LatentModel) -> str:
    """By what the parts are of one event, whose values are 0."""
    x = torch.zeros(1, *model.space.shape, dtype=model.space.dtype, device=model.device)
    y = _label(model)
    seen, z = model.bottom_up(x, y), _zeros(model)
    for l, space in enumerate(model.latents):
        q, p = model.posterior(l, seen, z[:l], y), model.prior_of(l, z[:l], y)
        for d, what in ((q, "posterior"), (p, "prior")):
            if not codable(d, space):
                of = (
                    "probabilities of each value"
                    if space.levels is not None
                    else "independent normals, or a mixture of them"
                )
                return f"its {what} is a {_named(d)}, where bits back needs {of}"
    return _why_no_pixels(model.likelihood(z, y))


def _why_no_pixels(likelihood: Distribution) -> str:
    if isinstance(likelihood, CODABLE):
        return ""
    return (
        f"its likelihood is a {_named(likelihood)}, which has no probability of each pixel value; "
        "families.DiscretizedNormal and families.LogisticMixture have"
    )


def _zeros(model: LatentModel) -> tuple[torch.Tensor, ...]:
    """Latents of one event."""
    return tuple(
        torch.zeros(1, *s.shape, dtype=model.dtype if s.levels is None else s.dtype, device=model.device)
        for s in model.latents
    )


def _label(model: Model) -> torch.Tensor | None:
    return torch.zeros(1, dtype=torch.int64, device=model.device) if model.given else None


def _named(d: Distribution) -> str:
    inner: Any = getattr(d, "model", getattr(d, "base_dist", d))
    return type(inner).__name__
