"""What holds of every network: the shape it puts out, that its input and its context matter, gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.networks.base import Network, Shape
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


def check_network(
    config: Network.Config | type[Network.Config], in_shape: Shape | None = None, out_shape: Shape | None = None
) -> None:
    """All of NETWORK_CHECKS. Without shapes: those of the configuration's example()."""
    run_checks(config, NETWORK_CHECKS, NetworkCase.of(config, in_shape, out_shape))


@dataclass(frozen=True)
class NetworkCase:
    """A network's configuration and the shapes it is checked with."""

    config: Network.Config
    in_shape: Shape
    out_shape: Shape
    width: int = 3  # of the context

    @staticmethod
    def of(
        config: Network.Config | type[Network.Config], in_shape: Shape | None = None, out_shape: Shape | None = None
    ) -> "NetworkCase":
        own, its_in, its_out = example(config)
        return NetworkCase(own, its_in if in_shape is None else in_shape, its_out if out_shape is None else out_shape)

    def build(self, *seed: int | str, context: int = 0) -> Network:
        with seeded("build", *seed):
            network = self.config.build(self.in_shape, self.out_shape, context)
        shake_parameters(network, *seed)
        return network.eval()

    def x(self, n: int) -> Tensor:
        return events(Space(self.in_shape), n)

    def c(self, n: int, *seed: int | str) -> Tensor:
        return events(Space((self.width,)), n, "c", *seed)


def network_round_trips_through_json(case: NetworkCase) -> None:
    expect_round_trip(case.config, Network.Config)


def network_round_trips_through_a_file(case: NetworkCase) -> None:
    expect_file_round_trip(case.build("a"), case.build("b"), lambda network: network(case.x(3)).detach())


def network_puts_out_the_shape_asked_for(case: NetworkCase) -> None:
    out = case.build()(case.x(3))
    expect_shape("the output", out, (3, *case.out_shape))
    expect_finite("the output", out)
    expect_shape("the output given a context", case.build(context=3)(case.x(3), case.c(3)), (3, *case.out_shape))


def network_uses_its_input_and_its_context(case: NetworkCase) -> None:
    network = case.build(context=case.width)
    out = network(case.x(4), case.c(4))
    expect(not torch.allclose(out, network(case.x(4), case.c(4, "other"))), "the context changes nothing")
    expect(not torch.allclose(out, network(case.x(4).flip(0), case.c(4))), "the input changes nothing")


def network_rows_are_independent(case: NetworkCase) -> None:
    with double():
        network, x, c = case.build(context=case.width), case.x(4), case.c(4)
        expect_equal("a row alone and in its batch", network(x[2:3], c[2:3]), network(x, c)[2:3])


def network_gradients_reach_every_parameter(case: NetworkCase) -> None:
    network = case.build(context=case.width).train()
    expect_gradients(lambda _: [(network, network(case.x(16), case.c(16)).square().sum())])


def network_neither_syncs_nor_leaves_its_device(case: NetworkCase) -> None:
    out = case.build(context=case.width).to("meta")(case.x(3).to("meta"), case.c(3).to("meta"))
    expect(out.device.type == "meta", f"the output is on {out.device}")


def network_can_be_computed_in_half_precision(case: NetworkCase) -> None:
    with single():
        network, x, c = case.build(context=case.width), case.x(16), case.c(16)
        expect_half_precision(network, lambda: network(x, c))


NETWORK_CHECKS = checks_in(__name__, "network_")
