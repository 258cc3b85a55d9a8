"""Weights that processes share out: each keeps a part of every tensor, its gradient and what the optimizer knows of it.

By torch's FSDP2 (`torch.distributed.fsdp.fully_shard`; Zhao et al. 2023, https://arxiv.org/abs/2304.11277). A tensor is
cut along its first axis. The blocks of networks (`Reducible.apart`) are gathered one by one, where their pass or its
gradient needs them; what is in no block is there from the beginning of the loss to the end of its gradient. Gradients
are added up, since losses are shares of the whole batch's already.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lowerbound.devices import Reducible
from lowerbound.errors import ConfigError
from lowerbound.parallel import World

T = TypeVar("T")
_REFUSED = "train.shard=true: the loss {}, where its weights are not gathered; train without"


class Sharded:
    """The parameters of `parts`, shared out in place; those of `kept`, and single numbers, stay whole everywhere.

    Modules stay what FSDP2 makes of them: to go on without it, build the model anew. apart: whether blocks are gathered
    one by one.
    """

    def __init__(
        self, parts: Sequence[nn.Module], kept: Sequence[nn.Module], world: World, device: torch.device, *, apart: bool
    ):
        from torch.distributed.fsdp import FSDPModule, fully_shard  # takes a second, for which others need not wait

        self.world, self.mesh = world, world.mesh(device)
        self.entry = _Entry(parts)
        parameters = set(self.entry.parameters())
        whole = {p for module in kept for p in module.parameters()} | {p for p in parameters if p.dim() == 0}
        for p in parameters - whole:
            p.data = p.data.contiguous()  # FSDP2 takes no other layout
        self.blocks: list[Any] = _blocks(self.entry) if apart else []
        for block in self.blocks:
            fully_shard(block, mesh=self.mesh, reshard_after_forward=True, ignored_params=whole)
            block.register_forward_pre_hook(_check_own, prepend=True)
            block.register_forward_hook(_no_views, prepend=True)
        fully_shard(self.entry, mesh=self.mesh, reshard_after_forward=False, ignored_params=whole)
        self.groups: list[Any] = [m for m in self.entry.modules() if isinstance(m, FSDPModule)]
        for group in self.groups:
            group.set_gradient_divide_factor(1.0)
            group.set_force_sum_reduction_for_comms(True)
            group.set_custom_all_gather(_Gather(world))
            group.set_custom_reduce_scatter(_Scatter(world))
        self.cut = set(self.entry.parameters()) - whole  # what processes share out, as modules have it
        with torch.no_grad():
            self.entry(lambda: None)  # what is entered first is the root of all
        self._cut()

    def __call__(self, loss: Callable[..., T], *inputs: Any) -> T:
        """loss(*inputs), with the weights that it needs. Raises ConfigError where they can't be brought to it."""
        try:
            return self.entry(loss, *inputs)
        except RuntimeError as e:
            if "mixed torch.Tensor and DTensor" not in str(e):
                raise
            raise ConfigError(_REFUSED.format("enters a block of a network otherwise than by its pass")) from e

    # ---- what this process has

    def own(self, p: nn.Parameter) -> nn.Parameter:
        """This process's part of a parameter, in the same memory; p itself where it is whole."""
        return nn.Parameter(local(p)) if p in self.cut else p

    def part(self, whole: Tensor, p: nn.Parameter) -> Tensor:
        """This process's part of a tensor shaped like p."""
        if p not in self.cut:
            return whole
        each = -(-len(whole) // self.world.size)  # the last have fewer, or none
        return whole[each * self.world.rank :][:each]

    def spread(self, part: Tensor, p: nn.Parameter) -> Tensor:
        """The tensor shaped like p that the parts of all processes are of, as checkpoints see it."""
        from torch.distributed.tensor import DTensor, Shard

        stride = torch.empty(p.shape, device="meta").stride()
        return DTensor.from_local(part, self.mesh, (Shard(0),), run_check=False, shape=p.shape, stride=stride)

    # ---- all of it

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, modules have their whole weights, however they are entered. All processes enter and leave."""
        for block in self.blocks:
            block.set_reshard_after_forward(False, recurse=False)
        for group in self.groups:
            group.unshard()
        try:
            yield
        finally:
            for block in self.blocks:
                block.set_reshard_after_forward(True, recurse=False)
            self._cut()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """As `whole`; and what weights are changed to inside stays."""
        places = [(m, name, p) for m in self.entry.modules() for name, p in m.named_parameters(recurse=False)]
        with self.whole():
            yield
            changed = [self.part(getattr(m, name).detach(), p).clone() for m, name, p in places]
        for (_, _, p), now in zip(places, changed, strict=True):
            self.own(p).copy_(now)

    def _cut(self) -> None:
        for group in self.groups:
            group.reshard()


class _Entry(nn.Module):
    """What FSDP2 sees of a stage: its parts, and a pass that is a loss, whichever of their methods that calls."""

    def __init__(self, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, loss: Callable[..., T], *inputs: Any) -> T:
        return loss(*inputs)


def local(t: Any) -> Tensor:
    """This process's part of a tensor that is cut (a DTensor), in the same memory."""
    return t.detach().to_local()


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Those of all networks inside, each once, that are in no other."""
    found = {block for part in module.modules() if isinstance(part, Reducible) for block in part.apart}
    inner = {part for block in found for part in block.modules() if part is not block}
    return [part for part in module.modules() if part in found - inner]


def _check_own(block: nn.Module, _: Any) -> None:
    """Raise ConfigError where a pass is given other weights than the block's own (`torch.func.functional_call`)."""
    if not all(isinstance(p, nn.Parameter) for p in block.parameters()):
        raise ConfigError(_REFUSED.format("enters a block of a network with other weights than its own"))


def _no_views(block: nn.Module, _: Any, output: Any) -> Any:
    """A block's output without views: FSDP2 hears of the gradient by a hook, which a change in place of one loses."""
    return tree_map_only(Tensor, lambda t: t if t._base is None else t.clone(), output)


class _Gather:
    """FSDP2's all-gather, by the world: whose errors name a process, and whose patience is train.wait_seconds."""

    def __init__(self, world: World):
        self.world = world

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, *_: Any, **__: Any) -> None:
        self.world.gather_into(output_tensor, input_tensor)


class _Scatter(_Gather):
    """Its reduce-scatter likewise, which adds up."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, *_: Any, **__: Any) -> None:
        self.world.sum_into(output_tensor, input_tensor)
