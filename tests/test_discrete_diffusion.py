"""Discrete diffusion: its noise, its bound and its samples against enumeration."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lowerbound as lb
from command import call, right
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Draw
from lowerbound.models.discrete_diffusion import DiscreteDiffusion, posterior
from lowerbound.networks.residual import ResidualMLP
from lowerbound.pictures import save_png
from lowerbound.space import Density, Space
from lowerbound.testing.models import check_model

SPACE = Space((2, 2), levels=2, ordered=False)
EVENTS = torch.tensor(list(itertools.product(range(2), repeat=4))).view(-1, 2, 2)  # [16, 2, 2]
P = torch.linspace(-2, 2, 16, dtype=torch.float64)[torch.randperm(16, generator=torch.manual_seed(0))].softmax(0)


def built(**options) -> DiscreteDiffusion:
    network = ResidualMLP.Config(width=6, blocks=1)
    return DiscreteDiffusion.Config(network=network, embedding=2, context=4, **options).build(SPACE).double().eval()


class Exact(DiscreteDiffusion):
    """With the posterior of a world of which all is known in the place of the network."""

    def _log_probs(self, z: Tensor, t: Tensor | None, c: Tensor | None) -> Tensor:
        flat = z.flatten(2).unsqueeze(2)  # [K, B, 1, 4]
        x = EVENTS.view(16, 4)
        if self.masks:
            q = ((flat == x) | (flat == 2)).double()
        else:
            assert t is not None
            keep = (1 - t.double() / self.config.steps)[..., None, None]
            q = keep * (flat == x) + (1 - keep) / 2
        of = P * q.prod(3)  # [K, B, 16]
        of = of / of.sum(2, keepdim=True)
        one = of @ x.double()  # [K, B, 4]
        return torch.stack([1 - one, one], 2).log().clamp(min=-700).unflatten(3, (2, 2))


def exact(**options) -> Exact:
    return Exact(built(**options).config, SPACE).double().eval()


@pytest.mark.parametrize("options", [{"noise": "multinomial", "steps": 3}])
def test_it_is_a_model(options: dict):
    check_model(built(**options).config, SPACE, (Space((), 3, ordered=False), Space((1, 1), 4, ordered=False)))


def test_posterior_is_that_of_the_chain():
    K, T = 3, 4
    alphas = [1 - t / T for t in range(T + 1)]
    steps = [a / b * torch.eye(K) + (1 - a / b) / K for b, a in itertools.pairwise(alphas)]
    product = torch.eye(K)
    for t in range(1, T + 1):
        before, product = product, product @ steps[t - 1]
        assert torch.allclose(product, alphas[t] * torch.eye(K) + (1 - alphas[t]) / K, atol=1e-6)
        for x0, xt in itertools.product(range(K), repeat=2):
            if product[x0, xt] == 0:
                continue
            truth = before[x0] * steps[t - 1][:, xt] / product[x0, xt]
            p = torch.eye(K)[x0].view(1, 1, K, 1)
            found = posterior(torch.tensor([[[xt]]]), p, torch.tensor(alphas[t - 1]), torch.tensor(alphas[t]))
            assert torch.allclose(found.flatten(), truth, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"steps": 5}, {"noise": "multinomial", "steps": 5}])
def test_the_bound_of_an_exact_denoiser_is_one(options: dict):
    torch.manual_seed(0)
    with torch.no_grad():
        draws = exact(**options).bound_parts(EVENTS, draws=4000).bound
    bound, error = draws.mean(0), draws.std(0) / math.sqrt(4000)
    gap = (P * (P.log() - bound)).sum()
    assert gap > -4 * (P * error).square().sum().sqrt()
    assert (bound - 4 * error).exp().sum() <= 1
    if not options:  # drawn one by one, in whatever order, by the truth: nothing is lost
        assert ((bound - P.log()).abs() < 4 * error + 1e-9).all()


class Said(DiscreteDiffusion):
    """At given states, with given log-probabilities in the place of the network's."""

    z: Tensor
    log_p: Tensor

    def _noised(self, x: Tensor, t: Tensor) -> Tensor:
        return self.z

    def _log_probs(self, z: Tensor, t: Tensor | None, c: Tensor | None) -> Tensor:
        return self.log_p


