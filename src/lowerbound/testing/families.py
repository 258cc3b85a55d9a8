"""What holds of every family of distributions: shapes, that it is a probability, gradients, temperatures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions import detached, tempered
from lowerbound.errors import ConfigError
from lowerbound.families import Family, Head
from lowerbound.noise import KeyedNoise, seeded
from lowerbound.space import Density, Space
from lowerbound.testing.base import (
    MANY,
    all_events,
    checks_in,
    double,
    events,
    expect,
    expect_at_most_one,
    expect_equal,
    expect_finite,
    expect_frequencies,
    expect_gradients,
    expect_in_space,
    expect_mean,
    expect_round_trip,
    expect_shape,
    lattice,
    run_checks,
    shake_parameters,
)

SPACES = (
    Space((1,)),
    Space((2,)),
    Space((1, 1, 2)),
    Space((1, 2, 2), levels=2),
    Space((3, 1, 1), levels=5),
    Space((2,), levels=3),
    Space((1, 2), levels=3, ordered=False),
    Space((), levels=3, ordered=False),
)


def check_family(family: Family | type[Family], spaces: Sequence[Space] | None = None) -> None:
    """All of FAMILY_CHECKS over every space that the family takes, of these or of SPACES."""
    family = family.example() if isinstance(family, type) else family
    spaces = SPACES if spaces is None else spaces
    taken = [space for space in spaces if takes(family, space)]
    expect(bool(taken), f"{family.type_name()} takes none of {list(spaces)}")
    for space in taken:
        run_checks(family, FAMILY_CHECKS, FamilyCase(family, space))


@dataclass(frozen=True)
class FamilyCase:
    """A family and the space it is checked over."""

    family: Family
    space: Space

    def head(self) -> Head:
        head = Head(self.family, self.space)
        shake_parameters(head, "head")
        return head

    def h(self, *lead: int, scale: float = 1.0) -> Tensor:
        with seeded("h", *lead):
            return scale * torch.randn(*lead, *self.family.param_shape(self.space))

    def __call__(self, *lead: int, scale: float = 1.0) -> Any:
        """A distribution with this batch shape, its parameters drawn anew the same."""
        return self.head()(self.h(*lead, scale=scale))

    @property
    def density(self) -> Density:
        return self.family.density(self.space)


def takes(family: Family, space: Space) -> bool:
    """Whether the family is over such events."""
    try:
        family.density(space)
    except ConfigError:
        return False
    return True


def family_round_trips_through_json(case: FamilyCase) -> None:
    expect_round_trip(case.family, Family)


def family_has_the_shapes_of_its_space(case: FamilyCase) -> None:
    d, x = case(3, 4), events(case.space, 4)
    expect(d.batch_shape == (3, 4), f"batch shape {list(d.batch_shape)}, expected [3, 4]")
    expect(d.event_shape == case.space.shape, f"event shape {list(d.event_shape)}, expected {list(case.space.shape)}")
    expect_shape("log_prob", d.log_prob(x), (3, 4))
    expect_shape("a sample", d.sample((2,)), (2, 3, 4, *case.space.shape))
    expect_shape("the mode", d.mode, (3, 4, *case.space.shape))
    if case.space.ordered:
        expect_shape("the mean", d.mean, (3, 4, *case.space.shape))
        if case.space.levels is not None:
            expect(bool(((d.mean >= 0) & (d.mean <= case.space.levels - 1)).all()), "the mean is outside the values")


def family_samples_are_events(case: FamilyCase) -> None:
    for scale in (1.0, 30.0):
        expect_in_space(case(4, scale=scale).sample((5,)).flatten(0, 1), 20, case.space)


def family_is_a_probability(case: FamilyCase) -> None:
    """The probabilities of all events add up to 1, samples have their frequencies; of a bound: to no more than 1."""
    with double(), torch.no_grad(), seeded("probability"):
        d, world = case(2, scale=0.3), all_events(case.space)
        if case.density is Density.NONE:
            return
        if case.space.levels is None:
            points, volume = lattice(case.space.dims)
            p = d.log_prob(points.reshape(-1, 1, *case.space.shape)).exp() * volume  # [N, 2]
            expect_equal("integral and 1", p.sum(0), torch.ones(2), 1e-6 if case.family.closed else 1e-3)
            first = (p[:, :, None] * points[:, None]).sum(0)  # [2, D]
            expect_mean("the samples", d.sample((MANY,)).flatten(2), first)
            tolerance = 1e-6 if case.family.closed else 0.1  # of a mean over few points
            expect_equal("mean and first moment", d.mean.flatten(1), first, tolerance)
            return
        assert world is not None
        if case.density is Density.EXACT:
            p = d.log_prob(world.unsqueeze(1)).exp()
            expect_equal("sum and 1", p.sum(0), torch.ones(2), 1e-6)
            expect_frequencies(d.sample((MANY,))[:, 0], p[:, 0], world)
            if case.space.ordered and not case.family.joint:
                first = torch.einsum("nb,n...->b...", p, world.double())
                expect_equal("mean and first moment", d.mean, first, 1e-6)
        else:
            x = world[:, None, None].expand(-1, 500, 2, *case.space.shape)
            for total in d.log_prob(x).exp().sum(0).T:
                expect_at_most_one(total)


def family_samples_carry_gradients_over_real_numbers(case: FamilyCase) -> None:
    if case.space.levels is None:
        h = case.h(3).requires_grad_()
        z = case.head()(h).rsample((2,))
        (grad,) = torch.autograd.grad(z.square().sum(), h)
        expect(bool((grad != 0).any()), "rsample has no gradient with respect to h")


def family_is_finite_far_away(case: FamilyCase) -> None:
    if case.density is Density.NONE and case.space.levels is None:
        return
    for scale in (1.0, 30.0):
        h, head = case.h(6, scale=scale).requires_grad_(), case.head()
        value = head(h).log_prob(events(case.space, 6))
        expect_finite(f"log_prob for |h| about {scale:.0f}", value)
        for grad in torch.autograd.grad(value.sum(), [h, *head.parameters()]):
            expect_finite(f"the gradient for |h| about {scale:.0f}", grad)


def family_gradients_reach_what_is_learned_once(case: FamilyCase) -> None:
    head = case.head()
    if case.density is Density.NONE and case.space.levels is None:
        return
    if any(True for _ in head.parameters()):
        expect_gradients(lambda _: [(head, head(case.h(16)).log_prob(events(case.space, 16)).sum())])


def family_rows_are_independent(case: FamilyCase) -> None:
    with double():
        h, x, head = case.h(5), events(case.space, 5), case.head()

        def value(rows: slice) -> Tensor:
            with KeyedNoise(0, range(5)[rows]) as noise:
                noise.chunk(1)
                return head(h[rows][None]).log_prob(x[rows][None])[0].detach()

        if case.density is not Density.NONE or case.space.levels is not None:
            expect_equal("log_prob of a row alone and in its batch", value(slice(3, 4)), value(slice(0, 5))[3:4])


def family_has_a_temperature(case: FamilyCase) -> None:
    with double():  # in single precision a flow's rounding alone may be a millionth
        d, x = case(4), events(case.space, 4)
        if case.density is Density.EXACT:
            expect_equal("log_prob at temperature 1", tempered(d, 1.0).log_prob(x), d.log_prob(x), 1e-5)
        cold = tempered(d, 0.0).sample((3,))
        expect_equal("samples at temperature 0 and the mode", cold, d.mode.expand(cold.shape), 1e-6)
        expect_in_space(tempered(d, 0.5).sample(), 4, case.space)


def family_can_be_cut_from_the_graph(case: FamilyCase) -> None:
    h = case.h(4).requires_grad_()
    d, x = case.head()(h), events(case.space, 4)
    with seeded("detached"):
        expected = d.log_prob(x)
    with seeded("detached"):
        value = detached(d).log_prob(x)
    expect(not value.requires_grad, "detached(d) holds the graph")
    expect_equal("log_prob of d and detached(d)", value, expected.detach(), 1e-6)


def family_neither_syncs_nor_leaves_its_device(case: FamilyCase) -> None:
    d: Distribution = case.head().to("meta")(case.h(4).to("meta"))
    value = d.log_prob(events(case.space, 4).to("meta"))
    expect(value.device.type == "meta" and value.shape == (4,), f"log_prob is {value.shape} on {value.device}")


FAMILY_CHECKS = checks_in(__name__, "family_")
