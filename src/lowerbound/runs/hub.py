"""Runs of the Hugging Face hub, `hf://USER/NAME` or `hf://USER/NAME@REVISION`: named, asked for, fetched.

Of a repository the files of a run are fetched and no others, each only once its name and size are known to be a run's.
Nothing in them is executed. They come through the hub's own cache, so `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and
`HF_HUB_OFFLINE` mean what they do everywhere, and are copied into lowerbound's by their commit.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lowerbound.data.cache import root
from lowerbound.errors import ConfigError, RunError, counted
from lowerbound.progress import Progress, Terminal
from lowerbound.runs.copies import IS_SHARED, SHARED, copied, is_copied

LARGEST = 2**26  # bytes of any file but the weights and what they are given
_PLACE = re.compile(r"(hf:/{1,2})?(?P<repository>[^/@:]+/[^/@:]+)(@(?P<revision>[^\s@:]+?))?/?")  # a Path drops a slash
_WORD = re.compile(r"\w([\w.-]*\w)?")  # of a repository's name
COMMIT = re.compile(r"[0-9a-f]{40}")


class Place(NamedTuple):
    """A repository of the hub, at a revision: a branch, a tag or a commit; None: the branch main."""

    repository: str
    revision: str | None = None

    @staticmethod
    def of(text: str) -> "Place":
        """Raises RunError for what is no such name.

        Example:
            >>> Place.of("hf://ann/digits@v2")
            Place(repository='ann/digits', revision='v2')
        """
        found = _PLACE.fullmatch(text)
        words = found["repository"].split("/") if found else []
        if found is None or not all(_WORD.fullmatch(w) and not re.search(r"--|\.\.", w) for w in words):
            said = re.sub("^hf:/+", "hf://", text)  # as it was, before it was taken for a path
            raise RunError(
                f"{said}: expected USER/NAME of the hub, as in hf://ann/digits or, of a revision, hf://ann/digits@v2"
            )
        return Place(found["repository"], found["revision"])

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")

    def copy(self, commit: str) -> Path:
        """Where the run of a commit lies in the cache."""
        return root() / "hub" / f"{self.repository.replace('/', '--')}-{commit[:12]}"


class Client(NamedTuple):
    """What of huggingface_hub is used: the package, and its interface to the hub. Neither is typed here, since it may
    not be installed."""

    package: Any
    api: Any

    @staticmethod
    def of(said: object) -> "Client":
        """Raises ConfigError where huggingface_hub is not installed. said: what needs it."""
        try:
            import huggingface_hub as package  # pyright: ignore[reportMissingImports]
            import huggingface_hub.constants  # pyright: ignore[reportMissingImports]
            import huggingface_hub.errors  # pyright: ignore[reportMissingImports]
            import huggingface_hub.utils  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(f"{said}: needs huggingface_hub: pip install 'lowerbound[hub]'") from None
        return Client(package, package.HfApi(library_name="lowerbound", library_version=version("lowerbound")))

    @property
    def endpoint(self) -> str:
        return self.api.endpoint

    @property
    def patience(self) -> float:
        """Seconds to wait for an answer."""
        return self.package.constants.HF_HUB_ETAG_TIMEOUT

    def info(self, place: Place) -> Any:
        """What the hub says of a repository: `sha`, `private`, and `siblings`, each of a name and a size."""
        return self.api.model_info(
            place.repository, revision=place.revision, files_metadata=True, timeout=self.patience
        )

    @contextmanager
    def speaking(self, place: Place, doing: str, progress: Progress) -> Iterator[None]:
        """Inside, what goes wrong is raised as a RunError of one sentence, and a terminal has the hub's own bars."""
        utils = self.package.utils
        shown = isinstance(progress, Terminal) and progress.live
        hide = not shown and not utils.are_progress_bars_disabled()
        if hide:
            utils.disable_progress_bars()
        try:
            yield
        except (self.package.errors.HTTPError, OSError, RuntimeError, ValueError) as e:
            raise RunError(f"{place}: {doing}: {self.reason(e, place)}") from None
        finally:
            if hide:
                utils.enable_progress_bars()

    def is_away(self, error: BaseException) -> bool:
        """Whether the hub can't be reached just now."""
        errors, status = self.package.errors, _status(error)
        if isinstance(error, errors.HfHubHTTPError):
            return status >= 500
        return isinstance(error, errors.HTTPError | errors.OfflineModeIsEnabled)

    def reason(self, error: BaseException, place: Place) -> str:
        """Why it went wrong, and what helps: the end of a sentence."""
        errors, at = self.package.errors, f"{self.endpoint}/{place.repository}"
        while isinstance(error, RuntimeError | errors.LocalEntryNotFoundError) and error.__cause__ is not None:
            error = error.__cause__
        status, known = _status(error), self.package.get_token() is not None
        login = "log in with `hf auth login`, or set HF_TOKEN"
        if isinstance(error, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set"
        if isinstance(error, errors.GatedRepoError):
            return f"it is gated: accept its conditions at {at}" + ("" if known else f", and {login}")
        if isinstance(error, errors.RevisionNotFoundError):
            return f"it has no revision {place.revision or 'main'}; those there are: {at}/tree/main"
        if isinstance(error, errors.RepositoryNotFoundError):
            who = "or a private one that your token may not read" if known else f"or a private one: then {login}"
            return f"no such model at {self.endpoint}, {who}"
        if status == 401:
            return f"your token is not valid at {self.endpoint}: {login}" if known else login
        if status == 403:
            return (
                f"your token may not do that; one that may write to {place.repository.partition('/')[0]} is made at "
                f"{self.endpoint}/settings/tokens"
            )
        if status in (409, 412):
            return "it was changed meanwhile; do it again"
        if status == 429:
            return f"{self.endpoint} has had too many requests; try again in a few minutes"
        if status >= 500:
            return f"{self.endpoint} answers {status}; try again later"
        if isinstance(error, errors.HTTPError) and not status:
            return f"{self.endpoint} can't be reached: {_words(error) or type(error).__name__}"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        return _words(error)


def fetched(place: Place, progress: Progress) -> Path:
    """The folder of a run of the hub in the cache, where it is fetched if it never was.

    Where the hub can't be reached it is what came last of this revision. Raises ConfigError without huggingface_hub,
    RunError for what isn't there, may not be read, or is no run.
    """
    if COMMIT.fullmatch(place.revision or "") and is_copied(copy := place.copy(place.revision or "")):
        return copy
    client = Client.of(place)
    with client.speaking(place, "can't be fetched", progress):
        try:
            info = client.info(place)
        except Exception as e:
            if not client.is_away(e):
                raise
            return _kept(client, place, client.reason(e, place), progress)
        sizes = _checked(place, info)
        # by its branch, so that the hub's cache knows it where there is no network
        config = client.api.hf_hub_download(place.repository, "config.json", revision=place.revision)
        if not is_run(Path(config)):
            raise RunError(f"{place} holds no run of lowerbound: its config.json is another program's")
        if not is_copied(copy := place.copy(info.sha)):
            held = _downloaded(client, place, info.sha, sizes, progress)
            copied(held, copy)
        return copy


def is_run(config: Path) -> bool:
    """Whether a file is the config.json of a run."""
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"format", "recipe", "config"} <= values.keys()


