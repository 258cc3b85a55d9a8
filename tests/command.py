"""The command line, called in this process."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from lowerbound import cli


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*words: str | Path) -> Done:
    """`lowerbound words`, in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as m, redirect_stdout(out), redirect_stderr(err):
        m.setattr(sys, "argv", ["lowerbound", *map(str, words)])
        try:
            cli.main()
        except SystemExit as e:
            status = int(e.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def right(*words: str | Path) -> Done:
    done = call(*words)
    assert done.status == 0, done.err
    return done


def some_digits(path: Path, n: int = 300) -> Path:
    """An .npz of the first images of scikit-learn's digits, with their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez(path, x=digits.images[:n].astype(np.uint8), y=digits.target[:n], levels=17)
    return path


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}