@pytest.mark.parametrize("noise", ["absorbing", "multinomial"])
@pytest.mark.parametrize("t", [2, 3, 5])
def test_the_kl_of_a_step_is_what_its_transition_matrices_say(noise: str, t: int):
    """Of an element of three values, from each value and state: q and p by Bayes' rule."""
    K, T = 3, 5
    config = built(noise=noise, steps=T).config
    model = Said(config, Space((1, 1), K, ordered=False)).double().eval()
    S = K + model.masks

    def kept(a: float) -> Tensor:
        matrix = a * torch.eye(S, dtype=torch.float64)
        return matrix + ((1 - a) * torch.eye(S, dtype=torch.float64)[K] if model.masks else (1 - a) / K)

    share = (1 - t / T) / (1 - (t - 1) / T)
    joint = kept(1 - (t - 1) / T)[:K, None, :] * kept(share).T[None]  # q(x_s, x_t|x_0): [x_0, x_t, x_s]
    of = joint / joint.sum(-1, keepdim=True)
    x, z = (g.flatten() for g in torch.meshgrid(torch.arange(K), torch.arange(S), indexing="ij"))
    possible = joint.sum(-1)[x, z] > 0
    x, z = x[possible], z[possible]
    log_p = torch.randn(len(x), K, dtype=torch.float64, generator=torch.manual_seed(0)).log_softmax(-1)
    guess = log_p.exp()
    if model.masks:  # of what is not masked nothing is guessed
        guess = torch.where((z < K)[:, None], torch.eye(K, dtype=torch.float64)[z.clamp(max=K - 1)], guess)
    q, p = of[x, z], torch.einsum("nx,nxs->ns", guess, of[:, z].nan_to_num().movedim(1, 0))
    expected = torch.where(q > 0, q * (q / p).log(), 0).sum(-1)
    model.z, model.log_p = z.view(1, -1, 1, 1), log_p.view(1, -1, K, 1, 1)
    found = model._kl(x.view(-1, 1, 1), torch.full((1, len(x)), t), None)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert float(expected.max()) > 0.05


def test_draws_of_multinomial_noise_have_the_mean_of_all_steps():
    model, x = built(noise="multinomial", steps=4), EVENTS[[0, 5, 11]]
    states = EVENTS[None].transpose(0, 1)  # [16, 1, 2, 2]
    with torch.no_grad():
        draws = model.log_weights(x, draws=20_000)
        total = torch.zeros(3, dtype=torch.float64)
        for t in range(1, 5):
            keep = 1 - t / 4
            q = torch.where(states == x, keep + (1 - keep) / 2, (1 - keep) / 2).flatten(2).prod(2)  # [16, 3]
            at = Said(model.config, SPACE).double().eval()
            at.load_state_dict(model.state_dict())
            times = torch.full((16, 3), t)
            at.z = states.expand(16, 3, 2, 2)
            at.log_p = model._log_probs(at.z, times, None)
            total += (q * (at._cost(x, at.z, times, None) if t == 1 else at._kl(x, times, None))).sum(0)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) + total).abs() < 4 * error).all()


@pytest.mark.usefixtures("surroundings", "here")
def test_it_is_a_prior_of_codes_and_a_model_of_pixels_on_the_command_line(tmp_path: Path):
    """Over 5 s: a training of three stages, and five verbs."""
    kind, unet = "models.discrete_diffusion.DiscreteDiffusion", "networks.unet.UNet"
    small = [f"model.priors.{l}={kind}" for l in range(2)]
    small += [f"model.priors.{l}.network={unet}" for l in range(2)]
    small += [f"model.priors.{l}.network.widths=[8]" for l in range(2)]
    small += ["model.width=8", "model.inner=4", "train.steps=20", "train.stages.prior.steps=10", "train.valid_every=20"]
    right("train", "vqvae2-digits", "--out", "run", *small)
    save_png(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8), Path("a.png"))
    metrics = lb.evaluate("run", limit=20, metrics=["nll", "bits_per_code.top", "rate"])["metrics"]
    assert {name for name, m in metrics.items() if m["relation"] != "<="} == {"rate.pixels"}
    right("sample", "run", "-n", "3", "--label", "1", "--temperature", "top=0.5", "--top-k", "4", "--out", "s.npz")
    right("sample", "run", "--from", "a.png", "--keep-level", "top", "--label", "1", "-n", "2", "--out", "v.png")
    right("complete", "run", "a.png", "--keep", "rows:4", "--label", "1", "-n", "2", "--out", "c.png")
    right("score", "run", "digits", "--split", "valid", "--draws", "1", "--out", "s.csv")
    status, _, error = call("sample", "run", "-n", "2", "--steps", "2", "--out", "y.png")
    assert (status, "--steps: VQVAE does not take noise away step by step" in error) == (2, True), error
    pixels = [f"model.type={kind}", "model.noise=multinomial", "model.steps=8", f"model.network={unet}"]
    short = ["model.network.widths=[8]", "train.steps=10", "train.valid_every=10"]
    right("train", "diffusion-digits", "--out", "pixels", *pixels, *short)
    parts = lb.evaluate("pixels", limit=20)["metrics"]
    terms = sum(parts[f"{name}_term"]["value"] for name in ("prior", "reconstruction", "diffusion"))
    assert terms == pytest.approx(parts["bits_per_dim"]["value"], rel=1e-4)


