"""What people give to a loaded model: arrays, lists, other types; taken where it has one meaning, else answered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from lowerbound.chunks import log_density
from lowerbound.config import components
from lowerbound.data.base import Images
from lowerbound.data.batches import Batch, Batches
from lowerbound.errors import ConfigError, ModelError
from lowerbound.families import DiagonalNormal, Family, SharedScaleNormal
from lowerbound.metrics.base import World, measure
from lowerbound.model import LatentModel, Model, rows_of
from lowerbound.models.vae import VAE
from lowerbound.networks.context import Context
from lowerbound.networks.mlp import MLP
from lowerbound.priors import StandardNormal
from lowerbound.space import Density, Space
from lowerbound.testing import LABEL, ModelCase

SMALL = MLP.Config(hidden=(4,))
PIXELS = Space((1, 2, 2), levels=3)


def vae(given: tuple[Space, ...] = (), space: Space = PIXELS, **parts: Any) -> VAE:
    config = VAE.Config(**{"latent": 2, "encoder": SMALL, "decoder": SMALL, "likelihood": DiagonalNormal()} | parts)  # pyright: ignore
    return config.build(space, given).eval()


def doors(model: LatentModel) -> dict[str, Callable[[Any, Any], Any]]:
    return {
        "log_density": lambda x, y: model.log_density(x, y),
        "elbo": lambda x, y: model.elbo(x, y),
        "encode": lambda x, y: model.encode(x, y).mean,
        "features": lambda x, y: model.features(x, y),
        "vector_posterior": lambda x, y: model.vector_posterior(x, y).mean,
        "edit": lambda x, y: model.edit(x, {}, y),
        "reconstruct": lambda x, y: model.reconstruct(x, y),
    }


WRONG = {
    "floats": (torch.rand(3, 1, 2, 2), "whole numbers in"),
    "out of range": (torch.full((3, 1, 2, 2), 3, dtype=torch.uint8), r"values in \[0, 3\), got 3 to 3"),
    "negative": (torch.full((3, 1, 2, 2), -1), "got -1"),
    "booleans": (torch.zeros(3, 1, 2, 2).bool(), "got torch.bool"),
    "of another shape": (torch.zeros(3, 2, 2).byte(), r"takes \[1, 2, 2\]"),
    "none": (torch.zeros(0, 1, 2, 2).byte(), "empty"),
    "words": (["a", "b"], "expected a tensor or an array of numbers"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("door", doors(vae()))
def test_events_that_are_none(door: str, wrong: str):
    x, match = WRONG[wrong]
    with pytest.raises(ModelError, match=match):
        doors(vae())[door](x, None)


@pytest.mark.parametrize("door", doors(vae()))
def test_events_and_labels_of_numpy(door: str):
    model, x = vae((LABEL,)), torch.randint(0, 3, (4, 1, 2, 2), dtype=torch.uint8)
    y = torch.tensor([0, 2, 1, 1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = doors(model)[door](x, y)
        for labels in (y.tolist(), y.numpy(), y.int(), y.numpy().astype(np.uint8)):
            torch.manual_seed(0)
            assert torch.equal(doors(model)[door](x.numpy(), labels), expected)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (torch.zeros(4), "label: expected whole numbers"),
        ([0, 1, 2, 3], r"expected a whole number in \[0, 3\)"),
        ([0, 1], "4 events need as many conditions"),
        (["cat"] * 4, "expected a tensor or an array of numbers"),
        (torch.zeros(4).bool(), "label: expected whole numbers"),
        (None, "is given 1 condition"),
    ],
)
def test_labels_that_are_none(y: Any, match: str):
    x = torch.zeros(4, 1, 2, 2).byte()
    model = vae((LABEL,))
    for door in doors(model).values():
        with pytest.raises(ModelError, match=match):
            door(x, y)
    with pytest.raises(ModelError, match=match):
        model.sample(4, y)


def test_numbers_of_draws():
    for wrong in (2.0, True, 0, "2"):
        with pytest.raises(ModelError, match="n: expected a whole number of at least 1"):
            vae().sample(wrong)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ModelError, match="draws: expected a whole number of at least 1"):
            vae().log_density(torch.zeros(1, 1, 2, 2).byte(), draws=wrong)  # pyright: ignore[reportArgumentType]


def test_a_number_of_numpys():
    assert len(vae().sample(np.int64(3))) == 3  # pyright: ignore[reportArgumentType]


def test_booleans_are_binary_values():
    model, x = vae(space=Space((1, 2, 2), levels=2)), torch.rand(3, 1, 2, 2) < 0.5
    assert torch.equal(model.features(x), model.features(x.byte()))


@dataclass
class One:
    """Images that are one batch, whatever is asked."""

    batch: Batch

    def __len__(self) -> int:
        return len(self.batch.index)

    def in_order(self, *asked: Any) -> list[Batch]:
        return [self.batch]


def test_training_and_measuring_go_by_without_a_check(monkeypatch: pytest.MonkeyPatch):
    def closed(*given: Any) -> Any:
        raise AssertionError("through the door of the public methods")

    for config in components(Model.Config):
        case = ModelCase.of(config)
        model, x, y = case.build(), case.x(6), case.y(6)
        prepared = [(x, y) if s.prepare is None else s.prepare.given(s.prepare.make(x, y), y) for s in model.stages()]
        measured = One(Batch(x, y, np.arange(6)))
        with monkeypatch.context() as m:
            for name in ("taken", "taken_events", "taken_conditions"):
                m.setattr(Model, name, closed)
            for stage, (event, given) in zip(model.stages(), prepared, strict=True):
                for turn in stage.turns:
                    turn.loss(event, given, 1)
            if model.density is not Density.NONE:
                with torch.no_grad():
                    log_density(model, measured, 2)  # pyright: ignore[reportArgumentType]


def test_latents_that_are_none():
    model = vae()
    for wrong, match in (
        (torch.zeros(3, 5), r"expected latents of \[3, 2\], got \[3, 5\]"),
        (torch.zeros(3), r"expected latents of \[2\], got \[3\]"),
        (torch.zeros(3, 2).long(), "real numbers, got torch.int64"),
        ((torch.zeros(3, 2), torch.zeros(3, 2)), "of 1 level"),
        (["a"], "expected a tensor or an array of numbers"),
    ):
        with pytest.raises(ModelError, match=match):
            model.decode(wrong)
    z = torch.randn(4, 3, 2)
    for same in (z.numpy(), z.double(), z.numpy().astype(np.float64)):
        assert torch.equal(model.decode(same).mean, model.decode(z).mean)
    with pytest.raises(ModelError, match="3 events need as many conditions, got 4"):
        vae((LABEL,)).decode(z, torch.zeros(4, dtype=torch.int64))


# ---- types of the weights


def uses(model: Model, x: Tensor, y: Any) -> list[Tensor]:
    found = []
    if model.density is not Density.NONE:
        found.append(model.log_density(x, y))
    if model.can_sample:
        found.append(model.sample(3, rows_of(y, torch.arange(3))))
    if isinstance(model, LatentModel):
        found.append(model.features(x, y))
    found.append(model.loss(x, y).value)
    return found


@pytest.mark.parametrize("config", components(Model.Config), ids=lambda config: config.type_name())
def test_double_weights(config: type[Model.Config]):
    case = ModelCase.of(config)
    model = case.build().double()
    x = case.x(4)
    for found in uses(model, x.double() if x.is_floating_point() else x, case.y(4)):
        assert torch.isfinite(found.double()).all()


@pytest.mark.parametrize("config", components(Model.Config), ids=lambda config: config.type_name())
def test_another_default_type(config: type[Model.Config]):
    case = ModelCase.of(config)
    model, x, y = case.build(), case.x(4), case.y(4)
    expected = [t.float() for t in uses(model, x, y)[:1]]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            found = uses(model, x, y)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.isfinite(found[0].double()).all()
    assert found[0].shape == expected[0].shape


@pytest.mark.parametrize("config", components(Model.Config), ids=lambda config: config.type_name())
def test_autocast_around_a_density(config: type[Model.Config]):
    case = ModelCase.of(config)
    model = case.build()
    if model.density is Density.NONE:
        return
    x, y = case.x(4), case.y(4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = model.log_density(x, y)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.log_density(x, y)
    assert torch.equal(found, expected)


# ---- conditions of other kinds than labels


def test_binary_attributes_and_a_number_as_conditions():
    attributes, number = Space((40,), levels=2), Space(())
    context = Context((attributes, number), 6)
    y = torch.randint(0, 2, (5, 40)), torch.randn(5)
    c = context(y)
    assert c is not None
    assert c.shape == (5, 6)
    flipped = y[0].clone()
    flipped[0, 7] = 1 - flipped[0, 7]
    moved = context((flipped, y[1]))
    assert moved is not None
    weight = context.maps[0].weight[:, 7]
    torch.testing.assert_close((moved - c)[0], weight * (flipped - y[0])[0, 7])
    assert torch.equal((moved - c)[1:], torch.zeros(4, 6))
    model = vae((attributes, number))
    assert torch.isfinite(model.log_density(torch.zeros(5, 1, 2, 2).byte(), y)).all()
    assert model.sample(5, y).shape == (5, 1, 2, 2)


# ---- a posterior that carries no gradient


class Stepped(Distribution):
    """A number without a way to draw it by its parameters."""

    has_rsample = False

    def __init__(self, logits: Tensor):
        self.base = Independent(Categorical(logits=logits.unsqueeze(-1), validate_args=False), 1, validate_args=False)
        super().__init__(self.base.batch_shape, self.base.event_shape, validate_args=False)


class SteppedFamily(Family):
    def density(self, space: Space) -> Density:
        return Density.EXACT

    def param_shape(self, space: Space) -> tuple[int, ...]:
        return space.shape

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        return Stepped(h)


def test_the_bound_refuses_a_posterior_without_a_gradient():
    with pytest.raises(ConfigError, match=r"model.posterior: .* can't be reparameterized"):
        vae(posterior=SteppedFamily())
    assert vae(posterior=DiagonalNormal(), prior=StandardNormal.Config()).density is Density.BOUND


def test_the_relation_of_a_part_is_its_density():
    assert vae().likelihood_density is Density.BOUND  # by dequantization
    assert vae(space=Space((3,)), likelihood=SharedScaleNormal()).likelihood_density is Density.EXACT
    nested = VAE.Config(latent=1, encoder=SMALL, decoder=SMALL, likelihood=DiagonalNormal())
    assert vae(prior=nested).prior_densities == (Density.BOUND,)
    assert vae().prior_densities == (Density.EXACT,)


def test_reports_print_the_relation_of_each_part():
    images = Images("random", "test", torch.randint(0, 3, (6, 1, 2, 2), dtype=torch.uint8).numpy(), 3)
    values = measure(World(vae(), Batches(images, torch.device("cpu"))), names=["distortion", "kl", "elbo"])
    assert {name: value.relation for name, value in values.items()} == {"distortion": "<=", "kl": "=", "elbo": "="}
