"""Images inside a .zip or .tar, read in place: nothing is ever unpacked to disk.

An archive that could not be unpacked safely (members that point outside, links, devices, encryption, sizes that no
honest compression gives) is refused as a whole.
"""

import io
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from lowerbound.data.decode import Unreadable
from lowerbound.errors import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TICK = 0.02  # seconds; file systems stamp changes at least this finely
MAX_FILE = 2**28  # bytes that one image file may take
MAX_RATIO = 1100  # deflate reaches 1032 at best; more means members that share their bytes
Opener = Callable[[], IO[bytes]]


def settled(stamp: Callable[[], tuple[Any, int]]) -> Any:
    """The fingerprint that `stamp` gives, with the newest ctime in ns in it, once that is in the past.

    File systems stamp changes in ticks: a file just written could change once more and keep its stamp.
    """
    fingerprint, newest = stamp()
    if newest > time.time_ns() - TICK * 1e9:
        time.sleep(TICK)
        fingerprint, _ = stamp()
    return fingerprint


def file_fingerprint(path: Path) -> list[int]:
    """What tells one content of a file from another: a whole archive, an array."""
    return settled(lambda: (stamp := file_stamp(path), stamp[2]))


def file_stamp(path: Path) -> list[int]:
    """Numbers that change with the content of a file: a replaced file keeps its mtime at times, but not its ctime."""
    s = path.stat()
    return [s.st_size, s.st_mtime_ns, s.st_ctime_ns]


class Zip:
    """The files of a .zip; any of them can be read at any time, by several threads."""

    def __init__(self, path: Path):
        self.path = path

    def fingerprint(self) -> Any:
        return file_fingerprint(self.path)

    def names(self) -> list[str]:
        """Names of all files, relative to the archive's root. Raises DataError for an archive that is not safe."""
        try:
            self.zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as e:
            raise DataError(f"{self.path}: not a readable zip: {e}") from None
        infos = [i for i in self.zip.infolist() if not i.is_dir()]
        for info in infos:
            check_name(self.path, info.filename)
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise DataError(f"{self.path}: {info.filename} is a link or device; only plain files are read")
            if info.flag_bits & 0x1:
                raise DataError(f"{self.path}: {info.filename} is encrypted; unpack it with its password first")
        declared = sum(i.file_size for i in infos)
        if declared > MAX_RATIO * max(self.path.stat().st_size, 2**20):
            raise DataError(f"{self.path}: declares {declared / 2**30:,.0f} GiB of content, more than it can hold")
        self.infos = {clean(i.filename): i for i in infos}
        return list(self.infos)

    def openers(self, wanted: Sequence[str]) -> Iterator[tuple[int, Opener]]:
        """(position in `wanted`, how to open it), each once."""
        for i, name in enumerate(wanted):
            yield i, lambda info=self.infos[name]: self._open(info)

    def _open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        check_size(info.file_size)
        return self.zip.open(info)

    def close(self) -> None:
        self.zip.close()


class Tar:
    """The files of a .tar, compressed or not: read from front to back, by one thread."""

    def __init__(self, path: Path):
        self.path = path

    def fingerprint(self) -> Any:
        return file_fingerprint(self.path)

    def names(self) -> list[str]:
        """Names of all files, relative to the archive's root. Raises DataError for an archive that is not safe."""
        found = {}
        for i, member in enumerate(self._members()):
            check_name(self.path, member.name)
            if member.isdir():
                continue
            if not member.isfile():
                raise DataError(f"{self.path}: {member.name} is a link or device; only plain files are read")
            found[clean(member.name)] = i
        self.last = found  # of several members with one name, the last one counts, as when unpacking
        return list(found)

    def openers(self, wanted: Sequence[str]) -> Iterator[tuple[int, Opener]]:
        """(position in `wanted`, how to open it), each once, in the order of the archive."""
        position = {self.last[name]: i for i, name in enumerate(wanted)}
        for n, (member, tar) in enumerate(self._walk()):
            if n not in position:
                continue
            if member.size > MAX_FILE:
                yield position[n], lambda size=member.size: check_size(size) or io.BytesIO()
                continue
            file = tar.extractfile(member)
            content = file.read() if file else b""
            yield position[n], lambda content=content: io.BytesIO(content)

    def _members(self) -> Iterator[tarfile.TarInfo]:
        return (member for member, _ in self._walk())

    def _walk(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        try:
            with tarfile.open(self.path, "r:*") as tar:  # remembers each member, some 1 KB
                while member := tar.next():
                    yield member, tar
        except (tarfile.TarError, OSError, EOFError) as e:
            raise DataError(f"{self.path}: not a readable tar: {e}") from None

    def close(self) -> None:
        pass


def clean(name: str) -> str:
    """`./a//b.png` -> `a/b.png`."""
    return "/".join(p for p in name.replace("\\", "/").split("/") if p not in ("", "."))


def check_name(archive: Path, name: str) -> None:
    """Raise DataError for a member that would land outside of the folder it is unpacked to."""
    name = name.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        raise DataError(f"{archive}: the member {name!r} points outside of the archive; it is refused as a whole")


def check_size(size: int) -> None:
    """Raise Unreadable for a file larger than any image should be."""
    if size > MAX_FILE:
        raise Unreadable(f"{size / 2**20:,.0f} MiB is more than the {MAX_FILE // 2**20} MiB an image file may take")