def test_one_step_is_elements_by_themselves():
    parts = exact(steps=1).bound_parts(EVENTS)
    one = (P @ EVENTS.view(16, 4).double()).view(2, 2)
    truth = (EVENTS * one.log() + (1 - EVENTS) * (1 - one).log()).flatten(1).sum(1)
    assert torch.allclose(parts.bound[0], truth)
    assert not parts.prior.any()
    assert not parts.diffusion.any()


def _masked_sum(model: DiscreteDiffusion, weight) -> Tensor:
    """Sums over all masks of weight(m) times the cost of what is masked: [16]."""
    total = torch.zeros(16, dtype=torch.float64)
    for mask in EVENTS[1:].bool():
        z = torch.where(mask, 2, EVENTS)[None]
        total += weight(int(mask.sum())) * model._cost(EVENTS, z, None, None)[0]
    return total


@torch.no_grad()
def test_drawn_times_give_the_sum_over_all_and_many_steps_continuous_time():
    torch.manual_seed(1)
    model, continuous = exact(steps=3), exact()
    sums = lambda T: _masked_sum(  # noqa: E731
        model, lambda m: sum((t / T) ** m * (1 - t / T) ** (4 - m) / t for t in range(1, T + 1))
    )
    for of, truth in ((model, sums(3)), (continuous, _masked_sum(continuous, lambda m: 1 / m / math.comb(4, m)))):
        draws = -of.bound_parts(EVENTS, draws=4000).bound
        assert ((draws.mean(0) - truth).abs() < 4 * draws.std(0) / math.sqrt(4000) + 1e-9).all()
    assert torch.allclose(sums(4000), _masked_sum(continuous, lambda m: 1 / m / math.comb(4, m)), atol=5e-3)


def _agrees(x: Tensor, p: Tensor, slack: float = 0.0) -> None:
    n = len(x)
    share = (x.view(n, 1, 4).long() == EVENTS.view(16, 4)).all(2).double().mean(0)
    assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt() + 1e-12 + slack).all()


@pytest.mark.parametrize(("options", "slack"), [({}, 0.0), ({"noise": "multinomial", "steps": 100}, 0.006)])
def test_samples_of_an_exact_denoiser(options: dict, slack: float):
    torch.manual_seed(2)
    _agrees(exact(**options).sample(4000), P, slack)  # slack: of steps at which two elements change at once


def test_what_is_kept_is_kept_and_the_rest_follows_it():
    torch.manual_seed(3)
    model, kept = exact(), torch.tensor([[True, False], [False, True]])
    x = EVENTS[9]
    agree = (EVENTS[:, kept] == x[kept]).all(1)
    _agrees(model.complete(x.expand(4000, 2, 2), kept).x, P * agree / P[agree].sum())
    assert torch.allclose(model.log_p_kept(x[None], kept), P[agree].sum().log())


def test_temperature_zero_is_the_mode_and_fewer_steps_work():
    model = exact(noise="multinomial", steps=6)
    assert model.draw(3, how=Draw(temperature=0, steps=2)).x.shape == (3, 2, 2)
    assert exact().draw(3, how=Draw(temperature=0, steps=2)).x.max() < 2


def test_mistakes_are_told():
    for options, told in (({"noise": "multinomial"}, "set model.steps=100"), ({"steps": 0}, "above 0")):
        with pytest.raises((ConfigError, ValueError), match=told):
            built(**options)
    with pytest.raises(ConfigError, match="real numbers"):
        DiscreteDiffusion.Config().build(Space((3,)))
    with pytest.raises(ModelError, match="set at most 5"):
        built(steps=5).draw(1, how=Draw(steps=6))
    with pytest.raises(ModelError, match=r"model\.noise=absorbing"):
        built(noise="multinomial", steps=5).keeps(torch.ones(2, 2, dtype=torch.bool))
    assert built().density is Density.BOUND
    assert not built().unbiased
