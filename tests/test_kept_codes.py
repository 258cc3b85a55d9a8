"""A VQ-VAE completes an image in code space: kept codes stay, the rest has the prior's distribution given them."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lowerbound.errors import ModelError
from lowerbound.families import Bernoulli
from lowerbound.model import Draw
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.kept import cells_kept, filled
from lowerbound.models.vqvae import VQVAE, Level
from lowerbound.networks.made import MADE
from lowerbound.noise import seeded
from lowerbound.quantizers import VQ
from lowerbound.sampling.completion import seam
from lowerbound.space import Space

PRIOR = Autoregressive.Config(network=MADE.Config(hidden=(8,)), context=4, context_blocks=1, embedding=3)
TOP = torch.arange(4)[:, None].expand(4, 4) < 2


def vqvae(levels: int = 1) -> VQVAE:
    made = tuple(Level(factor=2 ** (levels - l), quantizer=VQ.Config(codes=3, dim=2, initial=0)) for l in range(levels))
    config = VQVAE.Config(levels=made, priors=(PRIOR,) * levels, likelihood=Bernoulli(), width=4, inner=2, blocks=1)
    with seeded("kept codes"):
        model = config.build(Space((1, 4, 4), levels=2)).eval()
        with torch.no_grad():
            for p in model.priors.parameters():
                p.add_(0.7 * torch.randn_like(p))
    return model


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (n, 1, 4, 4)).astype(np.uint8))


@pytest.mark.parametrize("levels", [1, 2])
def test_kept_codes_and_pixels_stay(levels: int):
    model, x = vqvae(levels), images(6)
    drawn = model.complete(x, TOP)
    assert torch.equal(drawn.x[..., :2, :], x[..., :2, :])
    own = model.codes(filled(x, TOP))
    for name, before, after in zip(model.levels, own, drawn.z, strict=True):
        kept = model.keeps(TOP)[name]
        assert torch.equal(after[:, kept], before[:, kept])
    assert any(kept.any() for kept in model.keeps(TOP).values())


def test_pixels_that_are_not_kept_have_no_say():
    model, x = vqvae(), images(5)
    other = torch.where(TOP, x, 1 - x)
    with seeded(1):
        a = model.complete(x, TOP)
    with seeded(1):
        b = model.complete(other, TOP)
    assert torch.equal(a.z[0], b.z[0])
    assert torch.equal(a.x, b.x)


def test_the_rest_has_the_distribution_of_the_prior_given_what_stays():
    model, n = vqvae(), 4000
    x = images(1).expand(n, 1, 4, 4)
    (own,) = model.codes(filled(x[:1], TOP))
    with seeded("completions"):
        (codes,) = model.complete(x, TOP).z
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    world = own.repeat(9, 1, 1)
    world[:, 1] = pairs
    with torch.no_grad():
        p = model.priors[0].log_prob(world).double().softmax(0)  # pyright: ignore[reportCallIssue]
    counts = (codes[:, 1, None] == pairs).all(-1).sum(0)
    assert chisquare(counts.numpy(), p.numpy() * n).pvalue > 1e-4
    assert chisquare(counts.numpy(), np.full(9, n / 9)).pvalue < 1e-4  # which a test must see


def test_everything_and_nothing():
    model, x = vqvae(), images(3)
    assert torch.equal(model.complete(x, torch.ones(4, 4).bool()).x, x)
    with seeded(2):
        nothing = model.complete(x, torch.zeros(4, 4).bool()).z[0]
    with seeded(2):
        drawn = model.draw(3).z[0]
    assert torch.equal(nothing, drawn)
    assert model.complete(x, TOP, how=Draw(0.0)).x.shape == x.shape


def test_cells_are_kept_whole():
    kept = torch.arange(4)[:, None].expand(4, 4) < 3
    assert cells_kept(kept, (2, 2)).tolist() == [[True, True], [False, False]]


def test_a_mask_in_another_order_is_refused():
    with pytest.raises(ModelError, match="another order"):
        vqvae().complete(images(2), TOP.T)


def test_the_seam_of_a_constructed_case():
    """Rows that rise by 1 everywhere in the originals, and by 5 across the seam."""
    originals = np.arange(6, dtype=np.uint8)[None, None, :, None].repeat(6, 3)
    kept = np.arange(6)[:, None].repeat(6, 1) < 3
    drawn = originals[:, None].copy()
    drawn[:, :, :, 3:] += 4
    found = seam(originals, kept, drawn)
    assert found is not None
    assert found["across"] == pytest.approx(5)
    assert found["elsewhere"] == pytest.approx(1)
    assert found["ratio"] == pytest.approx(5)
    assert seam(originals, np.ones((6, 6), bool), drawn) is None
