"""What holds of every causal network: that no output sees what comes later, that caches change nothing, gradients."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowerbound.errors import ConfigError
from lowerbound.networks.causal import CausalNetwork
from lowerbound.noise import seeded
from lowerbound.space import Space
from lowerbound.testing.base import (
    checks_in,
    double,
    events,
    example,
    expect,
    expect_equal,
    expect_file_round_trip,
    expect_finite,
    expect_gradients,
    expect_half_precision,
    expect_round_trip,
    expect_shape,
    run_checks,
    shake_parameters,
    single,
)


def check_causal_network(
    config: CausalNetwork.Config | type[CausalNetwork.Config], size: tuple[int, int] | None = None
) -> None:
    """All of CAUSAL_CHECKS. Without a size: the one of the configuration's example()."""
    run_checks(config, CAUSAL_CHECKS, CausalCase.of(config, size))


@dataclass(frozen=True)
class CausalCase:
    """A causal network's configuration and the images it is checked with."""

    config: CausalNetwork.Config
    size: tuple[int, int]
    channels: int = 1
    each: int = 2  # features of a channel that come out; in goes one
    width: int = 3  # of the context

    @staticmethod
    def of(
        config: CausalNetwork.Config | type[CausalNetwork.Config], size: tuple[int, int] | None = None
    ) -> "CausalCase":
        own, its = example(config)
        return CausalCase(own, its if size is None else size)

    @property
    def in_shape(self) -> tuple[int, int, int]:
        return (self.channels, *self.size)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        return (self.channels * self.each, *self.size)

    def build(self, *seed: int | str, context: int = 0, shake: float = 0.3) -> CausalNetwork:
        with seeded("build", *seed):
            network = self.config.build(self.in_shape, self.out_shape, channels=self.channels, context=context)
        shake_parameters(network, *seed, scale=shake)
        return network.eval()

    def x(self, n: int, *seed: int | str) -> Tensor:
        return events(Space(self.in_shape), n, *seed)

    def c(self, n: int, *seed: int | str, whole: bool = False) -> Tensor:
        return events(Space((self.width, *(self.size if whole else (1, 1)))), n, "c", *seed)

    def with_channels(self) -> "list[CausalCase]":
        """This case and, unless the network refuses that, one of three channels in order."""
        several = replace(self, channels=3)
        try:
            several.build()
        except ConfigError:
            return [self]
        return [self, several]


def causal_network_round_trips_through_json(case: CausalCase) -> None:
    expect_round_trip(case.config, CausalNetwork.Config)


def causal_network_round_trips_through_a_file(case: CausalCase) -> None:
    expect_file_round_trip(case.build("a"), case.build("b"), lambda network: network(case.x(3)).detach())


def causal_network_puts_out_the_shape_asked_for(case: CausalCase) -> None:
    for several in case.with_channels():
        out = several.build()(several.x(3))
        expect_shape("the output", out, (3, *several.out_shape))
        expect_finite("the output", out)


def causal_network_sees_what_comes_before_and_nothing_else(case: CausalCase) -> None:
    """By the Jacobian, with random weights: dh_i/dx_j is zero for j >= i, channels included, and not for all j < i."""
    for several in case.with_channels():
        C, sees = several.channels, dependence(several)
        place = torch.empty(C, *several.size, dtype=torch.int64)  # of each feature in the order
        for t, (i, j) in enumerate(several.build().order):
            place[:, i, j] = t * C + torch.arange(C)
        before = place.flatten()[None, :] < place.flatten()[:, None]
        what = f"with {C} channels, " if C > 1 else ""
        late, missed = (sees & ~before).nonzero(), (before & ~sees).nonzero()
        expect(not len(late), f"{what}output {_place(late, case.size)} depends on input {_place(late, case.size, 1)}")
        expect(
            not len(missed),
            f"{what}output {_place(missed, case.size)} doesn't depend on input {_place(missed, case.size, 1)}",
        )


