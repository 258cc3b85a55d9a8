"""What several processes of this machine are asked to do together: what they are given is handed to them in a file, and
so is what the first of them gives back."""

import importlib
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowerbound.errors import Ended, Interrupted, UserError
from lowerbound.parallel.launch import INTERRUPTED, MISTAKE, launch
from lowerbound.processes import speaks
from lowerbound.progress import Progress, Terminal

WORD = "--asked"  # before the folder of the files, in place of a verb
QUESTION, ANSWER = "question.pickle", "answer.pickle"


def of_processes(
    verb: tuple[str, str], args: Sequence[Any], options: Mapping[str, Any], n: int, progress: Progress
) -> Any:
    """What a verb gives back that n processes do. verb: its module and its name. Raises what it raised in the process
    that had something to say, or what `launch` does.
    """
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
        terminal, answered = isinstance(progress, Terminal), Path(folder) / ANSWER
        (Path(folder) / QUESTION).write_bytes(pickle.dumps((*verb, args, options, terminal)))
        try:
            launch([WORD, folder], n, quiet=not terminal)
        except (UserError, Ended, Interrupted):
            if answered.is_file():
                raise pickle.loads(answered.read_bytes()) from None
            raise
        return pickle.loads(answered.read_bytes())


def answer(folder: str) -> int:
    """In each of the processes: do it. The exit status."""
    module, name, args, options, terminal = pickle.loads((Path(folder) / QUESTION).read_bytes())
    verb, status, says = getattr(importlib.import_module(module), name), 0, speaks()
    try:
        found: Any = verb(*args, **options, progress=terminal)
    except Interrupted as e:
        found, status = e, INTERRUPTED
    except UserError as e:  # who raises it is the one that says it (`World.fail`)
        found, status, says = e, MISTAKE, True
    if says:
        (Path(folder) / ANSWER).write_bytes(pickle.dumps(found))
    return status
