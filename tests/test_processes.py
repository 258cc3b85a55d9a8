"""Several processes train, draw and measure what one does: every model, every metric, and whatever looks at a whole
batch at once."""

from typing import Any

import pytest

from lowerbound import testing
from lowerbound.config import components
from lowerbound.metrics.base import Metric
from lowerbound.model import Model
from lowerbound.objectives import ELBO
from lowerbound.objectives.adversaries import TotalCorrelation
from lowerbound.objectives.disentangling import DIP1, DIP2, BetaTC, Capacity
from lowerbound.space import Space
from test_components import IMAGE, SMALL, vae
from test_gan import VARIANTS as GANS
from test_vqvae import VARIANTS as VQVAES


@pytest.mark.slow  # trains classifiers, anneals and compresses
@pytest.mark.parametrize("metric", [m for m in components(Metric) if m.costly], ids=lambda m: m.type_name())
def test_what_is_costly_to_measure_is_the_same_in_several_processes(metric: type[Metric]):
    testing.check_metric(metric, checks=[testing.metric_is_the_same_in_several_processes])


@pytest.mark.parametrize("config", components(Model.Config), ids=lambda c: c.type_name())
def test_every_model_is_trained_to_the_same_numbers_by_two_processes_and_by_one(config: type[Model.Config]):
    testing.check_processes(config)


BINARY = Space((1, 2, 2), levels=2)
WHOLE: dict[str, tuple[Any, ...]] = {
    "a KL held at a capacity": (vae(objective=Capacity(steps=3, capacity=1.0)), BINARY),
    "a total correlation": (vae(objective=BetaTC()), IMAGE),
    "a covariance of means": (vae(objective=DIP1()), BINARY),
    "a covariance of draws": (vae(objective=DIP2()), BINARY),
    "free bits of a level": (vae(objective=ELBO(free_bits_level=0.8)), BINARY),
    "free bits of a dimension": (vae(objective=ELBO(free_bits_dimension=0.2)), BINARY),
    "an adversary that mixes codes": (vae(adversary=TotalCorrelation.Config(network=SMALL)), BINARY),
    "statistics of the batch in a network": GANS["convolutions given a label"],
    "codebooks of two levels": VQVAES["two levels"],
    "a codebook by gradient": VQVAES["a codebook by gradient"],
}


@pytest.mark.parametrize("variant", WHOLE)
def test_what_is_of_a_whole_batch_is_of_all_rows(variant: str):
    testing.check_processes(*WHOLE[variant])
