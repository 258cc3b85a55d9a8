"""Gradients through draws of a mixture of normals."""

import math

from torch.distributions import Distribution

from lowerbound.distributions import NormalMixture
from lowerbound.estimators.base import Draws, Estimator
from lowerbound.space import Space


class Stratified(Estimator):
    r"""n draws of every component, each with its component's weight in the bound (Morningstar et al. 2021, SIWAE,
    https://arxiv.org/abs/2003.01687).

    .. math:: \sum_k \pi_k E_{q_k}\left[\log \frac{p(x, z)}{q(z|x)}\right], \qquad
        E \log \sum_k \frac{\pi_k}{n} \sum_t \frac{p(x, z_{kt})}{q(z_{kt}|x)}

    with the density q of the whole mixture in both: under `objectives.ELBO` the sum is outside the logarithm, under
    `objectives.IWAE` inside, which is tighter. All weights, means and scales have a gradient, and no component is ever
    left out; a step costs as many passes through the decoder as there are components, times n. (`Pathwise` draws from
    the mixture itself: one pass, and implicit gradients of more noise.)
    """

    def why_not(self, q: Distribution, space: Space, n: int = 1) -> str:
        if isinstance(q, NormalMixture):
            return ""
        return "has no components to draw from one by one; use families.GaussianMixture, or estimators.Pathwise"

    # --8<-- [start:stratified]
    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        assert isinstance(q, NormalMixture)
        z = q.each((n,)).movedim(q.axis, 0)  # [C, n, B, *latent]
        share = (q.log_weights.T - math.log(n)).unsqueeze(1).expand(z.shape[:3])
        return Draws(z.flatten(0, 1), share.flatten(0, 1))
        # --8<-- [end:stratified]

    def rows(self, q: Distribution, n: int) -> int:
        assert isinstance(q, NormalMixture)
        return n * q.loc.shape[q.axis]
