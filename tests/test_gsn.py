"""A generative stochastic network over the 2x2 binary world: its chain, by all of its 16 states."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from command import call, right, some_digits
from lowerbound.config import parse
from lowerbound.errors import ConfigError, ModelError, UserError
from lowerbound.families import Bernoulli, Categorical, DiagonalNormal
from lowerbound.model import Draw, Model
from lowerbound.models.gsn import GSN
from lowerbound.models.ppca import PPCA
from lowerbound.networks.mlp import MLP
from lowerbound.noise import multinomial, seeded
from lowerbound.objectives import Masking, SaltAndPepper
from lowerbound.space import Density, Space
from lowerbound.stages import some
from lowerbound.testing import LABEL
from lowerbound.testing.base import double, expect_frequencies, expect_mean, shake_parameters
from lowerbound.testing.models import check_model

SPACE = Space((1, 2, 2), levels=2)
WORLD = torch.tensor(list(itertools.product(range(2), repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)
P = torch.linspace(-2, 2, 16, dtype=torch.float64)[torch.randperm(16, generator=torch.manual_seed(0))].softmax(0)
SALT, MASKS = SaltAndPepper(fraction=0.4), Masking(fraction=0.5)


@pytest.fixture(autouse=True)
def in_double(request: pytest.FixtureRequest):
    if "tmp_path" in request.fixturenames:  # a run computes in float32
        yield
        return
    with double():
        yield


def corruption(of: SaltAndPepper | Masking) -> Tensor:
    """C(x̃|x) [16, 16], a row for each x: each pixel by itself."""
    f = of.fraction
    pixel = [[1 - f / 2, f / 2], [f / 2, 1 - f / 2]] if isinstance(of, SaltAndPepper) else [[1, 0], [f, 1 - f]]
    x = WORLD.flatten(1).long()
    return torch.tensor(pixel)[x[:, None], x[None]].prod(2)


class Joint(Distribution):
    """Any probabilities of the 16 images: logits [B, 16]."""

    def __init__(self, logits: Tensor):
        super().__init__(logits.shape[:-1], torch.Size(SPACE.shape), validate_args=False)
        self.logits = logits.log_softmax(-1)

    def sample(self, sample_shape=()) -> Tensor:
        return WORLD[multinomial(self.logits.exp(), 1)[:, 0]]

    def log_prob(self, value: Tensor) -> Tensor:
        return self.logits.gather(1, number(value)[:, None])[:, 0]


def number(x: Tensor) -> Tensor:
    """Which of the 16 images each is: [B]."""
    return (x.flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)


class Table(GSN):
    """With a p(x|x̃) of its own for each of the 16 images x̃, in the place of a network."""

    def __init__(self, config: GSN.Config, logits: Tensor):
        super().__init__(config, SPACE)
        self.table = torch.nn.Parameter(logits.clone())

    def _reconstruction(self, corrupted: Tensor, c: Tensor | None) -> Joint:
        return Joint(self.table[number(corrupted)])


def built(**options) -> GSN:
    """Of weights at random, whose pixels are drawn each by itself."""
    options = {"network": MLP.Config(hidden=(6,)), "corruption": SALT, "context": 4} | options
    with seeded("build"):
        model = GSN.Config(**options).build(SPACE)
    shake_parameters(model, scale=1.0)
    return model.eval()


@torch.no_grad()
def steps_of(model: GSN) -> Tensor:
    """The chain's matrix [16, 16], from each image to each: of C, and of what the model says of p(x|x̃)."""
    return corruption(model.config.corruption) @ reconstructions(model)


@torch.no_grad()
def reconstructions(model: GSN) -> Tensor:
    """p(x|x̃) [16, 16], a row for each x̃."""
    seen = SPACE.features(WORLD).repeat_interleave(16, 0)
    return model.reconstruction(seen).log_prob(WORLD.repeat(16, 1, 1, 1)).exp().view(16, 16)


