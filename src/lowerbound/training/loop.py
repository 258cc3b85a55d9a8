"""The loop that trains one stage: it can be killed at any moment and resumed exactly."""

import math
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.chunks import log_density
from lowerbound.data.batches import Batches
from lowerbound.devices import reduced
from lowerbound.errors import ConfigError, Interrupted, RunError, TrainingError
from lowerbound.model import LatentModel, Model
from lowerbound.noise import key, reseed, seeded
from lowerbound.optimization import Guard
from lowerbound.processes import keep_freed
from lowerbound.progress import Progress
from lowerbound.runs.recipes import Training
from lowerbound.runs.run import Run
from lowerbound.sampling import drawing, sheets
from lowerbound.space import Density
from lowerbound.stages import Loss, Stage
from lowerbound.training.prepared import Prepared
from lowerbound.units import bits_per_dim


class Loop:
    """The training of one stage. Everything random is a function of (seed, stage, step)."""

    def __init__(
        self,
        run: Run,
        model: Model,
        stage: Stage,
        images: tuple[Batches, Batches] | tuple[Prepared, Prepared],
        progress: Progress,
        stop: threading.Event,
        *,
        pictures: bool = True,  # samples after every validation
        made_by: str = "",  # the code of the weights that turned images into what is trained on
    ):
        self.pictures, self.made_by = pictures, made_by
        self.run, self.model, self.stage, self.progress, self.stop = run, model, stage, progress, stop
        self.trained: Model = stage.model or model  # what is measured, and what a state holds
        self.images, self.valid = images
        self.config: Training = run.recipe.train.of(stage.name)
        self.seed = key(run.recipe.seed, stage.name)
        self.device = self.images.device
        self.steps = 1 if stage.fit else self.config.total_steps(len(self.images))
        self.valid_every = self.config.valid_every or max(1, math.ceil(self.steps / 20))
        self.saved_step = 0
        self.drawing = 0.0  # seconds that samples of the weights so far have taken
        self.writer: Any = None  # of TensorBoard
        # what a saved state holds
        self.step = 0
        self.seconds = 0.0
        self.best = -math.inf
        self.since_best = 0
        self.finished = False
        self.window: Tensor | None = None  # sums of the terms since the last line of the log, in float64
        self.terms: list[str] = []  # their names
        self.window_steps = 0
        self.parameters = [[p for part in turn.parts for p in part.parameters()] for turn in stage.turns]
        self.optimizers = [self.config.optimizer.build(ps) for ps in self.parameters]
        self.guards = [Guard(o, self.config.clip, self.config.skip, self.device) for o in self.optimizers]
        self.weights = [p.detach() for ps in self.parameters for p in ps] + _learned_buffers(stage)
        self.average = [p.clone() for p in self.weights] if self.config.averaging else []

    # ---- the loop

    def run_through(self) -> bool:
        """From the saved state, or the beginning, to the end; whether anything was left to do.

        The model has the stage's best weights afterwards, for the stages that follow.
        """
        self._restore()
        if self.finished:
            self.run.load_weights(self.model)
            return False
        self.model.eval()
        self.trained.train()
        try:
            self._train()
        finally:
            if self.writer is not None:
                self.writer.close()
        self.run.load_weights(self.model)
        return True

    def _train(self) -> None:
        keep_freed()
        saved = time.monotonic()
        with self.progress.bar(self.steps, self.step) as bar:
            while self.step < self.steps and not self._out_of_patience():
                started = time.monotonic()
                loss, norm = self._step()
                self.step += 1
                self._add(loss, norm)
                looked = self._look()
                self.seconds += time.monotonic() - started
                bar(self.step, self._log() if self._is_logged() else {})
                if self.step % self.valid_every == 0 or self.step == self.steps:
                    self._validate()
                if self.stop.is_set():
                    self._save()
                    raise Interrupted(str(self.run.path))
                if looked and time.monotonic() - saved > self.config.save_seconds:
                    self._save()
                    saved = time.monotonic()
        self.finished = True
        self._save()

    def _step(self) -> tuple[Loss, Tensor]:
        """One step of every optimizer of the stage."""
        reseed(key(self.seed, "step", self.step), self.device)
        x, y = self.images.training(self.step, self.config.batch, self.seed)
        if self.stage.fit:
            return self._fit(x, y)
        factor = self.config.schedule.factor(self.step, self.steps)
        for turn, optimizer, guard, parameters in zip(
            self.stage.turns, self.optimizers, self.guards, self.parameters, strict=True
        ):
            optimizer.param_groups[0]["lr"] = self.config.optimizer.lr * factor
            with reduced(self.config.precision):
                loss = turn.loss(x, y, self.step)
            for p in parameters:
                p.grad = None
            loss.value.backward()
            norm = guard.step(parameters)
        self.trained.after_step()
        if self.config.averaging:
            self.config.averaging.update(self.average, self.weights, self.step)
        return Loss(loss.value.detach(), loss.terms), norm

    @torch.no_grad()
    def _fit(self, x: Tensor, y: Tensor | None) -> tuple[Loss, Tensor]:
        """The whole stage in closed form; the loss of a batch afterwards is what is logged."""
        assert self.stage.fit is not None
        self.stage.fit(self.images)
        self.average = [w.clone() for w in self.weights] if self.average else []
        return self.stage.turns[0].loss(x, y, self.step), torch.zeros(())

    # ---- what can go wrong

    def _look(self) -> bool:
        """Stop at a loss or gradient that is not finite; whether it was looked at, since a GPU would have to wait.

        Nothing is saved: the weights that gave it are suspect, those of the last state are not.
        """
        if self.device.type == "cuda" and not self._is_logged() and not self.stop.is_set():
            return False
        bad = [name for name, total in self._sums().items() if not math.isfinite(total)]
        if bad:
            terms = [name for name in bad if name not in ("loss", "grad_norm")]
            what = "gradient" if bad == ["grad_norm"] else "loss"
            raise TrainingError(
                f"step {self.step}: the {what} is not finite{' (' + ', '.join(terms) + ')' if terms else ''}; "
                f"first in {self._first_not_finite()}. {self.run.path} keeps the last good state, of step "
                f"{self.saved_step}: resume from it with a smaller train.optimizer.lr or train.clip"
            )
        return True

    def _is_logged(self) -> bool:
        return self.step % self.config.log_every == 0 or self.step == self.steps

    def _first_not_finite(self) -> str:
        """The first layer whose output, or else whose parameters' gradient, is not finite, repeating the step."""
        found: list[str] = []
        names = {m: n for n, m in self.model.named_modules()}

        def look(module: nn.Module, _: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(names[module])

        hooks = [m.register_forward_hook(look) for m in self.model.modules() if not list(m.children())]
        try:
            torch.manual_seed(key(self.seed, "step", self.step - 1))
            x, y = self.images.training(self.step - 1, self.config.batch, self.seed)
            with reduced(self.config.precision):
                for turn in self.stage.turns:
                    turn.loss(x, y, self.step - 1)
        finally:
            for hook in hooks:
                hook.remove()
        bad = [n for n, p in self.model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        return f"the layer {found[0]}" if found else f"the gradient of {bad[0]}" if bad else "the objective"

    # ---- the log

    def _add(self, loss: Loss, norm: Tensor) -> None:
        means = torch.stack([loss.value, norm, *(t.detach().mean() for t in loss.terms.values())]).double()
        self.window = means if self.window is None else self.window.add_(means)
        self.terms = ["loss", "grad_norm", *loss.terms]
        self.window_steps += 1

    def _sums(self) -> dict[str, float]:
        return {} if self.window is None else dict(zip(self.terms, self.window.tolist(), strict=True))

    def _log(self) -> dict[str, float]:
        """One line: the means of the terms since the last."""
        means = {name: total / self.window_steps for name, total in self._sums().items()}
        rate = self.window_steps * self.config.batch / max(1e-9, self.seconds - self._logged_seconds)
        means["lr"] = self.optimizers[0].param_groups[0]["lr"]
        means["skipped"] = sum(float(g.skipped) for g in self.guards)
        self._write({"split": "train", "seconds": round(self.seconds, 3), "images_per_second": round(rate, 1), **means})
        self.window, self.window_steps, self._logged_seconds = None, 0, self.seconds
        if "elbo" in means:
            means["bits_per_dim"] = bits_per_dim(-means["elbo"], self.trained.space.dims)
        return means | {"images_per_second": rate}

    _logged_seconds = 0.0

    def _write(self, values: dict[str, Any]) -> None:
        self.run.log.append({"step": self.step, "stage": self.stage.name, **values})
        if self.config.tensorboard:
            self._tensorboard(values)

    def _tensorboard(self, values: dict[str, Any]) -> None:
        if self.writer is None:  # a resumed run hides the events after its state
            self.writer = summary_writer()(str(self.run.tensorboard), purge_step=self.step)
        for name, value in values.items():
            if isinstance(value, float):
                self.writer.add_scalar(f"{values['split']}/{name}", value, self.step)

    # ---- validation, on noise of its own

    def _validate(self) -> None:
        """Measure the weights and their average; keep the average (or the weights) if it is the best so far."""
        score = "elbo" if self._has_bound else "minus_loss"
        values = {"weights": self._bound()}
        with self._averaged():
            values[score] = self._bound() if self.average else values["weights"]
            if not all(map(math.isfinite, values.values())):
                raise TrainingError(
                    f"step {self.step}: the {'bound' if self._has_bound else 'loss'} on the validation images is not "
                    f"finite. {self.run.path} keeps the "
                    f"last good state, of step {self.saved_step}: resume from it with a smaller train.optimizer.lr"
                )
            self.since_best += 1
            if values[score] > self.best:
                self.best, self.since_best = values[score], 0
                self.stage.learned(True)
                self.run.save_model(self.model)
            self._live_pictures()
        self._write({"split": "valid", "seconds": round(self.seconds, 3), **values})
        if self._has_bound:
            bits = bits_per_dim(-values["elbo"], self.trained.space.dims)
            text = f"validation bound {values['elbo']:.2f} nats, {bits:.3f} bits/{'dim' if self._of_images else 'code'}"
        else:
            text = f"validation loss {-values['minus_loss']:.4g}"
        self.progress.note(f"step {self.step:,}: {text}", last=self.step == self.steps or self._out_of_patience())

    @property
    def _has_bound(self) -> bool:
        return self.trained.density is not Density.NONE

    @property
    def _of_images(self) -> bool:
        return self.stage.prepare is None

    def _bound(self) -> float:
        """The mean bound on the validation images, in nats; minus the loss for a model that has none."""
        self.trained.eval()
        try:
            with torch.no_grad():
                if self._has_bound:
                    return float(log_density(self.trained, self.valid, limit=self.config.valid_images).mean())
                return self._minus_loss()
        finally:
            self.trained.train()

    def _minus_loss(self) -> float:
        total, n = 0.0, 0
        with seeded(self.seed, "valid", device=self.device):
            for batch in self.valid.in_order(self.config.batch, self.config.valid_images):
                total += float(self.stage.turns[0].loss(batch.x, batch.y, self.step).value) * len(batch.x)
                n += len(batch.x)
        return -total / n

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged weights."""
        kept = [w.clone() for w in self.weights] if self.average else []
        for w, a in zip(self.weights, self.average, strict=False):
            w.copy_(a)
        try:
            yield
        finally:
            for w, k in zip(self.weights, kept, strict=False):
                w.copy_(k)

    def _live_pictures(self) -> None:
        model = self.model
        slow = model.cost > 0
        if not self.pictures or len(model.space.shape) != 3 or self.drawing > _SHARE * self.seconds:
            return
        begun = time.monotonic()
        model.eval()
        with seeded(self.seed, "pictures", device=self.device):
            if model.can_sample and (not slow or self._is_quick(model)):
                sheets.draw_samples(self.run, model, 16 if slow else 64)
            elif model.levels and isinstance(model, LatentModel) and self.stage.prepare is None:
                sheets.draw_reconstructions(self.run, model, next(self.valid.in_order(16)))
        self.trained.train()
        self.drawing += time.monotonic() - begun if slow else 0.0

    def _is_quick(self, model: Model) -> bool:
        """Whether samples take seconds."""
        return self.device.type != "cpu" or drawing.affordable(model, 16, least=0) > 0

    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.since_best >= self.config.patience

    # ---- the state

    def _save(self) -> None:
        tensors = {f"model.{k}": t for k, t in self.trained.state_dict().items()}
        tensors |= {f"average.{i}": t for i, t in enumerate(self.average)}
        tensors |= {} if self.window is None else {"window": self.window}
        for t, (optimizer, guard) in enumerate(zip(self.optimizers, self.guards, strict=True)):
            tensors |= {f"guard.{t}.norms": guard.norms, f"guard.{t}.skipped": guard.skipped}
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{t}.{i}.{k}": v for k, v in state.items()}
        values = {name: getattr(self, name) for name in _SAVED} | {
            "best": None if self.best == -math.inf else self.best,
            "guard_counts": [g.count for g in self.guards],
            "window": self.terms if self.window is not None else [],
            "machine": _machine(self.device),
            "made_by": self.made_by,
        }
        self.run.save_state(self.stage.name, tensors, values)
        self.saved_step = self.step

    def _restore(self) -> None:
        """Take up the saved state; where there is none, save the beginning."""
        state = self.run.load_state(self.stage.name)
        if state is None:
            self._save()
            return
        if state[1].get("made_by", "") != self.made_by:
            raise RunError(
                f"the stage {self.stage.name} of {self.run.path} was trained on what other weights gave; start it over "
                f"with --stage {self.stage.name} --overwrite"
            )
        try:
            values = self._take_up(*state)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as e:
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise RunError(
                f"the state of {self.run.path} does not fit its config.json ({reason}); start over with --overwrite"
            ) from None
        self.saved_step = self.step
        self.finished &= self.step >= self.steps or self._out_of_patience()
        if self.finished:
            return
        self.run.log.cut(self.stage.name, self.step)
        now = _machine(self.device)
        changed = [f"{k} was {v}, is {now.get(k)}" for k, v in values["machine"].items() if v != now.get(k)]
        if changed:
            self.progress.say(f"resuming elsewhere ({'; '.join(changed)}): the weights may differ in their last bits")
        self.progress.say(f"resuming {self.run.path} at step {self.step} of {self.steps}")

    def _take_up(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> dict[str, Any]:
        for name in _SAVED:
            setattr(self, name, values[name])
        self.best = -math.inf if values["best"] is None else values["best"]
        self.trained.load_state_dict({k[6:]: t for k, t in tensors.items() if k.startswith("model.")})
        for i, a in enumerate(self.average):
            a.copy_(tensors[f"average.{i}"])
        self.terms = values["window"]
        self.window = tensors["window"].to(self.device) if self.terms else None
        for t, (optimizer, guard) in enumerate(zip(self.optimizers, self.guards, strict=True)):
            guard.norms.copy_(tensors[f"guard.{t}.norms"])
            guard.skipped.copy_(tensors[f"guard.{t}.skipped"])
            guard.count = values["guard_counts"][t]
            _restore_optimizer(optimizer, tensors, f"optimizer.{t}.")
        return values


def _learned_buffers(stage: Stage) -> list[Tensor]:
    """What a stage learns without gradients, such as codebooks: the buffers that are saved, of real numbers."""
    kept = [t for turn in stage.turns for part in turn.parts for t in part.state_dict(keep_vars=True).values()]
    return [t for t in kept if not isinstance(t, nn.Parameter) and t.is_floating_point()]


_SHARE = 0.05  # of the time that steps take, at most, goes into pictures of models that are slow to draw
_SAVED = ("step", "seconds", "since_best", "finished", "window_steps", "_logged_seconds")


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


def summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("train.tensorboard: install it with `pip install 'lowerbound[tensorboard]'`") from None
    return SummaryWriter


def _machine(device: torch.device) -> dict[str, Any]:
    """What exact resuming depends on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
