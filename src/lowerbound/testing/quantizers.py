"""What holds of every quantizer: codes in their space, codes and vectors that agree, the same in every precision."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.errors import ModelError
from lowerbound.noise import seeded
from lowerbound.quantizers import Quantizer
from lowerbound.space import Space
from lowerbound.testing.base import (
    checks_in,
    double,
    events,
    expect,
    expect_equal,
    expect_error,
    expect_file_round_trip,
    expect_finite,
    expect_gradients,
    expect_in_space,
    expect_round_trip,
    expect_shape,
    run_checks,
)


def check_quantizer(config: Quantizer.Config | type[Quantizer.Config], size: tuple[int, int] = (2, 3)) -> None:
    """All of QUANTIZER_CHECKS, on maps of this height and width."""
    run_checks(config, QUANTIZER_CHECKS, QuantizerCase.of(config, size))


@dataclass(frozen=True)
class QuantizerCase:
    """A quantizer's configuration and the size of the maps it is checked with."""

    config: Quantizer.Config
    size: tuple[int, int] = (2, 3)

    @staticmethod
    def of(config: Quantizer.Config | type[Quantizer.Config], size: tuple[int, int] = (2, 3)) -> "QuantizerCase":
        return QuantizerCase(config.example() if isinstance(config, type) else config, size)

    def build(self, *seed: int | str) -> Quantizer:
        """In eval mode, untrained."""
        with seeded("build", *seed):
            return self.config.build().eval()

    def trained(self, *seed: int | str) -> Quantizer:
        """In eval mode, after a few steps."""
        quantizer = self.build(*seed).train()
        for step in range(4):
            with seeded("step", step):
                quantizer(self.h(quantizer, 5, step))
                quantizer.after_step()
        return quantizer.eval()

    def h(self, quantizer: Quantizer, n: int, *seed: int | str) -> Tensor:
        return events(Space((quantizer.dim, *self.size)), n, "h", *seed)


def state(quantizer: Quantizer) -> Tensor:
    """All that is saved, as one vector."""
    parts = [t.detach().double().flatten() for t in quantizer.state_dict().values()]
    return torch.cat([torch.zeros(0).double(), *parts])


def quantizer_round_trips_through_json(case: QuantizerCase) -> None:
    expect_round_trip(case.config, Quantizer.Config)


def quantizer_round_trips_through_a_file(case: QuantizerCase) -> None:
    trained = case.trained("a")
    expect_file_round_trip(trained, case.build("b"), lambda q: q.decode(q.encode(case.h(q, 3))).detach())
    with seeded("next step"):
        expected = _stepped(trained, case.h(trained, 4))
    again = case.build("c")
    again.load_state_dict(case.trained("a").state_dict(), strict=True)
    with seeded("next step"):
        expect_equal("the states one step after the file and without it", _stepped(again, case.h(again, 4)), expected)


def _stepped(quantizer: Quantizer, h: Tensor) -> Tensor:
    quantizer.train()(h)
    quantizer.after_step()
    return state(quantizer)


def quantizer_has_the_shapes_of_its_space(case: QuantizerCase) -> None:
    quantizer = case.trained()
    for mode in (quantizer.train(), quantizer.eval()):
        h = case.h(quantizer, 4)
        z, codes, loss = mode(h)
        expect_shape("z", z, h.shape)
        expect_finite("z", z)
        expect_in_space(codes, 4, quantizer.space(case.size))
        expect_shape("the loss", loss, (4,))
        expect(bool((loss >= 0).all()), "the loss of an image is below 0")


def quantizer_decodes_its_codes_to_what_it_puts_out(case: QuantizerCase) -> None:
    quantizer = case.trained()
    h = case.h(quantizer, 4)
    z, codes, _ = quantizer(h)
    expect_equal("codes of encode() and of forward()", quantizer.encode(h), codes)
    expect_equal("decode(codes) and z", quantizer.decode(codes), z)
    expect(not quantizer.encode(h).requires_grad, "encode() carries a gradient")


def quantizer_uses_its_input(case: QuantizerCase) -> None:
    quantizer = case.trained()
    codes = quantizer.encode(case.h(quantizer, 16))
    expect(len(codes.unique()) > 1, "all codes are the same, whatever the input")