def _checked(place: Place, info: Any) -> dict[str, int]:
    """The files of the run, and their sizes. Raises RunError for a repository that holds none, or files no run has."""
    sizes = {f.rfilename: f.size or 0 for f in info.siblings or () if IS_SHARED.fullmatch(f.rfilename)}
    for name in ("config.json", "model.safetensors"):
        if name not in sizes:
            raise RunError(f"{place} holds no run of lowerbound: it has no {name}")
    for name, size in sizes.items():
        if size > LARGEST and name not in ("model.safetensors", "given.safetensors"):
            raise RunError(f"{place}: {name} has {_megabytes(size)}, more than any of a run; nothing is fetched")
    return sizes


def _downloaded(client: Client, place: Place, commit: str, sizes: dict[str, int], progress: Progress) -> Path:
    """The files of a commit in the hub's cache, whole."""
    total, cache = sum(sizes.values()), Path(client.package.constants.HF_HUB_CACHE)
    for folder in (cache, root()):
        if (room := free(folder)) < total:
            raise RunError(f"{place}: has {_megabytes(total)}, and {folder} has room for {_megabytes(room)}")
    progress.say(f"{place}: fetching {counted(len(sizes), 'file')}, {_megabytes(total)}")
    held = Path(client.api.snapshot_download(place.repository, revision=commit, allow_patterns=[*sizes]))
    for name, size in sizes.items():
        if not _is_whole(held / name, size):  # cut short in that cache
            client.api.hf_hub_download(place.repository, name, revision=commit, force_download=True)
            if not _is_whole(held / name, size):
                raise RunError(f"{place}: {name} came in part; do it again")
    return held


def _is_whole(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _kept(client: Client, place: Place, why: str, progress: Progress) -> Path:
    """What came last of a revision. Raises RunError where nothing did."""
    config = client.package.try_to_load_from_cache(place.repository, "config.json", revision=place.revision)
    if not isinstance(config, str):
        raise RunError(f"{place}: is not in the cache, and {why}")
    commit = Path(config).parent.name
    if not is_copied(copy := place.copy(commit)):
        try:
            held = client.api.snapshot_download(
                place.repository, revision=commit, local_files_only=True, allow_patterns=[*SHARED]
            )
        except OSError:
            held = None
        if held is None or not (Path(held) / "model.safetensors").is_file():
            raise RunError(f"{place}: is in the cache in part, and {why}")
        if not is_run(Path(config)):
            raise RunError(f"{place} holds no run of lowerbound: its config.json is another program's")
        copied(Path(held), copy)
    if place.revision != commit:
        progress.say(f"{place}: as it was fetched last, commit {commit[:12]}, since {why}")
    return copy


def free(folder: Path) -> int:
    """The bytes for which there is room in a folder, which need not be there yet."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def _status(error: BaseException) -> int:
    """The HTTP status of an answer; 0 where there was none."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()[:30])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
