"""A head that predicts from an event what the model would be given of it."""

from torch import Tensor, nn

from lowerbound.devices import widened
from lowerbound.errors import ConfigError
from lowerbound.networks.base import Network
from lowerbound.space import Space, Y, conditions
from lowerbound.stages import Loss


class Predictor(nn.Module):
    """The mean of the given attributes [D] of an event, by least squares: E[y|x].

    What networks see of a circle, cosine and sine, then has the direction of the mean and is shorter where it is
    unsure; of a category each number is the probability of one name.
    """

    def __init__(self, network: Network.Config, space: Space, given: tuple[Space, ...]):
        super().__init__()
        if len(given) != 1 or given[0].levels is not None or len(given[0].shape) != 1:
            raise ConfigError(
                "model.predictor: predicts the attributes the model is given, and there are none; set data.given, "
                "or model.predictor=null"
            )
        self.given = given
        self.network = network.build(space.feature_shape, given[0].shape)

    def forward(self, h: Tensor) -> Tensor:
        """Of features [B, ...]: [B, D]."""
        return widened(self.network(h))

    def loss(self, h: Tensor, y: Y) -> Loss:
        (known,) = conditions(y, self.given)
        error = (self(h) - known).square().sum(1)
        return Loss(error.mean(), {"squared_error": error.detach()})


def predictor(config: Network.Config | None, space: Space, given: tuple[Space, ...]) -> Predictor | None:
    """Raises ConfigError where no attributes are given."""
    return None if config is None else Predictor(config, space, given)
