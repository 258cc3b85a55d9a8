"""Where a run lies: a folder, one that comes with the package (`pretrained:NAME`), or one of a hub
(`hf://USER/NAME`).

The latter two are copied into the cache when they are first asked for, and are runs like others from then on: what is
learnt of them (directions, evaluations) is kept there.
"""

import hashlib
from pathlib import Path

from lowerbound.data.cache import root
from lowerbound.errors import RunError, did_you_mean
from lowerbound.progress import Progress
from lowerbound.runs import hub
from lowerbound.runs.copies import copied

PRETRAINED = Path(__file__).parent.parent / "pretrained"


def found(path: str | Path, progress: Progress | None = None) -> Path:
    """The folder of a run, copied into the cache where it comes with the package or from a hub. Raises UserError."""
    text = str(path)
    if text.startswith("pretrained:"):
        return _pretrained(text.removeprefix("pretrained:"))
    if text.startswith("hf:"):
        return hub.fetched(hub.Place.of(text), progress or Progress())
    return Path(path)


def elsewhere(path: str | Path) -> bool:
    """Whether it names a run that is no folder of the user's."""
    return str(path).startswith(("pretrained:", "hf:"))


def said(path: str | Path) -> str:
    """What a run is called in what is said of it."""
    text = str(path)
    return str(hub.Place.of(text)) if text.startswith("hf:") else text


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
