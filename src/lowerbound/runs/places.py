"""Where a run lies: a folder, or one that comes with the package (`pretrained:NAME`).

The latter is copied into the cache when it is first asked for, and is a run like others from then on: what is learnt of
it (directions, evaluations) is kept there.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from lowerbound.data.cache import root
from lowerbound.errors import RunError, UserError, did_you_mean

PRETRAINED = Path(__file__).parent.parent / "pretrained"
SHARED = ("config.json", "model.safetensors", "given.safetensors", "README.md", "directions/*", "evaluation/*.json")


def found(path: str | Path) -> Path:
    """The folder of a run, copied into the cache where it comes with the package. Raises UserError."""
    text = str(path)
    return _pretrained(text.removeprefix("pretrained:")) if text.startswith("pretrained:") else Path(path)


def pretrained() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def _pretrained(name: str) -> Path:
    if name not in pretrained():
        near = did_you_mean(name, pretrained(), "lowerbound recipes")
        raise RunError(f"pretrained:{name}: no model of this name comes with the package{near}")
    return copied(PRETRAINED / name, root() / "pretrained" / f"{name}-{_digest(PRETRAINED / name)}")


def _digest(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=4)
    for name in ("config.json", "model.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def copied(source: Path, target: Path) -> Path:
    """The folder's shared files under another name, whole, and once. Raises UserError where it can't be written."""
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        for pattern in SHARED:
            for file in source.glob(pattern):
                copy = temporary / file.relative_to(source)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)
        try:
            os.rename(temporary, target)
        except OSError:  # another process was first
            shutil.rmtree(temporary, ignore_errors=True)
            if not (target / "config.json").is_file():
                raise
    except OSError as e:
        raise UserError(f"can't write {target}: {e.strerror}") from None
    return target
