"""Files that `scripts/fuzz` made up, read again: an error of lowerbound's, or the images that were written."""

import resource

import pytest

from fuzzing import CORPUS, original, read

pytestmark = pytest.mark.usefixtures("surroundings")


def test_made_up_files_give_no_pixels_and_no_other_error():
    whole = original()[2]
    assert read(b"\0" + whole)
    files = sorted(CORPUS.iterdir())
    assert len(files) >= 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for file in files:
        read(file.read_bytes())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert most < 2**17, "memory, in KiB, that no such file is worth"
