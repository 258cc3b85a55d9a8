"""Where the lines of a training's log go: the run's log, and TensorBoard where that is wanted."""

from collections.abc import Mapping
from typing import Any

from lowerbound.errors import ConfigError
from lowerbound.runs.run import Run


class Lines:
    """Writes the lines of one stage."""

    def __init__(self, run: Run, stage: str, tensorboard: bool):
        self.run, self.stage, self.tensorboard = run, stage, tensorboard
        self._writer: Any = None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Raises UserError where the log can't be written."""
        self.run.log.append({"step": step, "stage": self.stage, **values})
        if self.tensorboard:
            self._write_events(step, values)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write_events(self, step: int, values: Mapping[str, Any]) -> None:
        if self._writer is None:  # a resumed run hides the events after its state
            self._writer = summary_writer()(str(self.run.tensorboard), purge_step=step)
        for name, value in values.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{values['split']}/{name}", value, step)


def summary_writer() -> Any:
    """TensorBoard's writer of events. Raises ConfigError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("train.tensorboard: install it with `pip install 'lowerbound[tensorboard]'`") from None
    return SummaryWriter
