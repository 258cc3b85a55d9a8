"""Published files fetched into the data root: checked by their hash before they get their name."""

import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lowerbound.data.cache import locked
from lowerbound.errors import DataError

TIMEOUT = 20  # seconds without a byte


class Download(NamedTuple):
    url: str
    algorithm: str  # md5 or sha256
    digest: str
    path: str  # below the data root; ending in / where the url is a .tar of that folder


def fetch(downloads: Sequence[Download], root: Path, complete: Callable[[], bool]) -> str:
    """Download until the data set is complete. Returns why that failed, as the end of a sentence, or "".

    Raises DataError for a file that arrives with another hash than the published one.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".download.lock"):
            for download in downloads:
                if not complete():  # another process may have been first
                    _fetch(download, root)
    except (OSError, tarfile.TarError) as e:  # URLError and timeouts are OSErrors
        return f" (the download failed: {getattr(e, 'reason', None) or e})"
    return ""


def _fetch(download: Download, root: Path) -> None:
    target = root / download.path
    temporary = root / f".{Path(download.path).name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    digest = hashlib.new(download.algorithm)
    file = root / f".{Path(download.path).name}.download"
    try:
        with urllib.request.urlopen(download.url, timeout=TIMEOUT) as response, open(file, "wb") as out:
            while block := response.read(2**20):
                digest.update(block)
                out.write(block)
        if digest.hexdigest() != download.digest:
            raise DataError(
                f"{download.url}: {download.algorithm} is {digest.hexdigest()}, expected {download.digest}; "
                f"nothing was kept"
            )
        if download.path.endswith("/"):
            with tarfile.open(file) as tar:
                tar.extractall(temporary, filter="data")
            for unpacked in (temporary / target.name).iterdir():
                _place(unpacked, target / unpacked.name)
        else:
            _place(file, target)
    finally:
        file.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _place(file: Path, target: Path) -> None:
    """Give a file its name, unless that is taken: what is there is the user's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.replace(file, target)
