"""Files that `scripts/fuzz` made up, read again: an error of lowerbound's, or the images that were written."""

import tracemalloc

import pytest

from fuzzing import CORPUS, original, read

pytestmark = pytest.mark.usefixtures("surroundings")


def test_made_up_files_give_no_pixels_and_no_other_error():
    whole = original()[2]
    assert read(b"\0" + whole)
    files = sorted(CORPUS.iterdir())
    assert len(files) >= 20
    tracemalloc.start()
    for file in files:
        read(file.read_bytes())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**27, "memory that no such file is worth"
