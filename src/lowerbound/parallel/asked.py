"""What several processes of this machine are asked to do together: what they are given is handed to them in a file, and
so is what the first of them gives back."""

import importlib
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lowerbound.parallel.launch import launch
from lowerbound.processes import speaks
from lowerbound.progress import Progress, Terminal

WORD = "--asked"  # before the folder of the files, in place of a verb
QUESTION, ANSWER = "question.pickle", "answer.pickle"


def of_processes(function: Callable[..., Any], values: Mapping[str, Any], n: int, progress: Progress) -> Any:
    """What a verb gives back that n processes do. values: by its parameters. Raises as `launch` does."""
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
        terminal = isinstance(progress, Terminal)
        question = function.__module__, function.__name__, dict(values), terminal
        (Path(folder) / QUESTION).write_bytes(pickle.dumps(question))
        launch([WORD, folder], n, quiet=not terminal)
        return pickle.loads((Path(folder) / ANSWER).read_bytes())


def answer(folder: str) -> int:
    """In each of the processes: do it. The exit status."""
    module, name, values, terminal = pickle.loads((Path(folder) / QUESTION).read_bytes())
    verb = getattr(importlib.import_module(module), name)
    positional = [values.pop(next(iter(values)))]  # the run
    found = verb(*positional, **values, progress=terminal)
    if speaks():
        (Path(folder) / ANSWER).write_bytes(pickle.dumps(found))
    return 0
