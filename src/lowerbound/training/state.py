"""How far a stage has come, and all that resuming it exactly needs."""

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.errors import RunError
from lowerbound.model import Model
from lowerbound.parallel import ALONE, World
from lowerbound.runs.run import Run
from lowerbound.training.movers import Movers
from lowerbound.training.sharded import local
from lowerbound.training.window import Window


@dataclass
class Place:
    """How far a stage has come."""

    step: int = 0
    seconds: float = 0.0  # that its steps took, validation and pictures left out
    logged_seconds: float = 0.0  # the same, at the last line of the log
    best: float = -math.inf  # score
    since_best: int = 0  # validations
    finished: bool = False


@dataclass
class State:
    """What a stage's saved state holds, beside what it was trained on."""

    trained: Model
    movers: Movers
    window: Window
    at: Place
    device: torch.device

    def tensors(self) -> dict[str, Tensor]:
        movers = self.movers
        tensors = {f"model.{k}": t for k, t in self._model().items()}
        tensors |= {f"average.{i}": t for i, t in enumerate(movers.average)}
        tensors |= self.window.state()[0]
        for t, mover in enumerate(movers.each):
            tensors |= {f"guard.{t}.norms": mover.guard.norms, f"guard.{t}.skipped": mover.guard.skipped}
            for i, state in mover.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{t}.{i}.{k}": v for k, v in state.items()}
        return tensors

    def values(self) -> dict[str, Any]:
        place = {_SAVED_AS.get(k, k): v for k, v in asdict(self.at).items()}
        return place | {
            "best": None if self.at.best == -math.inf else self.at.best,
            "window": self.window.state()[1],
            "window_steps": self.window.steps,
            "guard_counts": [int(mover.guard.count) for mover in self.movers.each],
            "machine": machine(self.device),
        }

    def _model(self) -> dict[str, Tensor]:
        """What this process has of the model's parameters, and its buffers: in their own memory."""
        state, sharded = self.trained.state_dict(keep_vars=True), self.movers.sharded
        return {name: t.detach() if sharded is None else sharded.own(t).detach() for name, t in state.items()}

    def save(self, run: Run, stage: str, more: dict[str, Any], world: World = ALONE) -> None:
        """All processes call it."""
        tensors, values, sharded = self.tensors(), self.values() | more, self.movers.sharded
        if sharded is not None:
            whole = {name: p for name in tensors if (p := self._shared(name)) is not None}
            cut = {name: sharded.spread(tensors.pop(name), p) for name, p in whole.items()}
            values |= {"parts": run.save_parts(stage, cut, world)} if cut else {}
        if world.first:
            run.save_state(stage, tensors, values)

    def _shared(self, name: str) -> nn.Parameter | None:
        """The parameter that processes share out, where a tensor of this name in the state is shaped like it."""
        assert self.movers.sharded is not None
        kind, _, rest = name.partition(".")
        found: nn.Parameter | None = None
        if kind == "model":
            found = dict(self.trained.named_parameters(remove_duplicate=False)).get(rest)
        elif kind == "average":
            of_all = [p for mover in self.movers.each for p in mover.named]
            found = of_all[int(rest)] if int(rest) < len(of_all) else None
        elif kind == "optimizer":
            t, i, key = rest.split(".")
            mover = self.movers.each[int(t)]
            own = [p for group in mover.optimizer.param_groups for p in group["params"]][int(i)]
            found = None if key == "step" else dict(zip(mover.parameters, mover.named, strict=True))[own]
        return found if found in self.movers.sharded.cut else None

    def _own(self, run: Run, stage: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of the tensors of a saved state what this process has: of those that are shared out, its part."""
        sharded = self.movers.sharded
        if sharded is None:
            return dict(tensors)

        def cut(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
            p = self._shared(name)
            if p is None or p.shape != shape:
                raise KeyError(name)
            rows = len(sharded.part(torch.empty(shape, device="meta"), p))
            return sharded.spread(torch.zeros(rows, *shape[1:], dtype=dtype, device=self.device), p)

        shared = {name: self._shared(name) for name in tensors}
        own = {name: t if (p := shared[name]) is None else sharded.part(t, p) for name, t in tensors.items()}
        if "parts" in values:
            own |= {name: local(t) for name, t in run.load_parts(stage, values, cut).items()}
        return own

    def restore(self, run: Run, stage: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a saved state. Raises RunError where it is of another model or training."""
        try:
            self._restore(self._own(run, stage, tensors, values), values)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as e:
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise RunError(
                f"the state of {run.path} does not fit its config.json ({reason}); start over with --overwrite"
            ) from None

    def _restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        for field in fields(Place):
            setattr(self.at, field.name, values[_SAVED_AS.get(field.name, field.name)])
        self.at.best = -math.inf if values["best"] is None else values["best"]
        if self.movers.sharded is None:
            self.trained.load_state_dict({k[6:]: t for k, t in tensors.items() if k.startswith("model.")})
        else:
            for name, t in self._model().items():
                t.copy_(tensors[f"model.{name}"])
        for i, a in enumerate(self.movers.average):
            a.copy_(tensors[f"average.{i}"])
        self.window.restore(tensors, values["window"], values["window_steps"])
        for t, mover in enumerate(self.movers.each):
            mover.guard.norms.copy_(tensors[f"guard.{t}.norms"])
            mover.guard.skipped.copy_(tensors[f"guard.{t}.skipped"])
            mover.guard.count.fill_(values["guard_counts"][t])
            _restore_optimizer(mover.optimizer, tensors, f"optimizer.{t}.")


_SAVED_AS = {"logged_seconds": "_logged_seconds"}  # names that states have had for long


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Its state, each tensor laid out in memory like its weights (channels last): fused kernels go by the memory."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, t in tensors.items():
        if name.startswith(prefix):
            i, _, k = name[len(prefix) :].partition(".")
            p = parameters[int(i)]
            state.setdefault(int(i), {})[k] = torch.empty_like(p).copy_(t) if t.shape == p.shape else t
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def machine(device: torch.device) -> dict[str, Any]:
    """What exact resuming depends on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
