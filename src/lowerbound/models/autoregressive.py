"""Autoregressive models: the exact likelihood, one position after another."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.devices import widened
from lowerbound.distributions import Tempering
from lowerbound.errors import ConfigError, ModelError
from lowerbound.families import Bernoulli, Categorical, Family
from lowerbound.model import PLAIN, Chosen, Draw, Drawn, Filled, Model, Ordered, Told, told_nobody
from lowerbound.networks.causal import CausalNetwork
from lowerbound.networks.context import Context
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.resnet import Block
from lowerbound.space import Density, Space, Y, conditions

Choose = Callable[[Distribution, int, tuple[int, int]], Tensor]  # p of a position, a channel, the place -> its values


class Autoregressive(Ordered):
    r"""A PixelCNN, PixelRNN or MADE: the chain rule, each factor from one causal network.

    .. math:: \log p(x | y) = \sum_i \log p(x_i | x_{<i}, y)

    Positions are in the order of reading: row by row, from left to right; a vector or a row of codes from its first
    element on. The channels of a position (red, green, blue) are drawn together where the likelihood couples them
    (`families.LogisticMixture`), else one after another. Events are images [C, H, W], grids of codes [H, W] or vectors
    [D]; the condition is any of labels, attributes and coarser grids or images of any size.

    Sampling computes a position from what the network remembers of earlier ones, and is exact: for the same noise it
    draws what a full pass for every position would.

    van den Oord et al. (2016), Pixel Recurrent Neural Networks, https://arxiv.org/abs/1601.06759, eq. 1 and 2.

    Example:
        >>> model = Autoregressive.Config(network=GatedPixelCNN.Config(layers=2)).build(Space((1, 8, 8), levels=17))
        >>> model.log_prob(model.sample(5)).shape, model.density
        (torch.Size([5]), <Density.EXACT: '='>)
    """

    class Config(Model.Config):
        network: CausalNetwork.Config = GatedPixelCNN.Config()  # whose outputs see earlier positions alone
        likelihood: Family = Categorical()  # of a position, given the earlier ones
        context: int = Field(default=64, gt=0)  # width of what is given
        context_blocks: int = Field(default=2, ge=0)  # residual blocks over a coarser grid that is given
        embedding: int = Field(default=64, gt=0)  # width of a code, where events are grids of codes

        def binary(self) -> bool:
            return isinstance(self.likelihood, Bernoulli)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Autoregressive":
            return Autoregressive(self, space, given)

        @classmethod
        def example(cls) -> tuple["Autoregressive.Config", Space, tuple[Space, ...]]:
            network = GatedPixelCNN.Config(width=6, layers=2, first_kernel=3, out_width=6)
            return cls(network=network, context=4), Space((2, 2, 2), levels=2), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.grid = _Grid(space, config.likelihood)
        if (
            config.likelihood.density(space) is not Density.EXACT
            or config.likelihood.learned_once(space) is not None
            or config.likelihood.network(space) is not None
        ):
            raise ConfigError(
                f"model.likelihood: {config.likelihood.type_name()} has no exact probability of {space.levels} levels "
                "position by position; expected families.Categorical, families.LogisticMixture or, for binary images, "
                "families.Bernoulli"
            )
        H, W = self.grid.size
        self.embed = None if space.ordered or space.levels is None else nn.Embedding(space.levels, config.embedding)
        features = self.grid.features if self.embed is None else config.embedding * math.prod(space.shape[:-2])
        self.condition = Condition(given, config.context, (H, W), config.context_blocks)
        self.network = config.network.build(
            (features, H, W),
            (math.prod(config.likelihood.param_shape(space)) // (H * W), H, W),
            channels=self.grid.channels,
            context=config.context if given else 0,
        )

    @property
    def footprint(self) -> int:
        return math.prod(self.grid.size) * max(self.network.in_shape[0], 128, math.prod(self.grid.pixel_h_shape))

    # ---- the likelihood

    def _conditionals(self, x: Tensor, y: Y) -> Distribution:
        return self.grid.likelihood(self._h(x, y).reshape(x.shape[0], *self.grid.h_shape), self.space)

    # --8<-- [start:log-probs]
    def log_probs(self, x: Tensor, y: Y = None) -> Tensor:
        x, y = self.taken(x, y)
        grid, (H, W) = self.grid, self.grid.size
        with self._rounding_nothing():
            h = self._h(x, y).permute(0, 2, 3, 1).reshape(-1, *grid.pixel_h_shape)
        pixels = x.view(len(x), -1, H, W).permute(0, 2, 3, 1).reshape(-1, *grid.pixel.shape)
        return grid.likelihood(h, grid.pixel).log_prob(pixels).view(len(x), H, W)
        # --8<-- [end:log-probs]

    @torch.no_grad()
    def value_probs(self, x: Tensor, place: tuple[int, int], y: Y = None) -> Tensor:
        x, y = self.taken(x, y)
        grid, (i, j), K = self.grid, place, self.space.levels or 0
        with self._rounding_nothing():
            h = self._h(x, y)[:, :, i, j].reshape(len(x), *grid.pixel_h_shape).repeat_interleave(K, 0)
        own = x.view(len(x), *grid.space.shape)[..., i : i + 1, j : j + 1].repeat_interleave(K, 0)  # [B * K, C, 1, 1]
        values, found = torch.arange(K, device=x.device).repeat(len(x)).to(x.dtype), []
        for channel in range(math.prod(grid.pixel.shape)):
            each = own.flatten(1).clone()
            each[:, channel] = values
            found.append(grid.likelihood(h, grid.pixel).log_prob(each.view_as(own)).view(len(x), K).softmax(1))
        return torch.stack(found, 1)

    def _h(self, x: Tensor, y: Y) -> Tensor:
        return widened(self.network(self._features(x, self.grid.space, self.grid.size), self.condition(y)))

    def _features(self, x: Tensor, space: Space, size: tuple[int, ...]) -> Tensor:
        """Events, whole or of one position, as the network's input [B, F, *size]."""
        if self.embed is not None:
            return self.embed(x.long()).movedim(-1, 1).reshape(x.shape[0], -1, *size)
        return space.features(x).reshape(x.shape[0], -1, *size).to(self.dtype)

    # ---- drawing

    @property
    def truncates(self) -> bool:
        return True

    @property
    def cost(self) -> int:
        return 2 * sum(w.numel() for w in self.parameters()) * self.passes

    @property
    def passes(self) -> int:
        return math.prod(self.grid.size) * self.grid.channels

    @torch.no_grad()
    def at_once(self, memory: int | None = None) -> int:
        """How many events are drawn at once, so that what is remembered of them takes at most so many bytes.

        From 1 to 4096, more of which would be no faster. memory: None: 1 GiB, or an eighth of an accelerator's.
        """
        size = self.grid.size if self.condition.maps else (1, 1)
        given = next(self.parameters()).new_zeros(1, self.config.context, *size) if self.given else None
        cache = self.network.start(1, given)
        self.network.step(cache, 0, 0)
        self.network.put(cache, torch.zeros_like(cache.x[:, 0, 0]), 0, 0)
        if memory is None:
            cuda = self.device.type == "cuda"
            memory = torch.cuda.get_device_properties(self.device).total_memory // 8 if cuda else 2**30
        return max(1, min(4096, memory // (cache.held * cache.like.element_size())))

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        return Drawn(self._fill(self._empty(n), 0, y, how.at(), told))

    @torch.no_grad()
    def sample_naively(self, n: int, y: Y = None, temperature: float = 1.0, *, positions: int | None = None) -> Tensor:
        """The same by a pass over the whole image for every position (and channel): what caching is measured against.

        positions: stop after so many; the rest is zero.
        """
        y = self._checked_draw(n, y, Draw(temperature))
        return self._fill(self._empty(n), 0, y, Tempering(temperature), cached=False, positions=positions)

    def _empty(self, n: int) -> Tensor:
        return torch.zeros(n, *self.space.shape, dtype=self.space.dtype, device=self.device)

    @torch.no_grad()
    def complete(self, x: Tensor, kept: Tensor, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """Events like x [n, *space.shape] where `kept` (bool [H, W]) is true, and drawn given that elsewhere.

        What is kept must come first in the order: some full rows, and the beginning of the next. Raises ModelError for
        another mask, for events that are not of the space, and as `draw` does.

        Example:
            >>> model = Autoregressive.Config(network=GatedPixelCNN.Config(layers=2)).build(Space((1, 4, 4), levels=3))
            >>> x, top = model.sample(1).repeat(5, 1, 1, 1), torch.arange(4)[:, None].expand(4, 4) < 2
            >>> torch.equal(model.complete(x, top).x[..., :2, :], x[..., :2, :])
            True
        """
        self.check_how(how)
        x, y = self.taken(x, y)
        y = self._checked_draw(len(x), y, how)
        return Drawn(self._fill(x.clone(), self.first_drawn(kept), y, how.at(), told))

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        self.first_drawn(kept)
        return {"pixels": kept}

    @torch.no_grad()
    def log_p_kept(self, x: Tensor, kept: Tensor, y: Y = None) -> Tensor:
        self.first_drawn(kept)
        return self.log_probs(x, y)[:, kept].double().sum(1)

    def first_drawn(self, kept: Tensor) -> int:
        """Where drawing begins when so much is kept [H, W]. Raises ModelError unless that comes first in the order."""
        self._check_mask(kept)
        in_order = [bool(kept[place]) for place in self.network.order]
        first = sum(in_order)
        if not all(in_order[:first]):
            raise ModelError(
                "this mask needs another order: the model draws row by row from the top left, so what is kept must be "
                "the first rows (and perhaps the beginning of the next), such as top:0.5"
            )
        return first

    @property
    def order(self) -> list[tuple[int, int]]:
        return self.network.order

    def filling(self, x: Tensor, drawn: Tensor, y: Y = None, how: Draw = PLAIN) -> Iterator[Filled]:
        self.check_how(how)
        x, y = self.taken(x, y)
        y = self._checked_draw(len(x), y, how)
        self._check_mask(drawn)
        return self._filling(x.clone(), drawn, y, _drawn_by(how.at()))

    def spell(self, n: int, chosen: Chosen, y: Y = None) -> Tensor:
        y, channels = self._checked_draw(n, y, PLAIN), self.grid.channels

        def choose(p: Distribution, channel: int, place: tuple[int, int]) -> Tensor:
            only = slice(channel, channel + 1) if channels > 1 else slice(None)
            value = torch.zeros(n, *self.grid.pixel.shape, dtype=self.space.dtype, device=self.device)
            value.view(n, -1)[:, only] = chosen(p, only, place)
            return value

        x, everywhere = self._empty(n), torch.ones(self.grid.size, dtype=torch.bool)
        with self._rounding_nothing():
            for _ in self._filling(x, everywhere, y, choose):
                pass
        return x

    def _check_mask(self, mask: Tensor) -> None:
        if tuple(mask.shape) != self.grid.size:
            wanted = list(self.grid.size)
            raise ModelError(f"the mask is of {list(mask.shape)}, expected the size of the images, {wanted}")

    def _fill(
        self,
        x: Tensor,
        first: int,
        y: Y,
        tempering: Tempering,
        told: Told = told_nobody,
        *,
        cached: bool = True,
        positions: int | None = None,
    ) -> Tensor:
        """Draw the positions from `first` on, in place, or the first so many of all."""
        order = self.network.order
        drawn = torch.zeros(self.grid.size, dtype=torch.bool)
        for place in order[first:positions]:
            drawn[place] = True
        for t, _ in enumerate(self._filling(x, drawn, y, _drawn_by(tempering), cached=cached), 1):
            if t % self.grid.size[1] == 0:
                told(t, len(order))
        return x

    @torch.no_grad()
    def _filling(self, x: Tensor, drawn: Tensor, y: Y, choose: Choose, *, cached: bool = True) -> Iterator[Filled]:
        """What `filling` gives, of a batch of the package's own, in place; `choose` says what comes to a position."""
        grid, wanted = self.grid, drawn.tolist()
        last = max((t for t, (i, j) in enumerate(self.network.order, 1) if wanted[i][j]), default=0)
        if not last:
            return
        pixels, c = x.view(len(x), *grid.space.shape), self.condition(y)  # [n, C, H, W], or [n, H, W]
        steps = _Cached(self.network, len(x), c) if cached else _Naive(self, pixels, c)
        for i, j in self.network.order[:last]:
            own = pixels[..., i : i + 1, j : j + 1]
            for channel in range(grid.channels):
                h = widened(steps.step(i, j))
                if wanted[i][j]:
                    p = grid.likelihood(h.reshape(len(x), *grid.pixel_h_shape), grid.pixel)
                    value = choose(p, channel, (i, j))
                    if grid.channels > 1:
                        own[:, channel] = value[:, channel]
                    else:
                        own.copy_(value)
                steps.put(self._features(own, grid.pixel, ()), i, j)
            yield Filled((i, j), x)


def _drawn_by(tempering: Tempering) -> Choose:
    return lambda p, channel, place: tempering(p).sample()


class _Cached:
    """Positions by the network's cache."""

    def __init__(self, network: CausalNetwork, n: int, c: Tensor | None):
        self.network, self.cache = network, network.start(n, c)

    def step(self, i: int, j: int) -> Tensor:
        return self.network.step(self.cache, i, j)

    def put(self, features: Tensor, i: int, j: int) -> None:
        self.network.put(self.cache, features, i, j)


class _Naive:
    """Positions by a pass over all of them."""

    def __init__(self, model: Autoregressive, pixels: Tensor, c: Tensor | None):
        self.model, self.pixels, self.c = model, pixels, c

    def step(self, i: int, j: int) -> Tensor:
        grid = self.model.grid
        return self.model.network(self.model._features(self.pixels, grid.space, grid.size), self.c)[:, :, i, j]

    def put(self, features: Tensor, i: int, j: int) -> None:
        pass


class _Grid:
    """How the events of a space lie on a grid of positions, which a vector is the only row of."""

    def __init__(self, space: Space, likelihood: Family):
        if len(space.shape) not in (1, 2, 3):
            raise ConfigError(
                f"model: expected images, grids of codes or vectors, got events of shape {list(space.shape)}"
            )
        self.likelihood = likelihood
        self.space = space if len(space.shape) > 1 else space._replace(shape=(1, *space.shape))
        self.size = (self.space.shape[-2], self.space.shape[-1])
        self.features = math.prod(space.feature_shape) // math.prod(self.size)
        self.channels = math.prod(space.shape[:-2]) if not likelihood.joint else 1  # those that are in order
        self.pixel = space._replace(shape=(*self.space.shape[:-2], 1, 1))
        self.h_shape = likelihood.param_shape(space)
        self.pixel_h_shape = likelihood.param_shape(self.pixel)


class Condition(nn.Module):
    """What is given, as a map: y -> [B, width, 1, 1], or with coarser grids [B, width, H, W]; None without any.

    Labels and attributes are one vector (`Context`). A grid of codes or an image of any size goes through residual
    blocks at its own resolution, and is then enlarged (Razavi et al. 2019, https://arxiv.org/abs/1906.00446): a cell is
    repeated where the size is a multiple of its own, and else a place gets the mean of the cells that it covers.
    """

    def __init__(self, given: tuple[Space, ...], width: int, size: tuple[int, int], blocks: int):
        super().__init__()
        self.given, self.size = given, size
        self.vector = Context(tuple(s for s in given if len(s.shape) < 2), width)
        self.maps = nn.ModuleList(_GridCondition(s, width, blocks) for s in given if len(s.shape) > 1)

    def forward(self, y: Y) -> Tensor | None:
        parts = conditions(y, self.given)
        vectors = tuple(part for part, s in zip(parts, self.given, strict=True) if len(s.shape) < 2)
        grids = [part for part, s in zip(parts, self.given, strict=True) if len(s.shape) > 1]
        vector = self.vector(vectors)
        found = [] if vector is None else [vector[:, :, None, None]]
        found += [_resized(m(part), self.size) for m, part in zip(self.maps, grids, strict=True)]
        return torch.stack(torch.broadcast_tensors(*found)).sum(0) if found else None


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] -> [B, C, *size]."""
    if any(large % small for large, small in zip(size, maps.shape[2:], strict=True)):
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size)


class _GridCondition(nn.Module):
    """Codes [h, w] (or several of a place, [depth, h, w]), or an image, through residual blocks: [B, width, h, w]."""

    def __init__(self, space: Space, width: int, blocks: int):
        super().__init__()
        self.space = space
        self.embed = None if space.ordered or space.levels is None else nn.Embedding(space.levels, width)
        depth = math.prod(space.shape[:-2])
        single = self.embed is not None and depth == 1
        self.first = nn.Identity() if single else nn.Conv2d(depth if self.embed is None else depth * width, width, 1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))

    def forward(self, part: Tensor) -> Tensor:
        x = self.space.features(part) if self.embed is None else self.embed(part).movedim(-1, 1)
        x = x.reshape(x.shape[0], -1, *self.space.shape[-2:]).to(next(self.parameters()).dtype)
        return self.blocks(self.first(x))
