"""What a pass of a diffusion model holds, against what the model says of it: so many events are passed at once."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lowerbound.model import Draw, Model
from lowerbound.models.diffusion import Diffusion
from lowerbound.models.discrete_diffusion import DiscreteDiffusion
from lowerbound.networks.unet import UNet
from lowerbound.runs import recipes
from lowerbound.space import Space


class Held(TorchDispatchMode):
    """What is computed: the numbers of the largest tensor, and the most bytes that are held at once. Views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.bytes = self._now = 0
        self._tensors: dict[int, int] = {}  # how many share each storage

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor):
                if t.untyped_storage().data_ptr() not in given:
                    self.largest = max(self.largest, t.numel())
                self._hold(t)
        return out

    def _hold(self, t: Tensor) -> None:
        where, size = t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()
        if where not in self._tensors:
            self._now += size
            self.bytes = max(self.bytes, self._now)
        self._tensors[where] = self._tensors.get(where, 0) + 1
        weakref.finalize(t, self._drop, where, size)

    def _drop(self, where: int, size: int) -> None:
        self._tensors[where] -= 1
        if not self._tensors[where]:
            del self._tensors[where]
            self._now -= size


@contextmanager
def counted() -> Iterator[Held]:
    with torch.no_grad(), Held() as held:
        yield held


def unet(*widths: int, **options: Any) -> UNet.Config:
    return UNet.Config(widths=widths, **{"blocks": 1, "groups": 2, **options})


NETWORKS = {
    "three sizes": unet(8, 16, 24),
    "the widest at the smallest": unet(4, 8, 200),
    "one size": unet(8, blocks=3),
    "attention": unet(8, 16, attention=(0,), blocks=2),
    "no middle": unet(8, 16, middle=False),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_largest_layer_of_a_network_is_the_largest_that_it_computes(network: UNet.Config):
    net = network.build((1, 16, 16), (1, 16, 16), context=4).eval()
    with counted() as held:
        net(torch.randn(1, 1, 16, 16), torch.randn(1, 4))
    assert net.largest((16, 16)) == held.largest


def of_recipe(**parts: Any) -> Model:
    return recipes.load("diffusion-mnist", {"model": parts}).model.build(Space((1, 28, 28), levels=256))


CODES, MAP = Space((8, 8), levels=12, ordered=False), Space((4, 8, 8))
MODELS: dict[str, Callable[[], Model]] = {
    "diffusion-mnist": of_recipe,
    "of many values": lambda: of_recipe(schedule={"type": "schedules.LearnedEnds"}),
    "of real events": lambda: Diffusion.Config(network=unet(16, 24)).build(MAP),
    "masks": lambda: DiscreteDiffusion.Config(network=unet(16, 24)).build(CODES),
    "multinomial": lambda: DiscreteDiffusion.Config(noise="multinomial", steps=3, network=unet(16, 24)).build(CODES),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_no_layer_is_larger_than_a_model_says(build: Callable[[], Model]):
    model = build().eval()
    with counted() as drawing:
        x = model.draw(1, how=Draw(steps=1)).x
    with counted() as measuring:
        model.elbo(x)
    assert max(drawing.largest, measuring.largest) == model.footprint


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_what_is_drawn_at_once_is_held_in_bounded_memory(build: Callable[[], Model]):
    """2^22 numbers of a layer, of which a pass holds four to six: what goes in and comes out, and the way down."""
    model = build().eval()
    n = min(100, model.at_once())
    with counted() as held:
        model.draw(n, how=Draw(steps=1))
    assert held.bytes / n * model.at_once() < 7 * 4 * 2**22