def left_alone(T: Tensor) -> Tensor:
    """The distribution [16] that a chain comes to from anywhere."""
    found = torch.linalg.matrix_power(T, 2**20)
    assert float((found - found[:1]).abs().max()) < 1e-9
    return found[0]


def drawn_from(p: Tensor, n: int) -> Tensor:
    return WORLD[torch.multinomial(p, n, True, generator=torch.Generator().manual_seed(0))]


# ---- the chain


@pytest.mark.parametrize("noise", [SALT, MASKS])
def test_images_are_corrupted_as_it_says(noise):
    model, C = built(corruption=noise), corruption(noise)
    for i in (0, 6, 15):
        with seeded("corrupted", i):
            expect_frequencies(model.corrupted(WORLD[[i] * 4000]), C[i], WORLD)


@pytest.mark.parametrize("noise", [SALT, MASKS])
def test_with_the_exact_posterior_the_data_are_left_as_they_are(noise):
    """Bengio et al. (2013), theorem 1; each step is even as likely as its way back (detailed balance)."""
    joint = P[:, None] * corruption(noise)  # [x, x̃]
    model = Table(GSN.Config(corruption=noise), joint.T.log().clamp(min=-700))
    T = steps_of(model)
    assert float((T.sum(1) - 1).abs().max()) < 1e-12
    assert float((left_alone(T) - P).abs().max()) < 1e-10
    there = P[:, None] * T
    assert float((there - there.T).abs().max()) < 1e-12


@pytest.mark.parametrize("walkback", [1, 3])
def test_what_is_learned_leaves_the_data_as_they_are(walkback: int):
    """Of walkback as of denoising alone, though p(x|x̃) is another: that of all x̃ that steps away from x lead to."""
    model = Table(GSN.Config(corruption=SALT, walkback=walkback), torch.zeros(16, 16))
    assert float((left_alone(steps_of(model)) - P).abs().sum()) / 2 > 0.3
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    with seeded("training"):
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
            optimizer.zero_grad()
            model.loss(WORLD[multinomial(P, 1000)]).value.backward()
            optimizer.step()
    T = steps_of(model)
    assert float((left_alone(T) - P).abs().sum()) / 2 < 0.02
    exact = corruption(SALT) * P[:, None]
    exact = (exact / exact.sum(0)).T
    assert (float((reconstructions(model) - exact).abs().max()) < 0.05) == (walkback == 1)


@pytest.mark.parametrize("walkback", [1, 2, 3])
def test_the_loss_is_that_of_all_ways_back(walkback: int):
    """Its mean over all x̃ that each number of steps leads to: E -log p(x|x̃), x̃ ~ (C p)^(k-1) C."""
    model = built(walkback=walkback)
    C, T, log_p = corruption(SALT), steps_of(model), reconstructions(model).log()
    for i in (0, 9):
        x = WORLD[[i] * 20000]
        expected = [(torch.linalg.matrix_power(T, k) @ C)[i] @ -log_p[:, i] for k in range(walkback)]
        with seeded("loss", i):
            loss = model.loss(x)
        assert abs(float(loss.value.detach() - loss.terms["walkback"].mean())) < 1e-12
        expect_mean("the loss", loss.terms["walkback"], torch.stack(expected).mean())
        expect_mean("its first step", loss.terms["reconstruction"], expected[0])


@pytest.mark.parametrize("steps", [1, 3])
def test_samples_are_where_the_chain_is_after_its_steps(steps: int):
    model = built(steps=steps)
    T = steps_of(model)
    uniform = torch.full((16,), 1 / 16)
    with seeded("samples"):
        expect_frequencies(model.sample(4000), uniform @ torch.linalg.matrix_power(T, steps), WORLD)
        x = model.draw(4000, how=Draw(steps=2)).x
    expect_frequencies(x, uniform @ torch.linalg.matrix_power(T, 2), WORLD)


