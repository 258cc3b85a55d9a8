"""A model in the world it is checked in."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lowerbound.model import Model
from lowerbound.noise import seeded
from lowerbound.space import Space, Y
from lowerbound.testing.base import condition, events, example, shake_parameters

LABEL = Space((), levels=3, ordered=False)


@dataclass(frozen=True)
class ModelCase:
    """A model's configuration and the world it is checked in."""

    config: Model.Config
    space: Space
    given: tuple[Space, ...] = ()

    @staticmethod
    def of(
        config: Model.Config | type[Model.Config], space: Space | None = None, given: tuple[Space, ...] = ()
    ) -> "ModelCase":
        own, its_space, its_given = example(config)
        return ModelCase(own, its_space, its_given) if space is None else ModelCase(own, space, given)

    def build(self, *seed: int | str, given: tuple[Space, ...] | None = None, shake: float = 0.3) -> Model:
        with seeded("build", *seed):
            model = self.config.build(self.space, self.given if given is None else given)
        shake_parameters(model, *seed, scale=shake)
        return model.eval()

    def x(self, n: int, *seed: int | str) -> Tensor:
        return events(self.space, n, *seed)

    def y(self, n: int, *seed: int | str) -> Y:
        return condition(self.given, n, *seed)

    def one_y(self, n: int) -> Y:
        """One condition, n times."""
        return each_part(self.y(1), lambda part: part[[0] * n])


def each_part(y: Y, change: Callable[[Tensor], Tensor]) -> Y:
    return None if y is None else change(y) if isinstance(y, Tensor) else tuple(map(change, y))
