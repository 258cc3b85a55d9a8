"""Writing files whole or not at all."""

import os
import re
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lowerbound.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# temporary names, of files with and without a suffix and of folders, that a killed process leaves
UNFINISHED = re.compile(r"\..+\.(\d+\.[^.]+|\d{12}|[0-9a-f]{8})")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` to write to; it takes the place of `path` when the block ends well.

    Nothing is left under either name when it doesn't. Raises UserError where the disk is full or can't be written.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.randbelow(10**12):012d}{path.suffix}")  # each thread its own
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise UserError(f"can't write {path}: {e.strerror or e}") from e
    finally:
        with suppress(OSError):
            temporary.unlink()


class Rows:
    """Arrays that grow row by row on disk, and end as an .npz: memory does not grow with them.

    They gather in files without a name, which vanish with the process however it ends.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, IO[bytes]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, Any] = {}

    def add(self, name: str, rows: "np.ndarray") -> None:
        """Append rows [n, ...] to the array of this name; all have the first's dtype and shape but for n."""
        if name not in self.files:
            self.files[name] = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115, closed by __exit__
            self.shapes[name], self.dtypes[name] = (0, *rows.shape[1:]), rows.dtype
        n, *rest = self.shapes[name]
        if rows.dtype != self.dtypes[name] or list(rows.shape[1:]) != rest:
            raise ValueError(f"{name}: rows of {rows.dtype} {rows.shape[1:]} after {self.dtypes[name]} {tuple(rest)}")
        self.shapes[name] = (n + len(rows), *rest)
        self.files[name].write(rows.tobytes())

    def save(self, path: Path) -> None:
        """Write what np.load reads as an .npz."""
        import numpy as np

        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, rows in self.files.items():
                descr = np.lib.format.dtype_to_descr(self.dtypes[name])
                header = {"descr": descr, "fortran_order": False, "shape": self.shapes[name]}
                rows.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(rows, member, 2**20)

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            with suppress(OSError):  # a full disk was an error before
                file.close()