def dependence(case: CausalCase, attempts: int = 16) -> Tensor:
    """[C*H*W, C*H*W]: whether an output of a channel and position depends on an input, in any of some networks."""
    n = case.channels * case.size[0] * case.size[1]
    sees = torch.zeros(n, n, dtype=torch.bool)
    with double():
        for attempt in range(attempts):
            network = case.build("jacobian", attempt)
            jacobian = torch.autograd.functional.jacobian(network, case.x(1, attempt))
            each = jacobian.reshape(case.each, n, n)  # feature k is of channel k % C
            sees |= (each != 0).any(0)
    return sees


def _place(pairs: Tensor, size: tuple[int, int], which: int = 0) -> tuple[int, int, int] | None:
    """(channel, i, j) of the first pair."""
    if not len(pairs):
        return None
    channel, position = divmod(int(pairs[0, which]), size[0] * size[1])
    return (channel, *divmod(position, size[1]))


def causal_network_draws_from_its_cache_what_a_full_pass_would(case: CausalCase) -> None:
    for several in case.with_channels():
        for whole in (False, True):
            with double():
                _compare_steps(several, several.c(3, whole=whole), 1e-9)
            _compare_steps(several, several.c(3, whole=whole), 1e-5)


@torch.no_grad()
def _compare_steps(case: CausalCase, c: Tensor, tolerance: float) -> None:
    # in float32 with the weights as they begin: shaken ones make numbers of any size
    network = case.build(context=case.width, shake=0.3 if tolerance < 1e-6 else 0.05)
    x = case.x(3)
    h, cache = network(x, c), network.start(3, c)
    for i in range(case.size[0]):
        for j in range(case.size[1]):
            known = torch.zeros(3, case.channels)
            for channel in range(case.channels):
                for _ in range(2):  # it may be repeated
                    network.put(cache, known, i, j)
                    found = network.step(cache, i, j)
                now = slice(channel, None, case.channels)
                expect_equal(f"step {(channel, i, j)} and the full pass", found[:, now], h[:, now, i, j], tolerance)
                known[:, channel] = x[:, channel, i, j]
            network.put(cache, known, i, j)


def causal_network_is_reached_everywhere_by_its_context(case: CausalCase) -> None:
    with double():
        reached = torch.zeros(case.out_shape, dtype=torch.bool)
        for attempt in range(16):
            network, x = case.build("context", attempt, context=case.width), case.x(1, attempt)
            jacobian = torch.autograd.functional.jacobian(lambda c, n=network, x=x: n(x, c), case.c(1, attempt))
            reached |= (jacobian != 0).flatten(4).any(-1)[0]
        expect(bool(reached.all()), f"the condition does not reach output {_place((~reached).nonzero(), case.size)}")


def causal_network_rows_are_independent(case: CausalCase) -> None:
    with double():
        network, x, c = case.build(context=case.width), case.x(4), case.c(4)
        expect_equal("a row alone and in its batch", network(x[2:3], c[2:3]), network(x, c)[2:3])


def causal_network_gradients_reach_every_parameter(case: CausalCase) -> None:
    for several in case.with_channels():
        network = several.build(context=several.width).train()
        expect_gradients(lambda _, n=network, s=several: [(n, n(s.x(16), s.c(16)).square().sum())])


def causal_network_neither_syncs_nor_leaves_its_device(case: CausalCase) -> None:
    out = case.build(context=case.width).to("meta")(case.x(3).to("meta"), case.c(3).to("meta"))
    expect(out.device.type == "meta", f"the output is on {out.device}")


def causal_network_can_be_computed_in_half_precision(case: CausalCase) -> None:
    with single():
        network, x, c = case.build(context=case.width), case.x(16), case.c(16)
        expect_half_precision(network, lambda: network(x, c))


CAUSAL_CHECKS = checks_in(__name__, "causal_network_")