def quantizer_gradients_reach_its_input_and_its_parameters(case: QuantizerCase) -> None:
    quantizer = case.trained().train()
    h = case.h(quantizer, 16).requires_grad_()
    (grad,) = torch.autograd.grad(quantizer(h).z.sum(), h)
    expect_finite("the gradient of the input", grad)
    expect(bool((grad != 0).any()), "no gradient goes straight through to the input")
    if list(quantizer.parameters()):
        expect_gradients(lambda i: [(quantizer, quantizer(case.h(quantizer, 16, i)).loss.sum())])


def quantizer_rows_are_independent(case: QuantizerCase) -> None:
    with double():
        quantizer = case.trained()
        h = case.h(quantizer, 4)
        for name, alone, whole in zip(("z", "codes", "losses"), quantizer(h[2:3]), quantizer(h), strict=True):
            expect_equal(f"{name} of a row alone and in its batch", alone, whole[2:3])


def quantizer_is_the_same_in_every_precision(case: QuantizerCase) -> None:
    """Half-precision inputs have the codes and the loss of the same numbers in float32, whatever surrounds it."""
    for dtype in (torch.bfloat16, torch.float16):
        h = case.h(case.trained(), 300).to(dtype)  # many, so that some are nearly as near to another code
        expected = case.trained()(h.float())
        expect_as_in_float32("of half-precision inputs", case.trained(), h, expected)
        expect_as_in_float32("after the module was moved to half precision", case.trained().to(dtype), h, expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expect_as_in_float32("inside autocast", case.trained(), h, expected)
    kept = case.trained()
    before = state(kept)
    expect_equal("the state before and after half precision", state(kept.half()), before)


def expect_as_in_float32(where: str, quantizer: Quantizer, h: Tensor, expected: tuple[Tensor, Tensor, Tensor]) -> None:
    z, codes, loss = quantizer(h)
    expect(z.dtype == h.dtype, f"z {where} is {z.dtype}, expected {h.dtype}")
    expect_equal(f"z {where}", z, expected[0].to(h.dtype))
    expect_equal(f"codes {where}", codes, expected[1])
    expect_equal(f"encode() {where}", quantizer.encode(h), expected[1])
    expect(loss.dtype == torch.float32, f"the loss {where} is {loss.dtype}, expected torch.float32")
    expect_equal(f"the loss {where}", loss, expected[2])


def quantizer_moves_in_training_alone(case: QuantizerCase) -> None:
    quantizer = case.trained()
    before = state(quantizer)
    quantizer(case.h(quantizer, 4, "other"))
    quantizer.after_step()
    expect_equal("the states before and after a pass in eval mode", state(quantizer), before)
    quantizer.train().encode(case.h(quantizer, 4, "other"))
    quantizer.after_step()
    expect_equal("the states before and after encode()", state(quantizer), before)


def quantizer_training_repeats(case: QuantizerCase) -> None:
    expect_equal("the states of two trainings with the same noise", state(case.trained()), state(case.trained()))


def quantizer_takes_any_batch(case: QuantizerCase) -> None:
    """One vector, and vectors that are all equal, before and after others."""
    for fill in (0.0, 1.0):
        quantizer = case.build().train()
        equal = torch.full((2, quantizer.dim, 2, 2), fill)
        for h in (equal[:1, :, :1, :1], case.h(quantizer, 3), equal):
            for _ in range(3):
                z, codes, _ = quantizer(h)
                expect_finite("z", z)
                expect_in_space(codes, len(h), quantizer.space((h.shape[2], h.shape[3])))
                quantizer.after_step()
                expect_finite("the state", state(quantizer))


def quantizer_neither_syncs_nor_leaves_its_device(case: QuantizerCase) -> None:
    for quantizer in (case.build().to("meta").train(), case.trained().to("meta").train(), case.build().to("meta")):
        for t in quantizer(case.h(quantizer, 3).to("meta")):
            expect(t.device.type == "meta", f"a part of the output is on {t.device}")


def quantizer_refuses_vectors_of_another_width(case: QuantizerCase) -> None:
    quantizer = case.build()
    wide = torch.zeros(2, quantizer.dim + 1, *case.size)
    calls: tuple[Callable, ...] = (quantizer, quantizer.encode)
    for call in calls:
        expect_error(ModelError, "vectors of another width", lambda call=call: call(wide))
        expect_error(ModelError, "vectors without a batch", lambda call=call: call(wide[0, :-1]))


QUANTIZER_CHECKS = checks_in(__name__, "quantizer_")
