"""Gradients through draws of whole numbers: the mean of an unbiased estimator's is that of the sum over all values.

Where all that is drawn can be counted, to machine precision; else within 4 standard errors of a paired difference.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lowerbound as lb
from command import call, right
from lowerbound.config import components, parse
from lowerbound.distributions import Bernoulli, Categorical
from lowerbound.errors import ConfigError
from lowerbound.estimators import (
    ARM,
    REBAR,
    RLOO,
    VIMCO,
    DisARM,
    Enumeration,
    Estimator,
    GumbelSoftmax,
    Pathwise,
    Reinforce,
    StraightThrough,
    StraightThroughGumbel,
)
from lowerbound.estimators.relaxed import conditional, gumbels, hardened
from lowerbound.estimators.scores import LeftOut, Scored, Signalled
from lowerbound.families import Bernoulli as BernoulliFamily
from lowerbound.families import Categorical as CategoricalFamily
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import IWAE
from lowerbound.priors import Categorical as CategoricalPrior
from lowerbound.priors import GaussianMixture, StandardNormal
from lowerbound.space import Space
from lowerbound.testing.base import all_events, shake_parameters

ERRORS = 4.0  # standard errors
BITS = Space((4,), levels=2)
THREES = Space((3,), levels=3, ordered=False)
OF_ANY = [Reinforce(), RLOO(), REBAR(), REBAR(eta=0.3, temperature=1.0), Enumeration()]
UNBIASED = [*OF_ANY, ARM(), DisARM()]  # of binary variables
BIASED = [GumbelSoftmax(), StraightThroughGumbel(), StraightThrough()]

pytestmark = pytest.mark.usefixtures("double")


def logits(space: Space) -> Tensor:
    with seeded("logits", str(space)):
        shape = space.shape if space.ordered else (space.levels or 0, *space.shape)
        return torch.randn(shape).requires_grad_()


def posterior(space: Space, at: Tensor, n: int = 1) -> Bernoulli | Categorical:
    kind = Bernoulli if space.ordered else Categorical
    return kind(at.expand(n, *at.shape), space)


def target(space: Space, features: Tensor, at: Tensor) -> Tensor:
    """f(z) of features [..., *feature_shape], smooth between whole numbers, and a function of the logits too."""
    flat = features.flatten(-len(space.feature_shape))
    with seeded("target", str(space)):
        a, b = torch.randn(flat.shape[-1]), torch.randn(flat.shape[-1], flat.shape[-1])
    return torch.tanh(flat @ a) + ((flat @ b) * flat).sum(-1) + 0.3 * (flat * at.flatten()).sum(-1).sin()


def features(space: Space, z: Tensor) -> Tensor:
    if z.is_floating_point():
        return z
    flat = space.features(z.reshape(-1, *space.shape)).to(torch.float64)
    return flat.view(*z.shape[: z.dim() - len(space.shape)], *space.feature_shape)


def exact(space: Space) -> tuple[Tensor, Tensor]:
    """E_q[f] and its gradient to the logits, by going through all values."""
    at, states = logits(space), all_events(space, 256)
    assert states is not None
    q = posterior(space, at)
    p = q.log_prob(states[:, None]).exp()[:, 0]
    value = (p * target(space, features(space, states), at)).sum()
    (gradient,) = torch.autograd.grad(value, at)
    return value.detach(), gradient


def estimated(estimator: Estimator, space: Space, batch: int, draws: int = 2) -> tuple[Tensor, Tensor]:
    """Values [batch] and gradients [batch, *logits] of independent estimates."""
    at = logits(space)
    many = at.detach().expand(batch, *at.shape).clone().requires_grad_()
    q = (Bernoulli if space.ordered else Categorical)(many, space)
    drawn = estimator.draw(q, draws)
    assert len(drawn.z) == estimator.rows(q, draws)
    flat = features(space, drawn.z).flatten(-len(space.feature_shape))
    own = many.flatten(-len(space.feature_shape))
    with seeded("target", str(space)):
        a, b = torch.randn(flat.shape[-1]), torch.randn(flat.shape[-1], flat.shape[-1])
    f = torch.tanh(flat @ a) + ((flat @ b) * flat).sum(-1) + 0.3 * (flat * own).sum(-1).sin()
    value = drawn.mean(f)
    (gradient,) = torch.autograd.grad(value.sum(), many)
    return value.detach(), gradient


@pytest.mark.parametrize(
    ("estimator", "space"), [*((e, BITS) for e in UNBIASED), *((e, THREES) for e in OF_ANY)], ids=str
)
def test_the_mean_gradient_is_that_of_the_sum_over_all_values(estimator: Estimator, space: Space):
    value, gradient = exact(space)
    values, gradients = estimated(estimator, space, 100_000)
    for found, truth in ((values, value), (gradients, gradient)):
        error = found.std(0) / math.sqrt(len(found)) + 1e-9
        assert ((found.mean(0) - truth).abs() / error).max() < ERRORS
    assert float((gradients.std(0) / math.sqrt(len(gradients))).norm() / gradient.norm()) < 0.03  # it would be seen
    assert not estimator.biased


def test_enumeration_is_exact_and_of_no_noise():
    for space in (BITS, THREES):
        value, gradient = exact(space)
        values, gradients = estimated(Enumeration(), space, 3)
        torch.testing.assert_close(values, value.expand(3))
        torch.testing.assert_close(gradients, gradient.expand(3, *gradient.shape))


def every_draw(space: Space, n: int) -> tuple[Tensor, Tensor]:
    """All that n draws can be: [n, P, *shape], and the probability of each, [P]."""
    states = all_events(space, 256)
    assert states is not None
    tuples = torch.tensor(list(itertools.product(range(len(states)), repeat=n)))
    z = states[tuples].movedim(1, 0)
    q = posterior(space, logits(space))
    return z, q.log_prob(z).sum(0).exp().detach()


@pytest.mark.parametrize("space", [Space((2,), levels=2), Space((2,), levels=3, ordered=False)])
def test_score_estimators_are_exact_over_all_draws(space: Space):
    """Reinforce of one draw, RLOO of two: the sum over all that can be drawn, to machine precision."""
    _, gradient = exact(space)
    for kind, n in ((Scored, 1), (LeftOut, 2), (LeftOut, 3)):
        z, p = every_draw(space, n)
        at = logits(space)
        drawn = kind(z, None, posterior(space, at).log_prob(z))
        mean = drawn.mean(target(space, features(space, z), at))
        (found,) = torch.autograd.grad((p * mean).sum(), at)
        torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)


def test_disarm_is_exact_over_the_joint_of_its_pairs():
    """Each bit and its antithetic one are (1, 0), (0, 1) or equal, with probabilities 1 - p, 1 - p, 2p - 1."""
    space = Space((2,), levels=2)
    _, gradient = exact(space)
    at, total = logits(space), torch.zeros(2)
    s = at.detach().sigmoid()
    p = torch.maximum(s, 1 - s)
    for pairs in itertools.product(range(3), repeat=2):
        z, other, weight = torch.zeros(2), torch.zeros(2), torch.ones(())
        for i, kind in enumerate(pairs):
            equal = float(at[i] > 0)
            z[i], other[i] = ((1, 0), (0, 1), (equal, equal))[kind]
            weight = weight * (2 * p[i] - 1 if kind == 2 else 1 - p[i])
        w = DisARM().weights(torch.rand(2), at.detach(), z > 0, other > 0)
        f, f_other = (target(space, b, at.detach()) for b in (z, other))
        total += weight * (f - f_other) * w
    fixed = at.detach()
    states = all_events(space, 256)
    assert states is not None
    q = posterior(space, at)
    value = (q.log_prob(states[:, None]).exp()[:, 0] * target(space, features(space, states), fixed)).sum()
    (score,) = torch.autograd.grad(value, at)
    torch.testing.assert_close(total, score, rtol=0, atol=1e-12)
    assert not torch.allclose(score, gradient)  # which has the part that goes not through the draws too


def test_vimco_is_exact_over_all_draws():
    """The gradient of E[log mean w] for two draws, by all pairs of values."""
    space = Space((2,), levels=2)
    z, _ = every_draw(space, 2)
    at = logits(space)
    log_q = posterior(space, at).log_prob(z)
    log_w = target(space, features(space, z), at) - log_q
    p = log_q.sum(0).exp()
    bound = torch.logsumexp(log_w, 0) - math.log(2)
    (truth,) = torch.autograd.grad((p * bound).sum(), at, retain_graph=True)
    drawn = Signalled(z, None, log_q)
    (found,) = torch.autograd.grad((p.detach() * drawn.log_mean(log_w)).sum(), at)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)


def test_what_vimco_compares_with_lowers_the_variance():
    """Over all pairs of draws, against the bound as it is: no sign of what is compared with biases the gradient."""
    space = Space((2,), levels=2)
    z, p = every_draw(space, 2)
    squares = []
    for kind in (Signalled, None):
        at = logits(space).detach().expand(len(p), 2).clone().requires_grad_()
        log_q = Bernoulli(at, space).log_prob(z)
        log_w = (5 + target(space, features(space, z), logits(space)) - log_q).detach()
        bound = torch.logsumexp(log_w, 0) - math.log(2)
        value = (bound * log_q.sum(0)) if kind is None else kind(z, None, log_q).log_mean(log_w)
        (each,) = torch.autograd.grad(value.sum(), at)
        squares.append((p * each.square().sum(-1)).sum())
    assert squares[0] < 0.1 * squares[1]


def test_summing_noise_out_lowers_the_variance():
    with seeded("variance"):
        arm, disarm, reinforce = (estimated(e, BITS, 40_000, 1)[1].var(0).sum() for e in (ARM(), DisARM(), Reinforce()))
    assert disarm < arm < reinforce


def test_draws_of_relaxed_estimators():
    """The largest of noisy logits is a draw of q at any temperature; near temperature 0, so is the relaxed draw."""
    for space in (BITS, THREES):
        q = posterior(space, logits(space).detach())
        n = 50_000
        z = hardened(q, gumbels(q, n)).mean((0, 1))
        p = q.mean[0] if isinstance(q, Bernoulli) else q.log_probs.exp()[0]
        assert ((z - p).abs() < ERRORS * (p * (1 - p) / n).sqrt()).all()
        soft = GumbelSoftmax(temperature=1e-3).draw(q, 2000).z
        assert ((soft < 1e-3) | (soft > 1 - 1e-3)).double().mean() > 0.99
        for estimator in (StraightThroughGumbel(), StraightThrough()):
            hard = estimator.draw(q, 500).z
            assert torch.equal(hard, hard.round())
            assert hard.shape == (500, 1, *space.feature_shape)
        given = hardened(q, gumbels(q, 500))
        assert torch.equal(hardened(q, conditional(q, given, torch.rand_like(given).clamp(1e-6, 1 - 1e-6))), given)
    assert all(e.biased for e in BIASED)


def test_the_conditional_noise_has_the_distribution_of_the_noise():
    """Noisy logits, drawn at once or by way of the whole number they stand for, are alike."""
    for space in (BITS, THREES):
        q = posterior(space, logits(space).detach())
        n = 40_000
        once = gumbels(q, n)
        hard = hardened(q, gumbels(q, n))
        twice = conditional(q, hard, torch.rand_like(hard).clamp(1e-12, 1 - 1e-12))
        for power in (1, 2):
            a, b = once**power, twice**power
            error = ((a.var(0) + b.var(0)) / n).sqrt()
            assert ((a.mean(0) - b.mean(0)).abs() / error).max() < ERRORS


def test_gradients_at_certain_logits_are_finite():
    """Values of a probability of e^-200, whose reciprocal is no number in single precision."""
    torch.set_default_dtype(torch.float32)
    far = torch.tensor([[0.0, 200.0, -200.0]] * 3).T
    for estimator in (REBAR(), GumbelSoftmax(temperature=0.1), StraightThroughGumbel(), RLOO()):
        at = far.clone().requires_grad_()
        drawn = estimator.draw(Categorical(at[None], THREES), 50)
        f = features(THREES, drawn.z).to(torch.float32).flatten(2).sin().sum(-1)
        (gradient,) = torch.autograd.grad(drawn.mean(f).sum(), at)
        assert torch.isfinite(gradient).all(), estimator


def test_the_temperature_goes_from_one_to_the_other():
    e = GumbelSoftmax(temperature=1.0, end=0.25, steps=100)
    assert [e.at(0), e.at(50), e.at(100), e.at(1000)] == pytest.approx([1.0, 0.5, 0.25, 0.25])
    assert GumbelSoftmax(temperature=0.7).at(500) == 0.7


# ---- in a model


WORLD = Space((1, 2, 2), levels=2)
SMALL = MLP.Config(hidden=(4,))


def discrete(estimator: Estimator | None = None, levels: int = 2, latent: int = 3, **parts: object) -> VAE:
    family = BernoulliFamily() if levels == 2 else CategoricalFamily()
    made = {"latent": latent, "latent_levels": levels, "posterior": family, "estimator": estimator} | parts
    prior = CategoricalPrior.Config(learned=True)
    config = VAE.Config(**{"prior": prior, "encoder": SMALL, "decoder": SMALL} | made)  # pyright: ignore
    with seeded("discrete"):
        model = config.build(WORLD)
    shake_parameters(model, "discrete")
    return model


def gradient(model: VAE, value: Tensor) -> Tensor:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(model.parameters(), found, strict=True)]
    )


def exact_loss(model: VAE, x: Tensor) -> Tensor:
    """Minus the evidence lower bound, by going through all latents: a scalar."""
    states = all_events(model.latent, 256)
    assert states is not None
    z = states[:, None].expand(-1, len(x), *model.latent.shape)
    log_q = model.encode(x).log_prob(z)
    log_w = model.decode(z).log_prob(x) + model.prior_of(0).log_prob(z) - log_q
    return -(log_q.exp() * log_w).sum(0).mean()


@pytest.mark.parametrize(("estimator", "levels"), [*((e, 2) for e in UNBIASED), *((e, 3) for e in OF_ANY)], ids=str)
def test_a_model_is_trained_by_the_gradient_of_its_bound(estimator: Estimator, levels: int):
    world = all_events(WORLD, 256)
    assert world is not None
    model = discrete(estimator, levels, latent=2)
    truth = exact_loss(model, world[5:6])
    many, found = world[5:6].expand(400, *WORLD.shape), []
    exact_gradient = gradient(model, truth)
    for _ in range(60):
        loss = model.loss(many)
        found.append(gradient(model, loss.value))
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(len(found)) + 1e-9
    assert ((found.mean(0) - exact_gradient).abs() / error).max() < ERRORS + 0.5  # of some hundred weights the largest
    assert float(error.norm() / exact_gradient.norm()) < 0.1


def test_importance_weighted_by_vimco_and_by_enumeration():
    world = all_events(WORLD, 256)
    assert world is not None
    states = all_events(Space((2,), levels=2), 256)
    assert states is not None
    model = discrete(VIMCO(), latent=2, objective=IWAE(draws=2))
    x = world[6:7]
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    z = states[pairs].movedim(1, 0)  # [2, 16, 2]
    many = x.expand(16, *WORLD.shape)
    log_q = model.encode(many).log_prob(z)
    log_w = model.decode(z).log_prob(many) + model.prior_of(0).log_prob(z) - log_q
    truth = -(log_q.sum(0).exp() * (torch.logsumexp(log_w, 0) - math.log(2))).sum()
    expected = gradient(model, truth)
    found = torch.stack([gradient(model, model.loss(x.expand(500, *WORLD.shape)).value) for _ in range(60)])
    error = found.std(0) / math.sqrt(len(found)) + 1e-9
    assert ((found.mean(0) - expected).abs() / error).max() < ERRORS + 0.5
    every = discrete(Enumeration(), latent=2, objective=IWAE(draws=1))
    every.load_state_dict(model.state_dict())
    z = states[:, None].expand(-1, len(world), 2)
    log_p = torch.logsumexp(every.decode(z).log_prob(world) + every.prior_of(0).log_prob(z), 0)
    torch.testing.assert_close(-every.loss(world).value, log_p.mean())  # the bound of all values is log p(x)
    torch.testing.assert_close(log_p.exp().sum(), torch.ones(()))


def test_evaluation_draws_whole_numbers_whatever_trains_it():
    model = discrete(GumbelSoftmax(), 3)
    world = all_events(WORLD, 256)
    assert world is not None
    with torch.no_grad():
        terms = model.elbo_terms(world, draws=5)
    assert terms.z[0].dtype == torch.int64
    assert model.encode(world).mode.shape == (16, 3)
    assert model.features(world).shape == (16, 9)
    torch.testing.assert_close(model.features(world).view(16, 3, 3).sum(1), torch.ones(16, 3))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"levels": 3, "estimator": DisARM()}, "has 3 values a variable, and estimators.DisARM is for two; use"),
        ({"estimator": VIMCO()}, "is for objectives.IWAE, got objectives.ELBO; use estimators.RLOO"),
        ({"estimator": VIMCO(), "objective": IWAE(draws=1)}, "set model.objective.draws=5"),
        ({"estimator": RLOO(), "objective": IWAE(draws=3)}, "use estimators.VIMCO"),
        ({"estimator": Pathwise()}, "can't be reparameterized"),
        ({"levels": 10, "latent": 20, "estimator": Enumeration()}, r"has 1e\+20 values, and estimators.Enumeration"),
        ({"latent_levels": None}, "set model.latent_levels"),
        ({"posterior": CategoricalFamily()}, "z takes 2 values, got families.Categorical; use families.Bernoulli"),
        ({"levels": 3, "posterior": BernoulliFamily()}, "z takes 3 values, got families.Bernoulli; use families.Cat"),
        ({"prior": GaussianMixture.Config()}, "GaussianMixture is over real numbers, and z takes 2 values; use"),
        ({"prior": StandardNormal.Config()}, "z takes 2 values; use priors.Categorical"),
    ],
)
def test_what_does_not_go_together_is_said(parts: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        discrete(**parts)  # pyright: ignore[reportArgumentType]


def test_a_biased_estimator_says_so_when_it_trains(tmp_path: Path):
    torch.set_default_dtype(torch.float32)
    words = ["model.posterior=families.Categorical", "model.latent_levels=3", "model.prior=priors.Categorical"]
    for kind, said in (("GumbelSoftmax", True), ("RLOO", False)):
        done = right(
            "train", "vae", *words, f"model.estimator=estimators.{kind}", "train.steps=1", "--out", tmp_path / kind
        )
        assert ("is biased" in done.err) == said


def test_every_estimator_says_whether_it_is_biased():
    kinds = {kind.type_name(): kind.biased for kind in components(Estimator)}
    assert [name for name, biased in kinds.items() if biased] == [
        "estimators.GumbelSoftmax",
        "estimators.StraightThrough",
        "estimators.StraightThroughGumbel",
    ]
    with pytest.raises(ConfigError, match="temperature"):
        parse(GumbelSoftmax, {"temperature": 0.0})


@pytest.mark.parametrize("kind", ["Bernoulli", "Categorical"])
def test_the_command(kind: str, tmp_path: Path):
    torch.set_default_dtype(torch.float32)
    run = tmp_path / "run"
    levels = 2 if kind == "Bernoulli" else 5
    words = [f"model.posterior=families.{kind}", f"model.latent_levels={levels}", "model.prior=priors.Categorical"]
    small = ["model.encoder.hidden=[16]", "model.decoder.hidden=[16]", "train.steps=30", "train.valid_every=30"]
    right("train", "vae", *words, *small, "--out", run)
    report = right("evaluate", run, "--limit", "50", "--draws", "5", "--json").json["metrics"]
    assert report["nll"]["relation"] == "<="
    assert report["nll"]["value"] < -report["elbo"]["value"]
    right("sample", run, "-n", "4", "--out", tmp_path / "x.png")
    right("score", run, "digits", "--out", tmp_path / "s.csv")
    right("doctor", run)
    right("compare", run)
    right("encode", run, "--split", "test", "--out", tmp_path / "z.npz")
    with np.load(tmp_path / "z.npz") as file:
        assert file["codes_z"].shape == (189, 10)
        assert file["codes_z"].max() < levels
        assert file["z"].shape == (189, 10 if levels == 2 else 50)
    shown = right("traverse", run, "--top", "3", "--out", tmp_path / "t.npz", "--json").json
    assert shown["kl"] == sorted(shown["kl"], reverse=True)
    with np.load(tmp_path / "t.npz") as file:
        assert file["x"].shape[0] == 3 * levels
    assert "expected a number from 0 to 9" in call("traverse", run, "--dims", "10", "--out", tmp_path / "u.png").err
    images = tmp_path / "made"
    right("sample", run, "-n", "1", "--out", images)
    (image,) = images.glob("*.png")
    top = levels - 1
    right("edit", run, image, "--set", f"3={top}", "--out", tmp_path / "e.npz")
    right("traverse", run, image, "--dims", "3", "--out", tmp_path / "t3.npz")
    with np.load(tmp_path / "e.npz") as edited, np.load(tmp_path / "t3.npz") as through:
        np.testing.assert_allclose(edited["x"][0], through["x"][top], atol=1e-5)
    for words, message in (
        (("--set", f"3={levels}"), f"expected a whole number from 0 to {top}"),
        (("--set", "3=0.5"), "expected a whole number"),
        (("--direction", "smile"), "these latents take whole ones"),
        (("--set", "3=1", "--strength-grid", "0,1"), "these latents take whole ones"),
        (("--set", "10=0"), "from 0 to 9"),
    ):
        assert message in call("edit", run, image, *words, "--out", tmp_path / "f.png").err
    assert "takes latents of real numbers" in call("fit-prior", run).err
    units = right("evaluate", run, "--limit", "50", "--metrics", "active_units", "--json").json["metrics"]
    assert units["active_units"]["unit"] == "of 10"
    refused = call("interpolate", run, tmp_path / "x.png", tmp_path / "x.png", "--out", tmp_path / "i.png")
    assert refused.status == 2
    assert "Traceback" not in refused.err
    assert lb.load(run, device="cpu").sample(3).shape == (3, 1, 8, 8)
