"""The log of a training: the one place that reads, writes and cuts it.

A record is one line: the step and the stage, the split (`train`: means over the steps since the last line; `valid`),
the seconds that the stage has taken so far, and numbers by their names.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowerbound.errors import UserError
from lowerbound.files import replacing

Record = dict[str, Any]
SCORES = ("minus_loss", "minus_frechet", "iwae", "elbo")  # by what weights are chosen: the first that a validation has


class Log:
    """The lines of a run's log."""

    def __init__(self, path: Path):
        self.path = path

    def records(self) -> Iterator[Record]:
        """Every whole record; one that was cut off in writing is left out. Nothing where there is no log."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as e:
            raise UserError(f"{self.path}: can't be read: {e.strerror}") from None
        yield from (record for record in map(_record, lines) if record is not None)

    def append(self, record: Record) -> None:
        """Raises UserError where it can't be written."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as e:
            raise UserError(f"can't write {self.path}: {e.strerror}") from None

    def cut(self, stage: str, step: int) -> None:
        """Remove what was written of a stage after a step, and a line that was cut off in writing."""
        if not self.path.is_file():
            return

        def stays(line: bytes) -> bool:
            record = _record(line)
            return record is not None and (record["stage"] != stage or record["step"] <= step)

        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if stays(line)]
        if len(kept) < len(lines):
            with replacing(self.path) as temporary:
                temporary.write_bytes(b"".join(kept))

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


class Following:
    """A log that is read on as it grows; a line that is being written is read once it is whole."""

    def __init__(self, log: Log):
        self.path = log.path
        self._at = 0  # bytes that were read
        self._last = b""  # what they end with
        self.behind = False  # whether there was more than the last call has read

    def more(self) -> tuple[list[Record], bool]:
        """The records that have come since the last call, and whether what was read before is no more: the log was cut
        or begun anew, and these are its first. Of a long log, a part at a time. Raises UserError where it can't be
        read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at - len(self._last))
                anew = file.read(len(self._last)) != self._last
                if anew:
                    self._at, self._last = 0, b""
                file.seek(self._at)
                data = file.read(_PART)
        except FileNotFoundError:
            anew, data = self._at > 0, b""
            self._at, self._last = 0, b""
        except OSError as e:
            raise UserError(f"{self.path}: can't be read: {e.strerror}") from None
        self.behind = len(data) == _PART
        whole = data if self.behind and b"\n" not in data else data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        self._last = (self._last + whole)[-_REMEMBERED:]
        found = map(_record, whole.splitlines(keepends=True))
        return [record for record in found if record is not None], anew


_PART = 2**21  # bytes that are read at once
_REMEMBERED = 256  # bytes before a place, by which it is known again


def score(record: Record) -> float | None:
    """By what the weights of a validation were chosen, the higher the better; None of other records."""
    return (
        next((float(record[name]) for name in SCORES if name in record), None) if record["split"] == "valid" else None
    )


def _record(line: bytes) -> Record | None:
    with suppress(ValueError):
        record = json.loads(line)
        whole = line.endswith(b"\n") and isinstance(record, dict) and isinstance(record.get("step"), int)
        if whole and isinstance(record.get("stage"), str):
            return {"split": "train"} | record
    return None
