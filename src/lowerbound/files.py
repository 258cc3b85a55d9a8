"""Writing files whole or not at all."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lowerbound.errors import UserError

UNFINISHED = re.compile(r"\..+\.\d+\.\w+")  # the temporary names that a killed process leaves


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` to write to; it takes the place of `path` when the block ends well.

    Nothing is left under either name when it doesn't. Raises UserError where the disk is full or can't be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise UserError(f"can't write {path}: {e.strerror or e}") from e
    finally:
        with suppress(OSError):
            temporary.unlink()
