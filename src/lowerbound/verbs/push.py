"""Hand a run on through the Hugging Face hub."""

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from lowerbound.errors import UserError
from lowerbound.exporting.pushing import pushed
from lowerbound.runs import lock
from lowerbound.runs.hub import Place
from lowerbound.runs.run import Run
from lowerbound.verbs.base import ASIDE, Report, Told, verb


@dataclass(frozen=True, eq=False)
class OnHub(Report):
    """run: its folder. name: what every verb takes. files: of each its bytes. changed: whether there was anything new
    to push."""

    run: str
    name: str
    url: str
    commit: str
    private: bool
    changed: bool
    files: dict[str, int]
    left_out: list[str] = field(default_factory=list, metadata=ASIDE)

    def shown(self) -> str:
        what = f"{len(self.files)} files, {sum(self.files.values()) / 1e6:,.1f} MB" if self.changed else "nothing new"
        return f"{self.url}: {what}, commit {self.commit[:12]}; it is {self.name} wherever a run is taken"

    def notes(self) -> list[str]:
        return [f"{name} is left out: it was made of other weights than these" for name in self.left_out]


@verb
def push(
    run: Run,
    name: str,
    /,
    *,
    private: Annotated[bool, Parameter(negative="")] = False,
    branch: str | None = None,
    message: str | None = None,
    half: Annotated[bool, Parameter(negative="")] = False,
    progress: Told = False,
) -> OnHub:
    """Hand a run on through the Hugging Face hub, from which `hf://USER/NAME` loads it.

    What is pushed is what `lb.save_pretrained` writes: configuration, weights, named directions, evaluations and a
    card. Folders of this machine are not in it. The token is the one of `hf auth login`, or HF_TOKEN.

    Args:
        name: USER/NAME, of a new repository or one that holds a run
        private: where the repository is made, nobody else may read it
        branch: by default main
        message: of the commit
        half: weights in float16; how far what they say is from the run's own is on the card

    Raises ConfigError, RunError.
    """
    place = Place.of(name)
    if branch is not None and place.revision is not None:
        raise UserError(f"--branch {branch}: {name} names a branch already")
    if branch is not None:
        place = Place.of(f"{place.repository}@{branch}")
    lock.tell(run.path, progress)
    found = pushed(run, place, private=private, message=message, half=half, progress=progress)
    return OnHub(
        run=str(run.path),
        name=str(place),
        url=found.url,
        commit=found.commit,
        private=found.private,
        changed=found.changed,
        files=found.files,
        left_out=found.left_out,
    )
