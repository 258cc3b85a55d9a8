"""Gradients through draws of whole numbers by numbers between them, which are biased but for REBAR's; and no draws."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.distributions import Bernoulli, Categorical
from lowerbound.estimators.base import Draws, Estimator, shape_of
from lowerbound.estimators.scores import OfCodes, like, with_gradient
from lowerbound.optimization import grown
from lowerbound.space import Space


class Relaxed(OfCodes, abstract=True):
    """z are features [K, B, *feature_shape], of which only those of whole numbers have a probability."""

    relaxed: ClassVar[bool] = True

    def other(self, objective: str) -> str:
        return f"has no weights of relaxed draws for {objective}; use estimators.VIMCO"


def gumbels(q: Distribution, n: int) -> Tensor:
    """The logits with noise, whose largest along the values (or sign) is a draw of q: [n, B, *feature_shape].

    Of a binary variable logistic noise, the difference of two Gumbels (Maddison et al. 2017, Concrete, appendix B).
    """
    assert isinstance(q, Bernoulli | Categorical)
    # --8<-- [start:gumbels]
    u = uniform(q, n)
    if isinstance(q, Bernoulli):
        return q.logits + torch.logit(u)
    return q.log_probs - (-u.log()).log()
    # --8<-- [end:gumbels]


def uniform(q: Bernoulli | Categorical, n: int) -> Tensor:
    """In the open interval, like n draws of the logits."""
    tiny = torch.finfo(q.logits.dtype).eps
    shape = shape_of(q, n) + q.logits.shape
    return noise.rand(shape, dtype=q.logits.dtype, device=q.logits.device, axes=noise.behind(shape_of(q, n))).clamp(
        tiny, 1 - tiny
    )


def softened(q: Distribution, z: Tensor, temperature: float) -> Tensor:
    return (z / temperature).sigmoid() if isinstance(q, Bernoulli) else (z / temperature).softmax(_axis(q))


def hardened(q: Distribution, z: Tensor) -> Tensor:
    """The features of the whole numbers that noisy logits stand for."""
    if isinstance(q, Bernoulli):
        return (z > 0).to(z.dtype)
    axis = _axis(q)
    return torch.zeros_like(z).scatter(axis, z.argmax(axis, keepdim=True), 1.0)


def _axis(q: Distribution) -> int:
    assert isinstance(q, Categorical)
    return q.axis


class GumbelSoftmax(Relaxed):
    r"""Draws relaxed at a temperature (Jang et al. 2017, https://arxiv.org/abs/1611.01144; Maddison et al. 2017,
    https://arxiv.org/abs/1611.00712): :math:`\mathrm{softmax}((\log q + g) / \tau)` with Gumbel noise g.

    The decoder is trained on numbers between 0 and 1 that it never sees in use: biased, the less so the lower the
    temperature, and the noisier. It goes from `temperature` to `end` over `steps` steps, by equal factors.
    """

    biased: ClassVar[bool] = True
    chains: ClassVar[bool] = True
    temperature: float = Field(default=1.0, gt=0)  # at the first step, τ
    end: float = Field(default=0.5, gt=0)  # the temperature after `steps` steps
    steps: int = Field(default=0, ge=0)  # 0: it stays

    def at(self, step: int) -> Any:
        done = grown(step, self.steps) if self.steps else 0.0
        return self.temperature ** (1 - done) * self.end**done

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        return Draws(softened(q, gumbels(q, n), self.at(step)))


class StraightThroughGumbel(Relaxed):
    """Whole numbers for the decoder, the relaxed draw's gradient (Jang et al. 2017, section 2.2): biased."""

    biased: ClassVar[bool] = True
    chains: ClassVar[bool] = True
    temperature: float = Field(default=1.0, gt=0)  # of the relaxed draw, τ

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        z = gumbels(q, n)
        return Draws(with_gradient(hardened(q, z), softened(q, z, self.temperature)))


class StraightThrough(Relaxed):
    """Whole numbers for the decoder, the gradient as if they were their probabilities (Bengio et al. 2013,
    https://arxiv.org/abs/1308.3432, section 4): biased."""

    biased: ClassVar[bool] = True
    chains: ClassVar[bool] = True

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        assert isinstance(q, Bernoulli | Categorical)
        p = q.logits.sigmoid() if isinstance(q, Bernoulli) else q.log_probs.exp()
        return Draws(with_gradient(hardened(q, gumbels(q, n)).detach(), p.expand(shape_of(q, n) + p.shape)))


@dataclass(frozen=True)
class Rebarred(Draws):
    """n draws, then their relaxations, then relaxations given the draws: of f [3n, B, ...] the first n stay."""

    log_q: Tensor | None = None
    eta: float = 1.0

    def credited(self, f: Tensor) -> Tensor:
        assert self.log_q is not None
        hard, free, conditional = f.chunk(3)
        surrogate = (hard - self.eta * conditional).detach() * like(self.log_q, hard) + self.eta * (free - conditional)
        return with_gradient(hard, surrogate)


class REBAR(Relaxed):
    r"""The score with the relaxed draw as a control variate (Tucker et al. 2017, https://arxiv.org/abs/1703.07370,
    eq. 6): unbiased whatever `eta` and `temperature` are, by which the variance is chosen. Three passes a draw.

    .. math:: (f(z) - \eta f(\tilde\zeta)) \nabla \log q(z) + \eta \nabla f(\zeta) - \eta \nabla f(\tilde\zeta)

    with ζ the relaxed draw that z is the largest of, and ζ~ one given z.
    """

    eta: float = 1.0  # weight of the control variate, η
    temperature: float = Field(default=0.5, gt=0)  # of the relaxed draw, τ

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        assert isinstance(q, Bernoulli | Categorical)
        noisy = gumbels(q, n)
        hard = hardened(q, noisy).detach()
        given = conditional(q, hard, uniform(q, n))
        soft, soft_given = (softened(q, z, self.temperature) for z in (noisy, given))
        z = hard.argmax(q.axis) if isinstance(q, Categorical) else hard
        return Rebarred(torch.cat([hard, soft, soft_given]), None, q.log_prob(z), self.eta)

    def rows(self, q: Distribution, n: int) -> int:
        return 3 * n


def conditional(q: Bernoulli | Categorical, hard: Tensor, v: Tensor) -> Tensor:
    """Noisy logits given the whole numbers that they stand for, from uniform noise v (Tucker et al. 2017, appendix)."""
    if isinstance(q, Bernoulli):
        s = q.logits.sigmoid()
        u = torch.where(hard > 0, (1 - s) + v * s, v * (1 - s))
        tiny = torch.finfo(u.dtype).eps
        return q.logits + torch.logit(u.clamp(tiny, 1 - tiny))
    log_e = (-v.log()).log()  # log(-log v)
    top = (hard * log_e).sum(q.axis, keepdim=True)  # of the value that was drawn
    rest = -torch.logaddexp(log_e - q.log_probs, top)  # -log(-log v_i / θ_i - log v_b), of improbable values too
    return torch.where(hard > 0, -top, rest)


class Enumeration(Estimator):
    """No draws: all values that z can have, each with its probability q(z|x). Exact, where they are few."""

    most: ClassVar[int] = 4096

    def why_not(self, q: Distribution, space: Space, n: int = 1) -> str:
        if not isinstance(q, Bernoulli | Categorical):
            return "has no values to be counted; use estimators.Pathwise"
        if (states := q.levels**space.dims) <= self.most:
            return ""
        return f"has {float(states):.3g} values, and estimators.Enumeration goes through at most {self.most}; use RLOO"

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        assert isinstance(q, Bernoulli | Categorical)
        D, shape = q.space.dims, q.event_shape
        values = torch.arange(q.levels, device=q.logits.device)
        states = torch.cartesian_prod(*[values] * D).reshape(-1, *shape).to(q.space.dtype)
        z = states.reshape(len(states), *(1 for _ in q.batch_shape), *shape).expand(-1, *q.batch_shape, *shape)
        return Draws(z, q.log_prob(z))

    def rows(self, q: Distribution, n: int) -> int:
        assert isinstance(q, Bernoulli | Categorical)
        return q.levels**q.space.dims
