"""Independent whole numbers."""

from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from lowerbound import distributions as dist
from lowerbound.devices import widened
from lowerbound.errors import ConfigError
from lowerbound.model import Model
from lowerbound.priors.base import Prior
from lowerbound.space import Space, Y


class Categorical(Prior):
    r"""Independent variables of K values each: of equal probabilities, or of `learned` ones.

    Its KL to a categorical (or, of two values, Bernoulli) posterior is closed.
    """

    class Config(Model.Config):
        one_for_all: ClassVar[bool] = True
        learned: bool = False  # whether the probabilities are; else all values have the same

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Categorical":
            return Categorical(self, space, given)

        @classmethod
        def example(cls) -> tuple["Categorical.Config", Space, tuple[Space, ...]]:
            return cls(learned=True), Space((2,), levels=3, ordered=False), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        if space.levels is None:
            raise ConfigError(
                f"model.prior: {config.type_name()} is over whole numbers, and z is real; use priors.StandardNormal, "
                "or set model.latent_levels"
            )
        binary = space.ordered and space.levels == 2
        logits = torch.zeros(space.shape if binary else (space.levels, *space.shape))
        self.binary = binary
        if config.learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def distribution(self, y: Y = None) -> Distribution:
        return (dist.Bernoulli if self.binary else dist.Categorical)(widened(self.logits), self.space)
