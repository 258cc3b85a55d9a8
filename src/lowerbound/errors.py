"""What can go wrong by a user's hand. Each message names the thing, the value and what would be right, and each class a
page of docs/errors/ that says more; the command line puts it behind the message.

UserError            exit status 2, no traceback
├── ConfigError      a key, a value or a component of a configuration
├── DataError        a data set: missing, unreadable, of the wrong kind
├── RunError         a run folder: missing, unfinished, made by a newer version, in the way
├── ModelError       a model asked for what it does not have: a density, another image size, a label
└── TrainingError    training that cannot go on: a non-finite loss, a full disk
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class UserError(Exception):
    """A mistake of the user's, said in one or two sentences."""

    page: ClassVar[str] = "usage"


class ConfigError(UserError):
    page = "configuration"


class DataError(UserError):
    page = "data"


class RunError(UserError):
    page = "run"


class ModelError(UserError):
    page = "model"


class TrainingError(UserError):
    page = "training"


class Ended(Exception):
    """This process ends for the sake of others, which have said why; `status` is what it exits with."""

    def __init__(self, text: str = "", status: int = 1):
        super().__init__(text)
        self.status = status


class Interrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C, or the machine wants to stop; the state of the training is saved."""


def more(page: str) -> str:
    """Where a page of docs/errors/ is, behind a message.

    Example:
        >>> more("doctor/latents#collapsed")
        '(lowerbound.errors/doctor/latents#collapsed)'
    """
    return f"(lowerbound.errors/{page})"


def counted(n: int, what: str) -> str:
    """So many of something.

    Example:
        >>> counted(1, "image"), counted(1200, "file"), counted(2, "process")
        ('1 image', '1,200 files', '2 processes')
    """
    return f"{n:,} {what}{'' if n == 1 else 'es' if what.endswith('s') else 's'}"


def did_you_mean(word: str, known: Iterable[str], shown_by: str = "") -> str:
    """`"; did you mean x?"` for the nearest of the known words, or the whole list where none is near.

    shown_by: the command that shows a list too long to be said.

    Example:
        >>> did_you_mean("learning_rat", ["learning_rate", "steps"])
        '; did you mean learning_rate?'
        >>> did_you_mean("zzz", ["b", "a"])
        '; known: a, b'
    """
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if not near:  # the right name in another module, or in other letters
        tails = {name.rpartition(".")[2].lower(): name for name in names}
        near = [tails[t] for t in get_close_matches(word.rpartition(".")[2].lower(), tails, n=1, cutoff=0.6)]
    if near:
        return f"; did you mean {near[0]}?"
    if shown_by:
        return f"; `{shown_by}` shows those there are"
    return f"; known: {', '.join(names)}" if names else ""
