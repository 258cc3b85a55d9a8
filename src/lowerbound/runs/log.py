"""The log of a training."""

import json
from contextlib import suppress
from pathlib import Path

from lowerbound.files import replacing


def cut(path: Path, stage: str, step: int) -> None:
    """Remove the lines of a log that were written of a stage after a step, and one that was cut off in writing."""
    if not path.is_file():
        return

    def stays(line: bytes) -> bool:
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            return line.endswith(b"\n") and (values["stage"] != stage or values["step"] <= step)
        return False

    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if stays(line)]
    if len(kept) < len(lines):
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))
