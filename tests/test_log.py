"""The log of a training: one reader, one writer, one that cuts it."""

import json
from pathlib import Path

import pytest

from lowerbound.errors import UserError
from lowerbound.runs.log import Log, score

RECORDS = [
    {"step": 1, "stage": "a", "split": "train", "loss": 3.0},
    {"step": 2, "stage": "a", "split": "valid", "elbo": -2.5},
    {"step": 2, "stage": "b", "split": "valid", "minus_loss": -1.0, "elbo": -7.0},
]


def written(path: Path, tail: str = "") -> Log:
    path.write_text("".join(json.dumps(r) + "\n" for r in RECORDS) + tail)
    return Log(path)


@pytest.mark.parametrize("tail", ["", '{"step": 3, "stage": "a", "spl', '[1]\n\n{"step": "x", "stage": "a"}\nnull\n'])
def test_whole_records_alone_are_read(tmp_path, tail):
    assert list(written(tmp_path / "log.jsonl", tail).records()) == RECORDS


def test_a_last_line_without_its_end_may_be_cut_off(tmp_path):
    """It parses, and yet the number may go on: 12 of 1234."""
    log = written(tmp_path / "log.jsonl", '{"step": 12, "stage": "a"}')
    assert list(log.records()) == RECORDS


def test_no_log_has_no_records(tmp_path):
    assert not list(Log(tmp_path / "none").records())
    with pytest.raises(UserError, match="can't be read"):
        list(Log(tmp_path).records())


def test_cutting_leaves_other_stages_and_earlier_steps(tmp_path):
    log = written(tmp_path / "log.jsonl", '{"step": 3, "stage": "b", "spl')
    log.cut("a", 1)
    assert list(log.records()) == [RECORDS[0], RECORDS[2]]
    log.append({"step": 4, "stage": "a"})
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2, 4]


def test_the_score_is_what_weights_were_chosen_by():
    assert [score(r) for r in RECORDS] == [None, -2.5, -1.0]
