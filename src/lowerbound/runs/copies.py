"""The files of a run that are handed on, copied into the cache: a run like others from then on."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from lowerbound.errors import UserError

SHARED = ("config.json", "model.safetensors", "given.safetensors", "README.md", "directions/*", "evaluation/*.json")
IS_SHARED = re.compile(  # the same, for names that come from elsewhere
    r"config\.json|(model|given)\.safetensors|README\.md|directions/\w[\w.-]*\.safetensors|evaluation/\w[\w.-]*\.json"
)


def copied(source: Path, target: Path) -> Path:
    """The folder's shared files under another name, whole, and once. Raises UserError where it can't be written."""
    if is_copied(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for pattern in SHARED:
                for file in source.glob(pattern):
                    copy = temporary / file.relative_to(source)
                    copy.parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, copy)
            os.rename(temporary, target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            if not is_copied(target):  # else another process was first
                raise
    except OSError as e:
        raise UserError(f"can't write {target}: {e.strerror}") from None
    return target


def is_copied(target: Path) -> bool:
    return (target / "config.json").is_file()
