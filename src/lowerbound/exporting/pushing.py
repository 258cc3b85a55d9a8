"""A run handed on through the Hugging Face hub, in one commit of what `save_pretrained` writes."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowerbound.errors import ConfigError, RunError
from lowerbound.exporting import card
from lowerbound.exporting.shared import reports, save_pretrained, write_card
from lowerbound.progress import Progress
from lowerbound.runs.copies import IS_SHARED
from lowerbound.runs.hub import COMMIT, LARGEST, Client, Place, is_run
from lowerbound.runs.run import Run

_ALONGSIDE = (".gitattributes", ".gitignore", "README.md", "LICENSE", "LICENSE.md")  # of a repository without a run


@dataclass(frozen=True)
class Pushed:
    """What lies on the hub: the commit, and the files of the run with their bytes. left_out: what is not among them,
    since it was made of other weights. changed: whether there was anything new."""

    place: Place
    url: str
    commit: str
    private: bool
    changed: bool
    files: dict[str, int]
    left_out: list[str]


def pushed(
    run: Run,
    place: Place,
    *,
    private: bool = False,
    message: str | None = None,
    half: bool = False,
    progress: Progress | None = None,
) -> Pushed:
    """Put a run on the hub: into a new repository, or in the place of the run that one holds.

    place: its revision is the branch. It is one commit, made only if nobody made another meanwhile, so that nobody sees
    half of it; done twice, the second finds nothing to do. What isn't the run's stays in the repository, and so does
    what was written on its card beside the part that lowerbound writes.

    Raises ConfigError without huggingface_hub or a token; RunError for a run without weights, a repository that holds
    something else or is public where `private` is asked for, and whatever the hub refuses.
    """
    progress, client = progress or Progress(), Client.of(place)
    place = place._replace(revision=None if place.revision == "main" else place.revision)
    if COMMIT.fullmatch(place.revision or ""):
        raise RunError(f"{place} is a commit, which stays as it is; name a branch")
    if client.package.get_token() is None:
        raise ConfigError(
            f"{place}: to push needs a token that may write: log in with `hf auth login`, or set HF_TOKEN"
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / place.repository.partition("/")[2]
        save_pretrained(run, folder, half=half)
        write_card(Run.open(folder), f"hf://{place.repository}" + (f"@{place.revision}" if place.revision else ""))
        with client.speaking(place, "can't be pushed", progress):
            before = _made(client, place, private)
            files = _merged(client, place, before, folder)
            progress.say(f"{place}: pushing {len(files)} files, {sum(files.values()) / 1e6:,.1f} MB")
            _commit(client, place, before, folder, files, message or f"{run.name}, by lowerbound")
            after = client.info(place)
    return Pushed(
        place=place,
        url=f"{client.endpoint}/{place.repository}" + (f"/tree/{place.revision}" if place.revision else ""),
        commit=after.sha,
        private=bool(after.private),
        changed=before.sha != after.sha,
        files=files,
        left_out=_left_out(run, files),
    )


def _made(client: Client, place: Place, private: bool) -> Any:
    """What the hub says of the branch, which is made where it is missing. Raises RunError where a run may not go."""
    errors, main = client.package.errors, Place(place.repository)
    try:
        info = client.info(main)
    except errors.GatedRepoError:
        raise
    except errors.RepositoryNotFoundError:
        client.api.create_repo(place.repository, private=True if private else None)
        info = client.info(main)
    if private and not info.private:
        raise RunError(f"{place} is public already, and --private makes new repositories alone; choose another name")
    if place.revision is not None:
        try:
            info = client.info(place)
        except errors.RevisionNotFoundError:
            _check_contents(client, place, info)
            client.api.create_branch(place.repository, branch=place.revision, exist_ok=True)
            info = client.info(place)
    _check_contents(client, place, info)
    return info


def _check_contents(client: Client, place: Place, info: Any) -> None:
    """Raise RunError for a repository that holds something else than a run."""
    names = {f.rfilename: f.size or 0 for f in info.siblings or ()}
    others = sorted(names.keys() - {*_ALONGSIDE})
    ours = 0 < names.get("config.json", 0) <= LARGEST and is_run(
        Path(client.api.hf_hub_download(place.repository, "config.json", revision=info.sha))
    )
    if others and not ours:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise RunError(f"{place} holds something else: {', '.join(others[:3])}{more}; choose another name")


def _merged(client: Client, place: Place, before: Any, folder: Path) -> dict[str, int]:
    """The files and their bytes, once the card keeps what was written beside it on the hub."""
    sizes = {f.rfilename: f.size or 0 for f in before.siblings or ()}
    if 0 < sizes.get("README.md", 0) <= LARGEST:
        theirs = Path(client.api.hf_hub_download(place.repository, "README.md", revision=before.sha))
        ours = folder / "README.md"
        text = card.merged(theirs.read_text(encoding="utf-8"), ours.read_text(encoding="utf-8"))
        ours.write_text(text, encoding="utf-8")
    found = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(found)}


def _left_out(run: Run, files: Iterable[str]) -> list[str]:
    directions = [f"directions/{p.name}" for p in run.path.glob("directions/[!.]*.safetensors")]
    return sorted({*directions, *(f"evaluation/{name}" for name in reports(run))}.difference(files))


def _commit(client: Client, place: Place, before: Any, folder: Path, files: dict[str, int], message: str) -> None:
    package = client.package
    gone = [f.rfilename for f in before.siblings or () if IS_SHARED.fullmatch(f.rfilename)]
    operations = [package.CommitOperationAdd(name, str(folder / name)) for name in files]
    operations += [package.CommitOperationDelete(name) for name in gone if name not in files]
    client.api.create_commit(
        place.repository,
        operations,
        commit_message=message,
        revision=place.revision,
        parent_commit=before.sha,
    )
