"""Restricted Boltzmann machines: an explicit density whose normalizing constant is a sum over all events."""

from collections.abc import Iterable
from itertools import count
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.devices import at_least_float32, widened
from lowerbound.distributions import Bernoulli, tempered
from lowerbound.errors import ConfigError
from lowerbound.model import PLAIN, Chained, Draw, LatentModel, Model, Told, told_nobody
from lowerbound.models.machines import Machine, fewest
from lowerbound.models.negatives import Negative, Persistent
from lowerbound.models.partition import Annealing, LogZ, from_above, from_below
from lowerbound.models.visibles import Binary, Visible, flipped
from lowerbound.networks.context import Context
from lowerbound.space import Density, Estimate, Space, Y, check_number_of, conditions
from lowerbound.stages import Loss, Pair, Stage, Turn

LOG_Z = "log_z"  # the stage that estimates it
SMOOTHED = 1.0  # events that are added, half of them 1, to the counts that biases begin at


class RBM(LatentModel, Chained):
    r"""A restricted Boltzmann machine (Smolensky 1986; Hinton 2002, https://doi.org/10.1162/089976602760128018).

    .. math::
        p(v, h) = \frac{1}{Z} e^{-E(v, h)}, \quad -E(v, h) = b^T v + c^T h + v^T W h, \quad
        p(v) = \frac{1}{Z} e^{-F(v)}

    of two-valued hidden units h and visible units v (`models.visibles`), each layer independent given the other. So
    z = h has an exact posterior, and log p(v, h) - log p(h|v) is log p(v) for every draw of h. A label adds to both
    biases.

    Z is a sum over all states. Where the hidden or the visible units are few, it is counted, and the density exact.
    Else it is estimated once, after training, by annealed importance sampling (`models.partition`), and kept with the
    weights: `density` is ESTIMATE then, and NONE before.

    Example:
        >>> rbm = RBM.Config(hidden=4).build(Space((1, 2, 2), levels=2))
        >>> rbm.density, rbm.log_density(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)).shape
        (<Density.EXACT: '='>, torch.Size([5]))
    """

    class Config(Model.Config):
        hidden: int = Field(default=500, gt=0)  # hidden units
        visible: Visible = Binary()  # kind of the visible units
        negative: Negative = Persistent()  # whence the model's samples of the gradient come
        counted: int = Field(default=20, ge=0, le=24)  # at most so many hidden or visible units' states are counted
        annealing: Annealing = Annealing()  # by which log Z is estimated where there are more
        steps: int = Field(default=1000, gt=0)  # of Gibbs sampling, of a sample

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "RBM":
            return RBM(self, space, given)

        def binary(self) -> bool:
            return isinstance(self.visible, Binary)

        def of_stage(self, stage: str) -> tuple[str, ...]:
            return ("annealing.",) if stage == LOG_Z else ()

        @classmethod
        def example(cls) -> tuple["RBM.Config", Space, tuple[Space, ...]]:
            return cls(hidden=3, negative=Persistent(chains=12), steps=100), Space((1, 2, 2), levels=2), ()

    base: Tensor
    chains: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self._of_visible = config.visible.density(space)  # what log p(x|h) is worth
        self.labels = _labels(given)
        R, C = config.negative.shape
        if C and self.labels > C:
            raise ConfigError(f"model.negative.chains: expected at least {self.labels}, one for each label, got {C}")
        n, _ = fewest(config.visible, space.dims, config.hidden)
        self.is_counted = n <= config.counted
        self.energy = Energy(config, space, given)
        self.prior_log_z = None if self.is_counted else LogZ(self.labels)
        self.register_buffer("base", torch.zeros(space.dims))  # biases of independent units with the data's means
        start = noise.bernoulli(torch.full((R, C, config.hidden), 0.5))
        self.register_buffer("chains", start.to(torch.uint8))  # h of the persistent ones, the last at β = 1

    # ---- training

    def stages(self) -> tuple[Stage, ...]:
        """The machine by gradients; then log Z, once, where it is not counted. Its estimate would take too long to be
        made at every validation: the last averaged weights are kept then."""
        turn = Turn((self.energy,), self._loss)
        if self.prior_log_z is None:
            return (Stage("model", (turn,), begin=self._begin),)
        log_z = Stage(LOG_Z, (Turn((self.prior_log_z,), self._nll),), fit=self._fit_log_z, score=None)
        return Stage("model", (turn,), begin=self._begin, score=None), log_z

    @torch.no_grad()
    def _begin(self, batches: Iterable[Tensor]) -> None:
        """Begin as independent units with the means (and variances) of all events (Hinton 2012, section 8,
        https://doi.org/10.1007/978-3-642-35289-8_32)."""
        n, total, squares = SMOOTHED, torch.full_like(self.base, 0.5 * SMOOTHED), torch.zeros_like(self.base)
        units = self.config.visible
        if not units.countable:
            n, total = 0.0, torch.zeros_like(self.base)
        for x in batches:
            v, _ = self._values(x)
            n, total, squares = n + len(v), total + v.sum(0), squares + v.square().sum(0)
        mean = total / n
        b, log_scale = units.begun_at(mean, squares / n - mean**2)
        self.base.copy_(b)
        self.energy.b.copy_(b)
        if self.energy.log_scale is not None:
            self.energy.log_scale.copy_(log_scale)

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """F(data) - F(model's samples), whose gradient is that of -log p(x), but for where the samples come from."""
        v, _ = self._values(x)
        samples, of, share = self._negative(v, y)
        F, own = self.energy.machine(y).free_energy(v), self.energy.machine(of).free_energy(samples)
        gap = F - (share * own).sum()
        return Loss(gap.mean(), {"gap": gap.detach()} | self._pseudo(v, y, F.detach()))

    @torch.no_grad()
    def _negative(self, v: Tensor, y: Y) -> tuple[Tensor, Y, Tensor]:
        """Samples of the model, their condition, and each one's share in the mean over what the batch is given."""
        negative = self.config.negative
        if not self.chains.shape[1]:
            machine = self.energy.machine(y)
            h = negative.moved(machine.hidden(machine.field(v)), machine, widened(self.base))
            return machine.visible(h), y, torch.full((len(v),), 1 / len(v), dtype=v.dtype, device=v.device)
        h = self.chains[-1].to(v.dtype)
        of = self._chain_labels
        share = torch.full((len(h),), 1 / len(h), dtype=v.dtype, device=v.device)
        if of is not None:
            in_batch, in_chains = (_counts(labels, self.labels, v) for labels in (*conditions(y, self.given), of))
            share = (in_batch / len(v) / in_chains)[of]
        with noise.of_rows(None):  # the chains are of the whole batch, and drawn alike by all processes
            return self.energy.machine(of).visible(h), of, share

    @torch.no_grad()
    def _pseudo(self, v: Tensor, y: Y, F: Tensor) -> dict[str, Tensor]:
        """D log p(v_i | all others), of one binary unit i of each event: minus it is what is logged, in nats."""
        if not self.config.visible.countable:
            return {}
        D = v.shape[1]
        i = (noise.rand(F.shape, dtype=F.dtype, device=F.device) * D).long().clamp(max=D - 1)[:, None]
        other = v.scatter(1, i, 1 - v.gather(1, i))
        return {"pseudo_nll": D * nn.functional.softplus(F - self.energy.machine(y).free_energy(other))}

    @property
    def kept_whole(self) -> tuple[nn.Module, ...]:
        return (self.energy,)

    @torch.no_grad()
    def after_step(self) -> None:
        """Persistent chains go on by the new weights, and log Z is no longer known."""
        if self.prior_log_z is not None:
            self.prior_log_z.known.fill_(False)
        if self.chains.shape[1]:
            machine, h = self.energy.machine(self._chain_labels), self.chains.to(at_least_float32(self.dtype))
            self.chains.copy_(self.config.negative.moved(h, machine, widened(self.base)))

    @property
    def _chain_labels(self) -> Tensor | None:
        """The label of each persistent chain: [C]."""
        C = self.chains.shape[1]
        return torch.arange(C, device=self.chains.device) % self.labels if self.given else None

    def _nll(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        nll = -self._log_weights(x, y).mean(0)
        return Loss(nll.mean(), {"nll": nll.detach()})

    # ---- log Z

    @torch.no_grad()
    def _fit_log_z(self, pairs: Iterable[Pair], told: Told = told_nobody) -> None:
        """Estimate log Z of each label from both sides."""
        assert self.prior_log_z is not None
        how, starts, base = self.config.annealing, self._starts(pairs), widened(self.base)
        steps, done = self.labels * (2 * how.temperatures + how.burn_in), count(1)

        def step() -> None:
            told(next(done), steps)

        for label in range(self.labels):
            machine = self.energy.machine(self._only(label))
            machine = machine._replace(b=machine.b[0], c=machine.c[0]) if self.given else machine
            below = from_below(machine, base, how, step)
            self.prior_log_z.set(label, below, from_above(machine, base, starts[label], how, step))
        self.prior_log_z.known.fill_(True)

    def _only(self, label: int) -> Y:
        return torch.full((1,), label, device=self.base.device) if self.given else None

    def _starts(self, pairs: Iterable[Pair]) -> list[Tensor]:
        """Where the reverse chains of each label begin, [n, V]: at the persistent chains; where there are none, at
        training events."""
        of, n = self._chain_labels, self.config.annealing.chains
        if self.chains.shape[1]:
            v = self.energy.machine(of).visible(self.chains[-1].to(at_least_float32(self.dtype)))
            return [v if of is None else v[of == label] for label in range(self.labels)]
        found: list[list[Tensor]] = [[] for _ in range(self.labels)]
        for x, y in pairs:
            v, _ = self._values(x)
            for label, own in enumerate(found):
                if sum(map(len, own)) < n:
                    own.append(v[conditions(y, self.given)[0] == label][:n] if self.given else v[:n])
            if all(sum(map(len, own)) >= n for own in found):
                break
        return [torch.cat([*own, self.base.new_zeros(0, self.space.dims)]) for own in found]

    @property
    def estimate(self) -> Estimate | None:
        log_z = self.prior_log_z
        return log_z.estimate(self.config.annealing) if log_z is not None and log_z.known else None

    def log_zs(self, y: Y) -> Tensor:
        """log Z, of the machine of each label: [B], or [1] without labels."""
        if self.prior_log_z is not None:
            each = widened(self.prior_log_z.value)
        else:
            machines = (self.energy.machine(self._only(label)) for label in range(self.labels))
            each = torch.stack([m._replace(b=m.b.reshape(-1), c=m.c.reshape(-1)).log_z() for m in machines])
        return each[conditions(y, self.given)[0]] if self.given else each

    # ---- log p(x)

    @property
    def density(self) -> Density:
        return Density.worst(self.likelihood_density, *self.prior_densities)

    @property
    def likelihood_density(self) -> Density:
        return self._of_visible

    @property
    def prior_densities(self) -> tuple[Density, ...]:
        if self.prior_log_z is None:
            return (Density.EXACT,)
        return (Density.ESTIMATE if self.prior_log_z.known else Density.NONE,)

    @property
    def unbiased(self) -> bool:
        return self.is_counted

    @property
    def noisy(self) -> bool:
        return self._of_visible is Density.BOUND

    def why_no_density(self) -> str:
        return (
            "the normalizing constant of its weights is not estimated; `lowerbound train … --stage log_z --resume` "
            "does it, once the machine is trained"
        )

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        machine = self.energy.machine(y)
        v, log_bins = self._values(x.expand(draws, *x.shape) if self.noisy else x[None])
        return log_bins - machine.free_energy(v) - self.log_zs(y)

    def _values(self, x: Tensor) -> tuple[Tensor, float]:
        return self.config.visible.values(x, self.space, at_least_float32(self.dtype))

    # ---- latents

    @property
    def latents(self) -> tuple[Space, ...]:
        return (Space((self.config.hidden,), levels=2),)

    @property
    def pixelwise(self) -> bool:
        return True

    def bottom_up(self, x: Tensor, y: Y = None) -> Tensor:
        """The logits of p(h|x)."""
        return self.energy.machine(y).field(self.config.visible.centres(x, self.space, at_least_float32(self.dtype)))

    def posterior(self, l: int, h: Tensor, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return Bernoulli(h, self.latents[0])

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return Hidden(self, y)

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        machine = self.energy.machine(y)
        return machine.units.over(machine.inputs(z[0].to(at_least_float32(self.dtype))), machine.scale, self.space)

    # ---- drawing

    @property
    def cost(self) -> int:
        return 2 * self.config.steps * self.config.hidden * self.space.dims

    @property
    def footprint(self) -> int:
        return max(self.space.dims, self.config.hidden)

    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """By a chain from independent units, of which β grows to 1 in the first half of its steps. Temperature T
        divides the logits (and multiplies σ) of every one."""
        machine, T = self.energy.machine(y), how.at().temperature
        steps = how.steps or self.config.steps
        base = widened(self.base)
        h = flipped(torch.zeros(n, self.config.hidden, dtype=base.dtype, device=base.device), T)
        for step in range(1, steps + 1):
            beta = min(1.0, 2 * step / steps)
            h = machine.tempered(beta, base).stepped(h, temperature=T)
            told(step, steps)
        return (h.to(self.latents[0].dtype),)

    @torch.no_grad()
    def chain(self, n: int, length: int, y: Y = None, how: Draw = PLAIN) -> Tensor:
        self.check_how(how)
        check_number_of(length, "length")
        y, T, states = self._checked_draw(n, y, how), how.at().temperature, []
        z = self._draw_latents(n, y, how, told_nobody, ())
        for _ in range(length):
            p = self.likelihood(z, y)
            x = p.sample()
            states.append(p.mean if how.mean else x)
            z = (tempered(self.posterior(0, self.bottom_up(x, y)), T).sample(),)
        return torch.stack(states, 1)

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        return self._kept_pixels(kept)

    def _moved(self, x: Tensor, y: Y, last: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """z of p(h|x), which is exact: every one would be accepted."""
        return (self.posterior(0, self.bottom_up(x, y)).sample(),)

    @property
    def filters(self) -> Tensor | None:
        return self.energy.W.detach().T.unflatten(1, self.space.shape)


class Energy(nn.Module):
    """The weights of a machine, and what labels add to its biases."""

    def __init__(self, config: RBM.Config, space: Space, given: tuple[Space, ...]):
        super().__init__()
        V, H = space.dims, config.hidden
        self.units: Any = config.visible
        self.W = nn.Parameter(0.01 * noise.randn((V, H)))  # Hinton 2012, section 8
        self.b = nn.Parameter(torch.zeros(V))
        self.c = nn.Parameter(torch.zeros(H))
        log_scale = config.visible.learned_scale(V)
        self.log_scale = None if log_scale is None else nn.Parameter(log_scale)
        self.context = Context(given, V + H)
        for p in self.context.parameters():
            nn.init.zeros_(p)

    def machine(self, y: Y = None) -> Machine:
        """Of the conditions of B events, with biases [B, V] and [B, H]; without conditions [V] and [H]."""
        b, c, more = widened(self.b), widened(self.c), self.context(y)
        if more is not None:
            b, c = b + more[..., : len(b)], c + more[..., len(b) :]
        scale = torch.ones_like(widened(self.b)) if self.log_scale is None else widened(self.log_scale).exp()
        return Machine(self.units, widened(self.W), b, c, scale)


class Hidden(Distribution):
    """p(h) of a machine, that is exp(log_weight(h)) / Z: what its latents' prior is."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, model: RBM, y: Y):
        batch = () if y is None else (len(conditions(y, model.given)[0]),)
        super().__init__(torch.Size(batch), torch.Size(model.latents[0].shape), validate_args=False)
        self.model, self.y = model, y

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(h) in nats: [...]."""
        model = self.model
        log_weight = model.energy.machine(self.y).log_weight(value.to(at_least_float32(model.dtype)))
        return log_weight - model.log_zs(self.y).reshape(self.batch_shape)


def _labels(given: tuple[Space, ...]) -> int:
    """How many there are; 1 where none is given. Raises ConfigError for another condition."""
    if not given:
        return 1
    label = next(iter(given))
    if len(given) > 1 or label.levels is None or label.shape:
        raise ConfigError(
            "model: an RBM is given labels alone, each of which has a normalizing constant of its own; use "
            "data.label=true"
        )
    return label.levels


def _counts(labels: Tensor, n: int, like: Tensor) -> Tensor:
    """How often each label is there: [n], without waiting for the device."""
    return (labels[:, None] == torch.arange(n, device=labels.device)).to(like.dtype).sum(0)
