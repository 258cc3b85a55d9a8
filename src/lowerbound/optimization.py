"""The optimizer's side of training: optimizers, schedules, averaged weights, and the guard against exploding steps."""

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound.config import Component


class Optimizer(Component, abstract=True):
    """How parameters move."""

    lr: float = Field(default=1e-3, gt=0)  # learning rate

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), fused into one kernel."""

    beta1: float = Field(default=0.9, ge=0, lt=1)  # decay of the mean of gradients
    beta2: float = Field(default=0.999, ge=0, lt=1)  # decay of the mean of their squares
    eps: float = Field(default=1e-8, gt=0)  # added to the root of that mean

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), fused into one kernel."""

    beta1: float = Field(default=0.9, ge=0, lt=1)  # decay of the mean of gradients
    beta2: float = Field(default=0.999, ge=0, lt=1)  # decay of the mean of their squares
    eps: float = Field(default=1e-8, gt=0)  # added to the root of that mean
    weight_decay: float = Field(default=0.01, ge=0)  # share of a weight that a step of lr 1 takes away
    decay_vectors: bool = True  # False: what has one axis, such as biases, does not decay

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas, decay = (self.beta1, self.beta2), self.weight_decay
        groups: Any = list(parameters)
        if not self.decay_vectors:
            groups = [{"params": [p for p in groups if p.dim() > 1]}, {"params": [p for p in groups if p.dim() < 2]}]
            groups = [{**group, "weight_decay": w} for group, w in zip(groups, (decay, 0.0), strict=True)]
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, weight_decay=decay, fused=True)


class Schedule(Component, abstract=True):
    """The learning rate over the steps, as a factor of the optimizer's."""

    warmup: int = Field(default=0, ge=0)  # steps of linear growth from 0

    def factor(self, step: int, steps: int) -> float:
        """The factor at `step` of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.after_warmup(step, steps)

    @abstractmethod
    def after_warmup(self, step: int, steps: int) -> float: ...


class Constant(Schedule):
    """The same rate throughout."""

    def after_warmup(self, step: int, steps: int) -> float:
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 down to `final` (Loshchilov & Hutter 2017)."""

    final: float = Field(default=0.0, ge=0)  # learning rate at the end, for one of `lr`

    def after_warmup(self, step: int, steps: int) -> float:
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


class Step(Schedule):
    """Times `factor_each` at each of these fractions of the training."""

    at: tuple[float, ...] = (0.5, 0.75)  # shares of the training, after each of which the learning rate falls
    factor_each: float = Field(default=0.1, gt=0)  # by which it falls there

    def after_warmup(self, step: int, steps: int) -> float:
        return self.factor_each ** sum(step >= a * steps for a in self.at)


def grown(step: Any, over: int) -> Any:
    """min(1, step / over): how far what grows over so many steps has come. A step on a device stays there.

    Example:
        >>> grown(5, 10), grown(20, 10), grown(torch.tensor(5.0), 10)
        (0.5, 1.0, tensor(0.5000))
    """
    done = step / over
    return done.clamp(max=1.0) if isinstance(done, Tensor) else min(1.0, done)


class Averaging(Component):
    """An exponential moving average of the weights, updated every `every` steps (the same average, sampled).

    The decay grows with the number of updates, so that the start is forgotten: min(decay, (1 + n) / (10 + n)).
    """

    decay: float = Field(default=0.999, ge=0, lt=1)  # of what the average holds already, at each step
    every: int = Field(default=10, gt=0)  # steps between two updates of the average

    def update(self, average: list[Tensor], weights: list[Tensor], step: int) -> None:
        if (step + 1) % self.every == 0:
            n = (step + 1) // self.every
            weight = 1 - min(self.decay**self.every, (1 + n) / (10 + n))
            torch._foreach_lerp_(average, weights, weight)  # pyright: ignore[reportPrivateImportUsage]


class Skip(Component):
    """Leaves out a step whose gradient norm is above `factor` times the median of the last `window`.

    Every finite norm enters the window, that of a skipped step too: where gradients stay large, the threshold follows
    within half a window, so training always recovers. None is skipped before the window is half full.
    """

    factor: float = Field(default=20.0, gt=1)  # times the median of late gradients, above which a step is left out
    window: int = Field(default=100, gt=1)  # steps that the median is of

    def threshold(self, norms: Tensor, count: Tensor) -> Tensor:
        """The largest norm that is not skipped; `norms` [window] is a ring of the last norms, `count` all seen."""
        n = count.clamp(max=self.window)
        seen = torch.arange(self.window, device=norms.device) < n
        ordered = torch.where(seen, norms, math.inf).sort().values
        median = ordered.gather(0, ((n - 1).clamp(min=0) // 2)[None])[0]
        return torch.where(count < self.window // 2, math.inf, self.factor * median)


def norm_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of their gradients, []; 0 where they have none."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(grads) if grads else [torch.zeros(())]  # pyright: ignore[reportPrivateImportUsage]
    return torch.linalg.vector_norm(torch.stack(norms))


class Guard:
    """Clips and skips through the fused optimizers' own inputs, without waiting for the device.

    All that it remembers is on the device, so that a step may be a CUDA graph. The gradient is divided by `grad_scale`
    and the step left out where `found_inf` is set: both are read by the kernel that moves the weights, so clipping
    costs no pass over the gradients of its own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clip: float | None, skip: Skip | None, device: torch.device):
        self.optimizer = optimizer
        self.clip = clip
        self.skip = skip
        self.norms = torch.zeros(skip.window if skip else 1, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), device=device)

    def step(self, parameters: list[nn.Parameter], norm: Tensor | None = None) -> Tensor:
        """Move the weights, or leave them; returns the gradient's norm before clipping.

        norm: the gradient's, where these parameters are only a part.
        """
        if norm is None:
            norm = norm_of(parameters)
        finite = torch.isfinite(norm)
        refused = ~finite
        if self.skip:
            refused = refused | (norm > self.skip.threshold(self.norms, self.count))
            slot = (self.count % len(self.norms))[None]
            self.norms.scatter_(0, slot, torch.where(finite, norm, self.norms.gather(0, slot)))
            self.count += 1
        refused = refused.float()
        self.skipped += refused
        self.optimizer.found_inf = refused  # pyright: ignore[reportAttributeAccessIssue]
        if self.clip is not None:
            scale = (norm / self.clip).clamp(min=1.0).float()  # as kernels read it
            self.optimizer.grad_scale = scale  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        return norm