def test_states_come_one_after_another():
    """Two of them as often as p(x) T(x, x'), p that of a sample: of 256 pairs."""
    model = built(steps=2)
    T = steps_of(model)
    p = torch.full((16,), 1 / 16) @ torch.linalg.matrix_power(T, 2)
    with seeded("chain"):
        pairs = model.chain(8000, 2).flatten(1)
    world = torch.cat([WORLD.flatten(1).repeat_interleave(16, 0), WORLD.flatten(1).repeat(16, 1)], 1)
    expect_frequencies(pairs, (p[:, None] * T).flatten(), world)
    with seeded("same"):
        chain = model.chain(5, 4)
    with seeded("same"):
        assert torch.equal(chain[:, 0], model.sample(5))


def test_chains_begin_at_training_images():
    model = built(steps=1, starts=3)
    (stage,) = model.stages()
    assert stage.begin is not None
    stage.begin(iter([WORLD[:1], WORLD[5:6], WORLD[12:13]]))
    begins = torch.zeros(16)
    begins[[0, 5, 12]] = 1 / 3
    with seeded("samples"):
        expect_frequencies(model.sample(4000), begins @ steps_of(model), WORLD)


def test_as_many_training_images_are_kept_as_there_are_at_most():
    (stage,) = built(starts=3).stages()
    assert stage.begin is not None
    with pytest.raises(ModelError, match=r"model\.starts=3: there are 2 training images"):
        stage.begin(iter([WORLD[:2]]))


def test_some_events_are_any_of_all():
    with seeded("some"):
        found = torch.stack([some(iter([WORLD[:3], WORLD[3:4], WORLD[4:10]]), 4) for _ in range(600)])
    assert all(len(x.flatten(1).unique(dim=0)) == 4 for x in found)
    kept = (number(found.flatten(0, 1))[:, None] == torch.arange(10)).double()
    expect_mean("how often each is kept", kept.view(600, 4, 10).sum(1), 0.4)


def test_what_is_kept_never_changes_and_the_rest_walks():
    model = built(steps=3)
    x, kept = WORLD[6], torch.tensor([[True, False], [False, True]])  # 0 1 1 0
    stays = (WORLD.view(16, 4) == x.view(4))[:, kept.flatten()].all(1)  # [16]
    C, R = corruption(SALT), reconstructions(model)
    free = (~kept).flatten()
    same = (WORLD.view(16, 1, 4) == WORLD.view(1, 16, 4))[..., free].all(2).double()  # [16, 16]: where it is free
    T = C @ (R @ same) * stays  # of all images that differ where it is kept alone, the one that it is kept in
    p = stays / stays.sum() @ torch.linalg.matrix_power(T, 3)
    with seeded("complete"):
        done = model.complete(x.expand(4000, 1, 2, 2), kept).x
    assert bool((done == x)[..., kept].all())
    expect_frequencies(done, p, WORLD)


def test_means_are_those_that_the_last_state_is_drawn_around():
    model = built(steps=2)
    with seeded("mean"):
        mean = model.draw(4000, how=Draw(mean=True)).x
    p = torch.full((16,), 1 / 16) @ torch.linalg.matrix_power(steps_of(model), 2)
    assert mean.is_floating_point()
    expect_mean("the mean", mean.flatten(1), p @ WORLD.flatten(1).double())
    assert 1 < len(mean.flatten(1).unique(dim=0)) <= 16  # of each x̃
    assert model.chain(3, 5, how=Draw(mean=True)).is_floating_point()


def test_at_temperature_0_a_step_takes_the_likeliest_image():
    model = built(steps=1)
    likeliest = reconstructions(model).argmax(1)
    with seeded("cold"):
        found = number(model.sample(500, temperature=0.0))
    assert set(found.tolist()) <= set(likeliest.tolist())


# ---- other worlds


