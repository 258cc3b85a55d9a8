"""What the tests of commands have around them."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch

LONGEST = ("test_vqvae_digits.py", "test_branches.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that train the longest come first, so that none of them is what one process is left with at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache and a data root of their own, and one thread, as the processes that they start have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as m:
        m.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # its list of fonts takes seconds to make
        m.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        m.setenv("LOWERBOUND_DATA", str(tmp_path_factory.mktemp("published")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a command runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def double() -> Iterator[None]:
    """Real numbers in double precision, on one thread, from one seed: what a test of a truth has around it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nothing here is large enough for more
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)
