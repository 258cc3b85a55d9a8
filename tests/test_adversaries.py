"""A model that is trained against a network that reads its codes: FactorVAE."""

import math

import pytest
import torch
from torch import Tensor

from lowerbound import testing
from lowerbound.errors import ConfigError
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import randn, seeded
from lowerbound.objectives import TotalCorrelation
from lowerbound.objectives.adversaries import permuted
from lowerbound.optimization import Adam
from lowerbound.runs import recipes
from lowerbound.space import Space
from lowerbound.stages import Loss
from test_train import Died, Told, assert_same_run, tensors, train

pytestmark = pytest.mark.usefixtures("surroundings")

SMALL = MLP.Config(hidden=(4,))
IMAGE = Space((1, 2, 2), levels=2)
OPPOSED = VAE.Config(
    latent=(3,),
    encoder=SMALL,
    decoder=SMALL,
    adversary=TotalCorrelation.Config(gamma=2.0, network=SMALL, optimizer=Adam(lr=0.01, beta1=0.5, beta2=0.9)),
)


CHECKS = ("loss", "gradients", "trains", "round_trips", "computes")


@pytest.mark.parametrize(
    "check", [c for c in testing.MODEL_CHECKS if c.__name__.startswith(tuple(f"model_{name}" for name in CHECKS))]
)
def test_a_model_with_an_adversary(check):
    check(testing.ModelCase.of(OPPOSED, IMAGE))


def test_its_training():
    testing.check_training(OPPOSED, IMAGE)


# ---- what is found


def correlated(n: int, rho: float) -> Tensor:
    """Draws of N(0, [[1, ρ], [ρ, 1]])."""
    a, b = randn((2, n))
    return torch.stack([a, rho * a + math.sqrt(1 - rho**2) * b], 1)


def test_it_finds_the_log_ratio_of_a_normal_and_the_product_of_its_marginals():
    rho = 0.8
    network = MLP.Config(hidden=(32, 32), activation="silu")
    with seeded("discriminator"):
        adversary = TotalCorrelation.Config(network=network).build(Space((2,)))
        optimizer = Adam(lr=5e-3).build(adversary.parameters())
        for step in range(500):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 500)
            adversary.zero_grad()
            loss = adversary.loss(correlated(512, rho), None)
            loss.value.backward()
            optimizer.step()
        z = correlated(20000, rho)
    x, y = z.T
    square = x**2 - 2 * rho * x * y + y**2
    ratio = -0.5 * math.log(1 - rho**2) - 0.5 * square / (1 - rho**2) + 0.5 * (x**2 + y**2)
    found = adversary.found(z, None)
    assert float((found - ratio).abs().mean()) < 0.1
    total = -0.5 * math.log(1 - rho**2)  # 0.511 nats
    assert float(found.mean()) == pytest.approx(total, abs=0.05)
    assert 0.6 < float(loss.terms["accuracy"].mean()) < 0.75


def test_elements_are_permuted_apart_and_stay_what_they_are():
    with seeded("permuted"):
        z = correlated(4000, 0.9)
        moved = permuted(z)
    assert torch.equal(moved.sort(0).values, z.sort(0).values)
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 4 / math.sqrt(4000)
    assert float((moved == z).float().mean()) < 0.01


def test_the_model_descends_the_bound_and_what_is_found_of_its_codes_alone():
    model, x = OPPOSED.build(IMAGE), torch.randint(0, 2, (16, 1, 2, 2), dtype=torch.uint8)
    plain = OPPOSED.model_copy(update={"adversary": None}).build(IMAGE)
    plain.load_state_dict({k: t for k, t in model.state_dict().items() if not k.startswith("adversary")})
    with seeded("loss"):
        loss = model.loss(x)
    with seeded("loss"):
        bound = plain.loss(x)
    found = loss.terms["total_correlation"].mean()
    assert torch.allclose(loss.value.detach(), bound.value.detach() + 2 * found)
    loss.value.backward()
    assert model.adversary is not None
    assert all(p.grad is None for p in model.adversary.parameters())
    bound.value.backward()
    pulled = [not torch.allclose(p.grad, q.grad) for p, q in zip(encoder(model), encoder(plain), strict=True)]
    assert all(pulled)
    (turn, against) = model.stages()[0].turns
    model.zero_grad()
    against.loss(x, None, 0).value.backward()
    assert all(p.grad is not None for p in model.adversary.parameters())
    assert all(p.grad is None for part in turn.parts for p in part.parameters())


def encoder(model: VAE) -> list:
    return list(model.encoder.parameters())


def test_its_weight_grows_over_the_warmup():
    config = TotalCorrelation.Config(gamma=2.0, warmup=10, network=SMALL)
    adversary, z, nothing = config.build(Space((3,))), torch.randn(8, 3), Loss(torch.zeros(()), {})
    found = float(adversary.found(z, None).mean().detach())
    grown = [float(adversary.opposing(nothing, z, None, step).value) for step in (0, 4, 9, 50)]
    assert grown == pytest.approx([0.2 * found, found, 2 * found, 2 * found])


# ---- a training


OPTIONS = [
    "model.latent=4",
    "model.adversary=objectives.TotalCorrelation",
    "model.adversary.network.type=networks.mlp.MLP",
    "model.adversary.network.hidden=[16]",
]


def test_it_is_killed_and_resumed_exactly(tmp_path):
    short = [*OPTIONS, "train.steps=20", "train.valid_every=20"]
    whole, out = train(tmp_path / "whole", *short).path, tmp_path / "parts"
    with pytest.raises(Died):
        train(out, *short, "train.save_seconds=1e-9", told=Told(dies=13))
    run = train(out, *short, "train.save_seconds=60", resume=True)
    assert_same_run(whole, out)
    state = tensors(out / "state/model.safetensors")
    assert {"optimizer.1.0.exp_avg", "guard.1.norms", "model.adversary.network.layers.0.weight"} <= state.keys()
    lines = [r for r in run.log.records() if r["split"] == "train"]
    assert {"elbo", "total_correlation", "loss", "adversary.loss", "adversary.accuracy"} <= lines[-1].keys()
    assert lines[0]["adversary.lr"] == pytest.approx(0.1 * lines[0]["lr"])  # of the recipe's 1e-3, by its schedule
    assert {r["kept"] for r in run.log.records() if r["split"] == "valid"} == {"the last averaged weights"}


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["train.batch=3"], r"train\.batch=3: objectives\.TotalCorrelation mixes .* set train\.batch=64"),
        (["model.latent=1"], r"model\.latent: a single element of z correlates with nothing"),
        (
            ["model.latent_levels=3", "model.posterior=families.Categorical", "model.prior=priors.Categorical"],
            r"model\.adversary: objectives\.TotalCorrelation reads real latents",
        ),
        (
            ["data.label=true", "data.labels=50", "model.classifier=networks.mlp.MLP"],
            r"model\.adversary: is for a model that learns no label",
        ),
        (["train.patience=2"], r"train\.patience=2: nothing scores the stage model"),
    ],
)
def test_what_can_not_be_opposed(tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        train(tmp_path / "run", *OPTIONS, *changes)
    assert not (tmp_path / "run").exists()


def test_other_models_have_no_adversary():
    with pytest.raises(ConfigError, match=r"model\.adversary: unknown key"):
        recipes.load("hvae-mnist", ["model.adversary=objectives.TotalCorrelation"])
