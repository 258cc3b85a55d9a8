"""What a person sees while something runs: bars and lines on standard error. The library itself is silent."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

CLEAR = "\r\033[K"  # an unfinished line of a terminal
Report = Callable[[float, Mapping[str, float]], None]
Told = Callable[[int, int], None]  # told how much is done, and of how much
Step = Callable[[], None]  # called after each of many steps


def told_nobody(done: int, of: int) -> None:
    pass


def silent() -> None:
    pass


class Progress:
    """Told what happens; this one shows nothing."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def note(self, text: str, *, last: bool) -> None:
        """One of many lines, of which some may be left out, but not the last."""

    def count(self, what: str) -> Told:
        """Told (done, total)."""
        return lambda done, total: None

    @contextlib.contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Report]:
        """Yields what is told (step, terms) of a training of `total` steps; the terms may be empty, and the step a part
        of one that takes long."""
        yield lambda step, terms: None


class Passing:
    """A pass over images in batches, each image of which takes so many steps: told while a batch is under way.

    Example:
        >>> passing = Passing(lambda done, total: print(done, total), images=3, steps=10)
        >>> step = passing.batch(2)
        >>> step()
        2 30
        >>> step()
        4 30
    """

    def __init__(self, told: Told, images: int, steps: int):
        self.told, self.total, self.steps = told, images * steps, steps
        self.begun = self.done = 0

    def batch(self, images: int) -> Step:
        """What is called after each step of the next so many images together."""
        before, self.begun = self.begun, self.begun + images * self.steps

        def step() -> None:
            self.done = min(max(self.done, before) + images, self.begun)
            self.told(self.done, self.total)

        return step


class Terminal(Progress):
    """Bars where standard error is a terminal; else a line now and then."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal and sys.stderr.isatty()  # notebooks ask for colours, and draw no bars
        self.noted = -math.inf

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def note(self, text: str, *, last: bool) -> None:
        if self.live or last or time.monotonic() - self.noted > 10:
            self.say(text)
            self.noted = time.monotonic()

    def count(self, what: str) -> Told:
        last = time.monotonic()
        first: tuple[float, int] | None = None  # when it was first told, and of how many
        before, begun = -1, False

        def told(done: int, total: int) -> None:
            nonlocal last, first, before, begun
            now = time.monotonic()
            if first is None or done < before:  # another count begins
                first = now, done
            before = done
            if self.live and begun and done >= total:
                sys.stderr.write(CLEAR)  # it has served its time
                begun = False
            elif done < total and now - last > (0.2 if self.live else 10):
                last, begun = now, True
                left = (now - first[0]) / (done - first[1]) * (total - done) if done > first[1] else None
                text = f"{what}: {done:,} of {total:,}" + ("" if left is None else f", {_duration(left)} left")
                sys.stderr.write(self._with_bar(text, done / total) + "\033[K\r" if self.live else text + "\n")
            sys.stderr.flush()

        return told

    def _with_bar(self, text: str, share: float) -> str:
        """A line of the terminal: a bar, where there is room for one, and the text."""
        width = min(30, self.console.width - len(text) - 2)
        filled = round(share * width)
        return f"{'━' * filled}{'─' * (width - filled)} {text}" if width >= 4 else text[: self.console.width - 1]

    @contextlib.contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Report]:
        if not self.live:
            yield self._lines(total)
            return
        columns = (
            BarColumn(max(4, min(30, self.console.width - 76))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[left]}"),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task("", total=total, completed=start, shown="", left="left")
            shown, told = "", 0.0

            def tell(step: float, terms: Mapping[str, float]) -> None:
                nonlocal shown, told
                shown = _shown(terms) if terms else shown
                if terms or time.monotonic() - told > 0.2:
                    told = time.monotonic()
                    bars.update(task, completed=step, shown=shown, left="left" if step < total else "")

            yield tell

    def _lines(self, total: int) -> Report:
        begun = last = time.monotonic()
        first: float | None = None

        def told(step: float, terms: Mapping[str, float]) -> None:
            nonlocal last, first
            first = step if first is None else first
            now = time.monotonic()
            part = step < total and step % 1 > 0
            if (terms or part) and (now - last > 10 or step == total):
                left = (now - begun) / ((step - first) or 1) * (total - step)
                done = f"{step % 1:.0%} of a step" if part else f"step {step:,} of {total:,}  {_shown(terms)}"
                self.say(f"{done}  {left:,.0f} s left")
                last = now

        return told


def _duration(seconds: float) -> str:
    """Seconds for a person.

    Example:
        >>> _duration(7.2), _duration(125), _duration(8000)
        ('7 s', '2 min 5 s', '2 h 13 min')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def _shown(terms: Mapping[str, float]) -> str:
    parts = []
    if "elbo" in terms:
        parts.append(f"bound {terms['elbo']:.2f} nats, {terms['bits_per_dim']:.3f} bits/dim")
    elif "loss" in terms:
        parts.append(f"loss {terms['loss']:.4g}")
    parts += [f"{name.removesuffix('.loss')} {value:.4g}" for name, value in terms.items() if name.endswith(".loss")]
    parts.append(f"{terms['images_per_second']:,.0f}/s")
    return "  ".join(parts)
