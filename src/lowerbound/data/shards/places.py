"""Where shards lie: in a folder, or at a URL. Both give whole small files, and ranges of large ones."""

import os
import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lowerbound.errors import DataError

T = TypeVar("T")
TRIES = 7
WAIT = 0.5  # seconds before the second try; each further one waits twice as long: half a minute in all
AT_ONCE = 16  # ranges that a server is asked for together
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")


class Range(NamedTuple):
    """Bytes of a file, from start up to end."""

    file: str
    start: int
    end: int


Failed = list[tuple[Range, BaseException]]  # what was asked for, and why it can't be had


class Place(ABC):
    name: str  # as the user knows it
    gap: int  # bytes that are read along rather than asked around

    @abstractmethod
    def whole(self, file: str) -> bytes:
        """A small file. Raises DataError, Missing where there is none."""

    @abstractmethod
    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        """The bytes of each. Raises DataError where they can't be had."""

    def told(self, file: str, what: str) -> str:
        return f"{self.name.rstrip('/')}/{file}: {what}"

    def cut_off(self, wanted: Range, got: int) -> DataError:
        """Of a file that ends too early."""
        said = f"ends at byte {wanted.start + got:,}, and {wanted.end:,} are needed; it was cut off: copy it again"
        return DataError(self.told(wanted.file, said))


class Missing(DataError):
    """A file that is not there."""

    page = "data#missing"


def is_url(source: str) -> bool:
    """Whether it names a place by its protocol, as s3://bucket/faces does.

    Example:
        >>> is_url("https://host/faces"), is_url("runs/faces"), is_url("C:/faces")
        (True, False, False)
    """
    return URL.match(source) is not None


def place_of(source: str) -> Place:
    """The place of shards: a folder or URL, or its index.json."""
    source = source.removesuffix("/index.json").removesuffix("/")
    return Server(source) if is_url(source) else Local(Path(source).expanduser())


class Local(Place):
    """A folder. Read by `pread`: pages of a memory map would count as the process's own memory."""

    gap = 2**14

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)

    def whole(self, file: str) -> bytes:
        return self._reading(file, lambda: (self.path / file).read_bytes())

    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        return [self._reading(r.file, lambda r=r: self._range(r)) for r in wanted]

    def check(self, sizes: Iterable[tuple[str, int]]) -> None:
        """Raise DataError for a file that is not there, or of another size than so many bytes."""
        for file, size in sizes:
            found = self._reading(file, lambda file=file: (self.path / file).stat().st_size)
            if found != size:
                raise DataError(self.told(file, f"has {found:,} bytes, expected {size:,}; copy it again"))

    def _range(self, r: Range) -> bytes:
        with open(self.path / r.file, "rb", buffering=0) as file:
            found = os.pread(file.fileno(), r.end - r.start, r.start)
            while 0 < len(found) < r.end - r.start:
                more = os.pread(file.fileno(), r.end - r.start - len(found), r.start + len(found))
                if not more:
                    break
                found += more
        if len(found) < r.end - r.start:
            raise self.cut_off(r, len(found))
        return found

    def _reading(self, file: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except FileNotFoundError:
            raise Missing(self.told(file, "is not there; copy the folder again, or pack the data again")) from None
        except OSError as e:
            raise DataError(self.told(file, e.strerror or str(e))) from None


class Server(Place):
    """A URL of any protocol that fsspec speaks. What fails is tried again, each time after a longer wait."""

    gap = 2**17

    def __init__(self, url: str):
        self.name = url
        self.fs, self.path = _file_system(url)

    def whole(self, file: str) -> bytes:
        found: list[bytes] = []

        def ask() -> Failed:
            try:
                found.append(self.fs.cat_file(f"{self.path}/{file}"))
                return []
            except Exception as e:
                return [(Range(file, 0, 0), e)]

        self._tried(ask)
        return found[0]

    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        found: list[bytes] = []
        for i in range(0, len(wanted), AT_ONCE):
            found += self._ranges(wanted[i : i + AT_ONCE])
        return found

    def _ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        found: dict[int, bytes] = {}

        def ask() -> Failed:
            """For those that failed the last time."""
            left = [(i, r) for i, r in enumerate(wanted) if i not in found]
            paths = [f"{self.path}/{r.file}" for _, r in left]
            try:
                got = self.fs.cat_ranges(paths, [r.start for _, r in left], [r.end for _, r in left])
            except Exception as e:  # some protocols raise what others give back
                got = [e] * len(left)
            failed: Failed = [
                (r, data) for (_, r), data in zip(left, got, strict=True) if isinstance(data, BaseException)
            ]
            for (i, r), data in zip(left, got, strict=True):
                if not isinstance(data, BaseException):
                    found[i] = self._checked(r, bytes(data))
            return failed

        self._tried(ask)
        return [found[i] for i in range(len(wanted))]

    def _checked(self, r: Range, data: bytes) -> bytes:
        if len(data) > r.end - r.start:
            raise DataError(self.told(r.file, "the server gives whole files where parts of them are asked for"))
        if len(data) < r.end - r.start:
            raise self.cut_off(r, len(data))
        return data

    def _tried(self, ask: Callable[[], Failed]) -> None:
        """Ask until nothing fails. Raises DataError for what no further try would mend, and after the last."""
        begun = time.monotonic()
        for attempt in range(TRIES):
            failed = ask()
            if not failed:
                return
            for wanted, error in failed:
                self._refuse(error, wanted)
            if attempt < TRIES - 1:
                time.sleep(WAIT * 2**attempt * random.uniform(0.75, 1.25))
        (wanted, error), tried = failed[0], f"{TRIES} tries in {time.monotonic() - begun:.0f} s"
        raise DataError(self.told(wanted.file, f"can't be read after {tried}: {_said(error)}"))

    def _refuse(self, e: BaseException, wanted: Range) -> None:
        """Raise what no further try would mend."""
        status = getattr(e, "status", None)
        if isinstance(e, FileNotFoundError) or status == 404:
            raise Missing(self.told(wanted.file, "is not there (404)")) from None
        if isinstance(e, PermissionError) or status in (401, 403):
            raise DataError(self.told(wanted.file, "may not be read (403); look at your credentials")) from None
        if status == 416:  # nothing of the range is there
            raise self.cut_off(wanted, 0) from None
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
            raise DataError(self.told(wanted.file, f"is refused: {_said(e)}")) from None
        if not isinstance(e, Exception):
            raise e


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Raises DataError where there is none for the protocol."""
    import fsspec  # slow, and only of what lies elsewhere

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        try:
            import aiohttp  # pyright: ignore[reportMissingImports]  # optional
        except ImportError:
            raise DataError(f"{url}: reading from servers needs `pip install 'lowerbound[remote]'`") from None
        options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=20, sock_read=60)}}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as e:
        raise DataError(f"{url}: {str(e).strip().splitlines()[0].rstrip('.')}, by pip") from None
    except Exception as e:  # each protocol has its own
        raise DataError(f"{url}: {_said(e)}") from None
    return fs, path.rstrip("/")


def _said(e: BaseException | None) -> str:
    return " ".join(str(e).split()) or type(e).__name__
