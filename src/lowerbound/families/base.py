"""Network output -> distribution: posteriors, likelihoods, conditional priors, conditionals of one pixel.

A family is frozen and has no parameters; `Head` joins it to a space and owns what is learned once. The n parameters
of an element are stacked along the first event axis, all elements' first parameter first: a vector (D,) takes n*D
numbers, an image (C, H, W) takes (n*C, H, W). Label and code grids have no channel axis and get one: () takes (n,),
(h, w) takes (n, h, w).
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound import distributions as dist
from lowerbound.config import Component
from lowerbound.devices import widened
from lowerbound.distributions import Normal
from lowerbound.errors import ConfigError
from lowerbound.estimators import Estimator, Pathwise
from lowerbound.space import Density, Shape, Space
from lowerbound.units import to_unit

LOG_SCALE = (-7.0, 7.0)  # the bounds of Salimans et al. (2017, code) below and, against overflow, above


class Family(Component, abstract=True):
    """Network output h -> a distribution over a space.

    h: [..., *param_shape(space)]; the leading dimensions become the batch shape ([B] or [K, B]), the event shape is
    the space's.
    """

    pixelwise: ClassVar[bool] = False  # True: given h, the pixels of an image are independent of one another
    joint: ClassVar[bool] = False  # True: one h for all channels of a pixel (coupled mixtures)
    closed: ClassVar[bool] = True  # False: the mean is an estimate, and the density need not be smooth

    @classmethod
    def example(cls) -> "Family":
        """A small instance. The batteries run over it."""
        return cls()

    @property
    def natural(self) -> Estimator:
        """How it is drawn from as a posterior in training, unless an estimator is named."""
        return Pathwise()

    @abstractmethod
    def density(self, space: Space) -> Density:
        """What `log_prob` over this space is worth. Raises ConfigError where the family has no such events."""

    @abstractmethod
    def param_shape(self, space: Space) -> Shape:
        """The shape of h without its leading dimensions."""

    def learned_once(self, space: Space) -> Shape | None:
        """The shape of what a Head learns for all events alike; None: nothing."""
        return None

    def network(self, space: Space) -> nn.Module | None:
        """The network that a Head learns for all events alike, in the place of `learned_once`; None: none."""
        return None

    def around(self, mean: Tensor, space: Space) -> Tensor:
        """h [*param_shape] of a distribution with about this mean [*space.shape]; zeros where none is known."""
        return mean.new_zeros(self.param_shape(space))

    @abstractmethod
    def __call__(self, h: Tensor, space: Space, learned: Any = None) -> Distribution:
        """The distribution. `learned`: what the Head owns, a tensor or a network; where there is none, zeros are meant,
        and of a network the identity."""


class Head(nn.Module):
    """The end of a network: h [..., *in_shape] -> a distribution over the space; owns what is learned once.

    Example:
        >>> from lowerbound.families import SharedScaleNormal
        >>> head = Head(SharedScaleNormal(), Space((2,)))
        >>> head.in_shape, [p.shape for p in head.parameters()]
        ((2,), [torch.Size([])])
        >>> head(torch.zeros(5, 2)).stddev[0].tolist()
        [1.0, 1.0]
    """

    def __init__(self, family: Family, space: Space):
        super().__init__()
        self.family = family
        self.space = space
        family.param_shape(space)  # whether it is over such events
        shape = family.learned_once(space)
        self.learned = None if shape is None else nn.Parameter(torch.zeros(shape))
        self.network = family.network(space)

    @property
    def in_shape(self) -> Shape:
        """What the network must put out."""
        return self.family.param_shape(self.space)

    @property
    def density(self) -> Density:
        return self.family.density(self.space)

    def forward(self, h: Tensor) -> Distribution:
        learned = self.network if self.learned is None else widened(self.learned)
        return self.family(widened(h), self.space, learned)


def length(family: Family, space: Space) -> int:
    """The length of the real vectors of the space."""
    if space.levels is not None or len(space.shape) != 1:
        raise ConfigError(f"{family.type_name()} is over vectors of real numbers, and these events are {_words(space)}")
    return space.shape[0]


def _words(space: Space) -> str:
    return f"of shape {list(space.shape)}" + ("" if space.levels is None else f" with {space.levels} levels")


def _has_channels(space: Space) -> bool:
    return len(space.shape) in (1, 3)


def times(n: int, space: Space) -> Shape:
    """The shape of n parameters an element."""
    if _has_channels(space):
        return (n * space.shape[0], *space.shape[1:])
    return (n, *space.shape)


def stacked(h: Tensor, n: int, space: Space) -> Tensor:
    """[..., *times(n, space)] -> [..., n, *space.shape]."""
    return h.unflatten(-len(space.shape), (n, space.shape[0])) if _has_channels(space) else h


def split(h: Tensor, n: int, space: Space) -> tuple[Tensor, ...]:
    """[..., *times(n, space)] -> n of [..., *space.shape]."""
    return stacked(h, n, space).unbind(-len(space.shape) - 1)


def mean_first(family: Family, mean: Tensor, space: Space) -> Tensor:
    """`Family.around` of a family whose first parameter is the mean, of whole numbers on the scale of [-1, 1]."""
    h = mean.new_zeros(family.param_shape(space))
    h[: space.shape[0]] = mean if space.levels is None else to_unit(mean, space.levels)
    return h


def whole(family: Family, space: Space) -> int:
    """The space's levels."""
    if space.levels is None:
        raise ConfigError(f"{family.type_name()} is over whole numbers, and these events are real numbers")
    return space.levels


def check_ordered(family: Family, space: Space) -> None:
    if space.levels is not None and not space.ordered:
        raise ConfigError(f"{family.type_name()} is over numbers, and these events are names (codes or labels)")


def real_density(family: Family, space: Space) -> Density:
    """Of a density over real numbers: through dequantization it is a bound of the probability of whole ones."""
    check_ordered(family, space)
    return Density.EXACT if space.levels is None else Density.BOUND


def normal_over(mean: Tensor, scale: Tensor, space: Space) -> Distribution:
    """Independent normals over the space, dequantized where it is of whole numbers."""
    normal = Independent(Normal(mean, scale, validate_args=False), len(space.shape), validate_args=False)
    return normal if space.levels is None else dist.Dequantized(normal, space)
