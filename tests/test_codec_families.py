"""Every family of models as a file: what comes back, how long it is, and what is refused with which reason."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from lowerbound.codec import archive, numerics
from lowerbound.codec.archive import Archive
from lowerbound.codec.bit_swap import BitSwap, Grid
from lowerbound.codec.bits_back import BitsBack
from lowerbound.codec.channel import WORD
from lowerbound.codec.choice import PLAINLY, Way, scheme_of, why_not
from lowerbound.codec.container import Container
from lowerbound.codec.scheme import Settings
from lowerbound.errors import ModelError
from lowerbound.families import Categorical as CategoricalFamily
from lowerbound.families import DiscretizedNormal
from lowerbound.families import GaussianMixture as MixtureNormal
from lowerbound.model import Extent, Model
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.diffusion import Diffusion
from lowerbound.models.discrete_diffusion import DiscreteDiffusion
from lowerbound.models.hierarchical import HierarchicalVAE, Scale
from lowerbound.models.multiscale import MultiscaleFlow
from lowerbound.models.vae import VAE
from lowerbound.models.vqvae import VQVAE, Level
from lowerbound.networks.made import MADE
from lowerbound.networks.mlp import MLP
from lowerbound.networks.residual import ResidualMLP
from lowerbound.noise import seeded
from lowerbound.priors import Categorical, FullGaussianMixture, GaussianMixture, VampPrior
from lowerbound.quantizers import VQ
from lowerbound.schedules import LogLinear
from lowerbound.space import Space
from lowerbound.testing import shake_parameters

pytestmark = pytest.mark.usefixtures("surroundings")

BINARY, GREY = Space((1, 4, 4), levels=2), Space((1, 4, 4), levels=17)
LABEL = (Space((), levels=3, ordered=False),)
SMALL, NORMAL = MLP.Config(hidden=(16,)), DiscretizedNormal()


class Case(NamedTuple):
    config: Model.Config
    space: Space
    given: tuple[Space, ...] = ()
    way: Way = PLAINLY

    def build(self, scale: float = 0.1) -> Model:
        with seeded("codec"):
            model = self.config.build(self.space, self.given)
        shake_parameters(model, "codec", scale=scale)
        return model.eval()


def vae(**parts) -> VAE.Config:
    return VAE.Config(**{"latent": (3,), "encoder": SMALL, "decoder": SMALL, **parts})


def vqvae(likelihood=NORMAL, levels: int = 2, priors: int | None = None) -> VQVAE.Config:
    prior = Autoregressive.Config(network=MADE.Config(hidden=(16,)), context=4, context_blocks=1, embedding=4)
    grids = [Level(factor=f, quantizer=VQ.Config(codes=5, dim=3, initial=0)) for f in (4, 2)[-levels:]]
    own = (prior,) * (levels if priors is None else priors)
    return VQVAE.Config(levels=tuple(grids), priors=own, likelihood=likelihood, width=8, inner=4, blocks=1)


CASES = {
    "labelled pixels": Case(Autoregressive.Config(network=MADE.Config(hidden=(20,)), context=4), BINARY, LABEL),
    "labelled vae": Case(vae(), BINARY, LABEL),
    "mixture prior": Case(vae(prior=GaussianMixture.Config(components=4)), BINARY),
    "vamp prior": Case(vae(prior=VampPrior.Config(components=5)), BINARY),
    "mixture posterior": Case(vae(posterior=MixtureNormal(components=3)), BINARY),
    "categorical latents": Case(
        vae(latent=(6,), latent_levels=3, posterior=CategoricalFamily(), prior=Categorical.Config(learned=True)), BINARY
    ),
    "hierarchy": Case(
        HierarchicalVAE.Config(
            scales=(Scale(factor=4, latent=2), Scale(factor=2, levels=2, latent=1)), width=8, inner=4
        ),
        BINARY,
    ),
    "vqvae": Case(vqvae(), GREY),
    "labelled vqvae": Case(vqvae(), GREY, LABEL),
    "vqvae of uniform codes": Case(vqvae(priors=0, levels=1), GREY),
    "diffusion": Case(
        Diffusion.Config(network=ResidualMLP.Config(width=16, blocks=1), context=8), GREY, (), Way(steps=3)
    ),
    "labelled diffusion": Case(
        Diffusion.Config(network=ResidualMLP.Config(width=16, blocks=1), context=8, steps=2), GREY, LABEL
    ),
}

# As far apart as 16 steps of the default are: means off by several standard deviations, and of none by a hundred, which
# a file would say in fewer bits than the density
APART = Case(
    Diffusion.Config(
        network=ResidualMLP.Config(width=16, blocks=1), schedule=LogLinear.Config(gamma_min=-3, gamma_max=2), context=8
    ),
    *(GREY, (), Way(steps=4)),
)


def drawn(case: Case, model: Model, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Images of the model, and some that it would not draw; their labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n) if case.given else None
    with torch.no_grad(), seeded(0):
        given = None if y is None else torch.from_numpy(y)
        x = model.sample(n, given).numpy() if model.can_sample else rng.integers(0, 5, (n, *case.space.shape))
    x = x.astype(np.uint8)
    x[1], x[2], x[3] = 0, (case.space.levels or 2) - 1, rng.integers(0, case.space.levels or 2, case.space.shape)
    return x, y


@pytest.mark.parametrize("name", CASES)
def test_images_come_back_to_the_last_bit(name: str, tmp_path: Path):
    case = CASES[name]
    model = case.build(0.3)
    x, y = drawn(case, model, 13)
    archive.write(tmp_path / "a.lb", model, x, {}, y=y, way=case.way, block=9, verify=False)
    torch.set_num_threads(2)
    try:
        with Container(tmp_path / "a.lb") as container:
            assert np.array_equal(Archive(container, model, y)[0:13], x)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", [name for name in CASES if "labelled" not in name or "vae" in name])
def test_a_file_is_as_long_as_the_bound_says(name: str):
    """Within four standard errors of the bound, over draws of both; initial bits aside."""
    case = APART if name == "diffusion" else CASES[name]
    model = case.build()
    x, y = drawn(case, model, 200)
    x, y = x[4:], None if y is None else y[4:]
    kind, by, _ = scheme_of(model, case.way)
    with torch.no_grad(), seeded(0):
        given = None if y is None else torch.from_numpy(y)
        draws = 30 if by.noisy else 1
        bits = -by.log_weights(torch.from_numpy(x), given, draws).double() / np.log(2)
    with numerics.repeatable():
        made = kind(by, Settings(16, 196, 3)).encode(x, y)
    error = bits.std(0).square().sum().sqrt().item() if len(bits) > 1 else 0.0
    net = WORD * len(made.words) - made.initial
    assert net == pytest.approx(bits.mean(0).sum().item(), rel=1e-3, abs=4.2 * error + 64)


def test_bit_swap_begins_with_the_bits_of_two_levels_at_most():
    """However many there are; bits back of all at once takes those of each."""
    model, one, taken = CASES["diffusion"].build(), Settings(1, 1, 16), {}
    x, _ = drawn(CASES["diffusion"], model, 4)
    for steps in (3, 24):
        by = scheme_of(model, Way(steps=steps)).model
        with numerics.repeatable():
            taken[steps] = [kind(by, one).encode(x[:1]).initial for kind in (BitSwap, BitsBack)]
        most = 2 * model.space.dims * max(grid.bits for grid in BitSwap(by, one).grids)
        assert taken[steps][0] <= most + 2 * WORD
    assert taken[24][1] > 5 * taken[3][1]
    assert taken[24][1] > 5 * taken[24][0]


def test_a_grid_is_finer_than_its_level_and_reaches_as_far():
    for extent in (Extent(0.001, 1.01), Extent(0.9, 9.0), Extent(0.5, 4.0)):
        grid = Grid.of(extent, 9)
        low, high = grid.values(np.array([0, 2**grid.bits - 1]))
        assert grid.step <= extent.narrowest / 48
        assert high == -low >= extent.farthest - grid.step


def test_a_lossy_file_is_of_the_codes_alone(tmp_path: Path):
    """What comes back is what they decode to, from a likelihood that is no probability too."""
    case = Case(vqvae(likelihood=VQVAE.Config().likelihood), GREY)
    model = case.build(0.3)
    x, _ = drawn(case, model, 20)
    with pytest.raises(ModelError, match=r"it says nothing of log p\(x\): .* --lossy keeps its codes$"):
        archive.write(tmp_path / "a.lb", model, x, {})
    written = archive.write(tmp_path / "a.lb", model, x, {}, way=Way(lossy=True))
    with Container(tmp_path / "a.lb") as container:
        assert Way.of(container) == Way(lossy=True)
        back = Archive(container, model)[0:20]
    with torch.no_grad():
        codes = model.codes(torch.from_numpy(x))
        mean = model.likelihood(codes).mean.numpy()
        said = -model.log_p_codes(codes).double().sum().item() / np.log(2)
    assert np.abs(back - mean.clip(0, 16)).max() < 0.51
    assert written.squared_error == np.square(back.astype(int) - x).sum() > 0
    assert written.net == pytest.approx(said, rel=5e-3, abs=WORD)
    with pytest.raises(ModelError, match="--lossy: the codes of a VQ-VAE alone, and a VAE has none"):
        archive.write(tmp_path / "b.lb", CASES["mixture prior"].build(), x, {}, way=Way(lossy=True))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            Case(DiscreteDiffusion.Config.example()[0], BINARY),
            "its bound is a mean over orders in which values are found",
        ),
        (Case(*MultiscaleFlow.Config.example()), "takes bits back for the noise that is put on them"),
        (
            Case(vae(prior=FullGaussianMixture.Config(components=2)), BINARY),
            "its prior is a .* needs independent normals",
        ),
        (Case(vae(), BINARY, (Space((2,)),)), "given the attributes of each image, which an image file does not say"),
        (Case(Diffusion.Config.example()[0], Space((2, 2, 2))), "its events are real numbers"),
        (Case(Categorical.Config(), Space((4,), levels=3)), "no probability of one value after another"),
    ],
    ids=["discrete diffusion", "flow", "full covariance", "attributes", "real numbers", "prior"],
)
def test_what_is_refused_says_why(case: Case, reason: str):
    model = case.build()
    with pytest.raises(ModelError, match=reason):
        scheme_of(model)
    assert why_not(model)


def test_the_steps_are_those_of_a_diffusion_model():
    model = CASES["diffusion"].build()
    assert scheme_of(model).way == Way(steps=16)
    assert scheme_of(model, Way(steps=5)).kind is BitSwap
    assert scheme_of(CASES["labelled diffusion"].build()).way == Way(steps=2)
    with pytest.raises(ModelError, match="steps=5: the model has 2 of its own"):
        scheme_of(CASES["labelled diffusion"].build(), Way(steps=5))
    with pytest.raises(ModelError, match="--steps 5: those of a diffusion model, and this is a VAE"):
        scheme_of(CASES["labelled vae"].build(), Way(steps=5))
    with pytest.raises(ModelError, match="--steps 0: expected 1 to"):
        scheme_of(model, Way(steps=0))
