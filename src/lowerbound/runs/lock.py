"""One process at a time writes into a run."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from lowerbound.errors import RunError, UserError
from lowerbound.files import replacing
from lowerbound.parallel import World
from lowerbound.processes import Owner
from lowerbound.progress import Progress

NAME = "lock.json"  # who is writing into the run


@contextmanager
def held(path: Path, progress: Progress) -> Iterator[None]:
    """Inside, the run's folder, which is made where it is missing, is this process's alone.

    Raises RunError where another one has it. One that is gone (killed, or its machine was started anew) has it no more,
    which is said.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"can't write {path}: {e.strerror}") from None
    me = Owner.me()
    with _alone(path):
        other = holder(path)
        if other is not None and not other.is_gone:
            raise RunError(
                f"{path} is being written by another training or fit: {other}. Wait until it has ended, or stop it; "
                f"where it no longer runs (a machine that is gone), remove {path / NAME}"
            )
        if other is not None:
            progress.say(f"{path} was left by {other}, which has not ended well; going on")
        with replacing(path / NAME) as temporary:
            temporary.write_text(json.dumps(me._asdict()) + "\n", encoding="utf-8")
    try:
        yield
    finally:
        if holder(path) == me:  # whoever took it since has been told that this process is gone
            (path / NAME).unlink(missing_ok=True)


@contextmanager
def held_by_first(world: World, path: Path, progress: Progress) -> Iterator[None]:
    """Inside, the run's folder is these processes' alone: the first holds it for all."""
    with held(path, progress) if world.first else nullcontext():
        world.meet()
        yield


def holder(path: Path) -> Owner | None:
    """Who has a run's folder; None where nobody does, or what is there can't be read."""
    with suppress(OSError, ValueError, TypeError):
        return Owner(**json.loads((path / NAME).read_text(encoding="utf-8")))
    return None


def tell(path: Path, progress: Progress) -> None:
    """Say where a run is still being written, so that what is made of it is of its best weights so far."""
    other = holder(path)
    if other is not None and not other.is_gone:
        progress.say(f"{path} is still being written by {other}; this is of its best weights so far")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Inside, no other process of this machine looks at the lock or takes it; not every network file system can."""
    folder = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