@pytest.mark.parametrize(
    ("config", "space", "given"),
    [
        (GSN.Config(network=MLP.Config(hidden=(5,)), likelihood=Categorical(), steps=2), Space((3, 2, 2), 5), (LABEL,)),
        (GSN.Config(network=MLP.Config(hidden=(5,)), likelihood=DiagonalNormal(), steps=2), Space((2,)), ()),
        (GSN.Config(network=MLP.Config(hidden=(5,)), likelihood=Categorical(), steps=2), Space((2, 2), 3, False), ()),
    ],
    ids=["three channels given a label", "a vector of real numbers", "codes"],
)
def test_it_is_a_model(config: Model.Config, space: Space, given):
    check_model(config, space, given)


# ---- what the user is told


def test_it_says_nothing_of_log_p():
    model = built()
    assert model.density is Density.NONE
    with pytest.raises(ModelError, match=r"Markov chain.*autoregressive model.*VAE"):
        model.log_density(WORLD)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"walkback": 0}, "walkback: expected a whole number above 0, got 0"),
        ({"steps": 0}, "steps: expected a whole number above 0, got 0"),
        ({"starts": -1}, "starts: expected a whole number of at least 0, got -1"),
        ({"corruption": {"type": "objectives.SaltAndPepper", "fraction": 0}}, "fraction.*above 0"),
        ({"corruption": {"type": "objectives.SaltAndPepper", "fraction": 1}}, "fraction.*below 1"),
        ({"corruption": {"type": "objectives.GaussianNoise", "scale": 0}}, "scale.*above 0"),
    ],
)
def test_what_is_wrong_with_a_configuration(wrong: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        parse(Model.Config, {"type": "models.gsn.GSN", **wrong})


def test_chains_draw_from_distributions_over_the_images():
    with pytest.raises(ConfigError, match=r"model.likelihood.*families.Bernoulli is no distribution over 17 levels"):
        GSN.Config(likelihood=Bernoulli()).build(Space((1, 2, 2), levels=17))


def test_what_is_wrong_with_a_draw():
    model = built()
    for length in (0, -1, 1.5):
        with pytest.raises(ModelError, match="length: expected a whole number of at least 1"):
            model.chain(2, length)  # pyright: ignore[reportArgumentType]
    for n in (0, -1):
        with pytest.raises(ModelError, match="n: expected a whole number of at least 1"):
            model.chain(n, 2)
    with pytest.raises(ModelError, match="the mask is of"):
        model.complete(WORLD[:1], torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ModelError, match="--guidance"):
        model.draw(2, how=Draw(guidance=2.0))
    other = PPCA.Config(latent=1).build(Space((1, 2, 2), levels=2))
    with pytest.raises(UserError, match="--steps"):
        other.draw(2, how=Draw(steps=3))


# ---- a run


def test_a_run_of_it(tmp_path: Path):
    small = ["model.network.hidden=[16]", "model.steps=3", "model.starts=5", "train.steps=20", "train.batch=16"]
    out, data = tmp_path / "run", some_digits(tmp_path / "digits.npz", 200)
    right("train", "gsn-digits", "--data", data, "--out", out, *small)
    assert (out / "pictures" / "chain.png").exists()
    found = right("evaluate", out, "--json").json["metrics"]
    assert (found["nll"]["relation"], found["nll"]["value"]) == ("?", None)
    told = call("evaluate", out, "--metrics", "nll")
    assert told.status == 2
    assert "VAE" in told.err
    quality = right("evaluate", out, "--metrics", "frechet,precision", "--json").json["metrics"]
    assert math.isfinite(quality["frechet"]["value"])
    right("sample", out, "-n", "2", "--steps", "7", "--mean", "--out", tmp_path / "x.png")
    right("complete", out, tmp_path / "x.png", "--keep", "top:0.5", "-n", "2", "--out", tmp_path / "done.npz")
    model = lb.load(out)
    assert isinstance(model, GSN)
    assert len(model.starts.flatten(1).unique(dim=0)) > 1
