"""An .npz file: `x` uint8 [N, H, W] or [N, H, W, C], perhaps `y`, `levels`, `factors` and `factor_names`; or an .npy.

Arrays of other shapes, types and names are taken where that has one meaning, parts such as `x_train` and `x_test` too.
"""

import contextlib
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from lowerbound.data import interpret
from lowerbound.data.archives import file_fingerprint
from lowerbound.data.interpret import Labels, Pixels
from lowerbound.data.layout import PART_NAMES
from lowerbound.data.source import ArraySource, Contents, Preparation
from lowerbound.data.split import PARTS, UNDECIDED
from lowerbound.errors import DataError

BLOCK = 2**21  # bytes of x read at a time
SUFFIXES = (".npz", ".npy")
_X = frozenset(["x", "image", "images", "img", "imgs", "data"])
_Y = frozenset(["y", "label", "labels", "target", "targets"])


class Header(NamedTuple):
    """Of an array in the file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


class Member(NamedTuple):
    """An array of images, its labels, and the part that they are."""

    x: str
    y: str | None
    part: int


class Arrays(ArraySource):
    """Rows keep the order of the file; x is streamed, never held whole."""

    def __init__(self, path: Path, preparation: Preparation):
        self.path, self.preparation = path, preparation
        self.name = path.stem
        self.origin = str(path.resolve())

    def fingerprint(self) -> Any:
        return file_fingerprint(self.path)

    def contents(self) -> Contents:
        self.headers = self._headers()
        self.members = self._members()
        self.pixels = self._pixels()
        self.raw_shape = self.pixels.shape
        counts = [self.headers[m.x].shape[0] for m in self.members]
        part = np.repeat(np.array([m.part for m in self.members], np.int8), counts)
        given = {PARTS[m.part] for m in self.members if m.part != UNDECIDED}
        part[part == 0] = UNDECIDED  # what is missing is carved out of train
        y = self._labels(counts)
        factors, names = self._factors(sum(counts))
        return Contents(
            keys=[str(i) for i in range(sum(counts))],
            part=part,
            carve=tuple(p for p in PARTS[1:] if p not in given),
            shape=self.prepared_shape(),
            levels=self.preparation.levels or self._levels(),
            y=y and y.y,
            classes=y and y.classes,
            factors=factors,
            factor_names=names,
            layout=self._layout(y),
        )

    def blocks(self) -> Iterator[np.ndarray]:
        for member in self.members:
            (n, *image), _, dtype = self.headers[member.x]
            rows = max(1, BLOCK // (math.prod(image) * dtype.itemsize))
            with self._opened(member.x) as file:
                for start in range(0, n, rows):
                    count = min(rows, n - start)
                    data = file.read(count * math.prod(image) * dtype.itemsize)
                    x = np.frombuffer(data, dtype).reshape(count, *image)
                    x = self.pixels.ordered(interpret.as_bytes(x, f"{self.path}: {member.x}"))
                    yield interpret.on_white(x) if x.shape[1] == 4 else x

    # ---- what is in the file

    def _headers(self) -> dict[str, Header]:
        """Of every array, by its name; that of an .npy is called x."""
        if self.path.suffix.lower() == ".npy":
            names = ["x"]
        else:
            with self._reading(), zipfile.ZipFile(self.path) as archive:
                names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        found = {}
        for name in names:
            with self._opened(name) as file:
                found[name] = file.header
        return found

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator["_Array"]:
        """An array of the file, to be read from its first row on."""
        with self._reading(), contextlib.ExitStack() as stack:
            if self.path.suffix.lower() == ".npy":
                file = stack.enter_context(open(self.path, "rb"))
            else:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                file = stack.enter_context(archive.open(f"{name}.npy"))
            yield _Array(file)

    def _small(self, name: str) -> np.ndarray:
        if self.headers[name].dtype.hasobject:
            raise DataError(
                f"{self.path}: not a readable {self.path.suffix} file: {name} holds Python objects; save "
                f"{name}.astype(str) of strings"
            )
        with self._reading(), np.load(self.path, allow_pickle=False) as arrays:
            return arrays[name]

    def _members(self) -> list[Member]:
        """Which arrays are images: x, else those of parts, else the only one that can be."""
        if "x" in self.headers:
            return [Member("x", self._only(_Y), UNDECIDED)]
        parts = _by_part(self.headers, _X)
        if 0 in parts:
            y = _by_part(self.headers, _Y)
            return [Member(name, y.get(part), part) for part, name in sorted(parts.items())]
        for dims in ((3, 4), (2,)):
            able = [n for n, h in self.headers.items() if len(h.shape) in dims and n not in _SMALL and _is_image(h)]
            if len(able) == 1:
                return [Member(able[0], self._only(_Y), UNDECIDED)]
        raise DataError(f"{self.path}: has no array x; its arrays: {', '.join(self.headers) or 'none'}")

    def _only(self, names: frozenset[str]) -> str | None:
        """y, else the only array that is called one of these."""
        found = [n for n in self.headers if n.lower() in names]
        return "y" if "y" in found else found[0] if len(found) == 1 else None

    def _pixels(self) -> Pixels:
        found = [self._checked(m.x) for m in self.members]
        if len({p.shape for p in found}) > 1:
            shapes = ", ".join(f"{m.x} {list(self.headers[m.x].shape)}" for m in self.members)
            raise DataError(f"{self.path}: the parts' images differ: {shapes}")
        return found[0]

    def _checked(self, name: str) -> Pixels:
        shape, fortran, dtype = self.headers[name]
        if dtype.kind == "f":
            raise DataError(f"{self.path}: {name} must be uint8, got {dtype}{self._float_remedy(name)}")
        if dtype.kind not in "biu":
            raise DataError(f"{self.path}: {name} must be uint8, got {dtype}")
        if fortran and len(shape) > 1:
            raise DataError(f"{self.path}: {name} is in Fortran order; save np.ascontiguousarray({name})")
        return interpret.pixels(shape, f"{self.path}: {name}")

    def _float_remedy(self, name: str) -> str:
        """What the floats are, and the line of numpy that makes them uint8."""
        low, high, whole = self._range(name)
        new = f"{self.path.stem}-uint8{self.path.suffix}"
        if self.path.suffix.lower() == ".npy":
            line = f"x = np.load({self.path.name!r}); np.save({new!r}, {interpret.float_remedy(low, high, whole)})"
        else:
            made = re.sub(r"\bx\b", f"d[{name!r}]", interpret.float_remedy(low, high, whole))
            line = f"d = dict(np.load({self.path.name!r})); d[{name!r}] = {made}; np.savez({new!r}, **d)"
        return f" from {low:g} to {high:g}; this makes it so: {line}"

    def _range(self, name: str) -> tuple[float, float, bool]:
        """The lowest and highest value, and whether all are whole."""
        low, high, whole = math.inf, -math.inf, True
        with self._opened(name) as file:
            while data := file.read(BLOCK // 16 * 16):
                x = np.frombuffer(data, file.header.dtype)
                low, high = min(low, float(x.min())), max(high, float(x.max()))
                whole = whole and bool((x == np.rint(x)).all())
        return low, high, whole

    def _labels(self, counts: list[int]) -> Labels | None:
        if not all(m.y for m in self.members):
            return None
        y = [self._small(m.y) for m in self.members if m.y]
        for found, n, member in zip(y, counts, self.members, strict=True):
            interpret.labels(found, n, f"{self.path}: {member.y}")  # each on its own, for its message
        try:
            whole = np.concatenate(y)
        except ValueError as e:
            raise DataError(f"{self.path}: the parts' labels differ: {e}") from None
        found = interpret.labels(whole, sum(counts), str(self.members[0].y))
        return found

    def _levels(self) -> int:
        if "levels" not in self.headers:
            return 2 if all(self.headers[m.x].dtype == bool for m in self.members) else 256
        levels = self._small("levels")
        if levels.size != 1 or levels.dtype.kind not in "iu" or not 2 <= int(levels.item()) <= 256:
            raise DataError(f"{self.path}: levels must be a whole number from 2 to 256, got {levels.tolist()}")
        return int(levels.item())

    def _factors(self, n: int) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
        if ("factors" in self.headers) != ("factor_names" in self.headers):
            raise DataError(f"{self.path}: factors and factor_names belong together, only one is there")
        if "factors" not in self.headers:
            return None, None
        factors, names = self._small("factors"), self._small("factor_names")
        if factors.shape != (n, names.size) or factors.dtype.kind not in "biuf" or names.dtype.kind != "U":
            raise DataError(
                f"{self.path}: factors must be numbers [{n}, F] with F factor_names, got {factors.dtype} "
                f"{list(factors.shape)} and {names.size} names"
            )
        return factors, tuple(names.ravel().tolist())

    def _layout(self, y: Labels | None) -> str:
        """How the arrays were taken, where that is otherwise than they should be."""
        names = [m.x for m in self.members]
        dtype = self.headers[names[0]].dtype
        kind = "bools as 2 levels" if dtype.kind == "b" else "" if dtype == np.uint8 else f"{dtype} within 0 to 255"
        said = [f"images from {', '.join(names)}" if names != ["x"] else "", self.pixels.said, kind]
        if self.members[0].y not in (None, "y"):
            said.append(f"labels from {', '.join(str(m.y) for m in self.members)}")
        used = {m.x for m in self.members} | {m.y for m in self.members} | _SMALL
        if others := [n for n in self.headers if n not in used]:
            said.append(f"ignored: {', '.join(others)}")
        return "; ".join(filter(None, [*said, y.said if y else ""]))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What numpy and zipfile raise for a damaged file, in one sentence."""
        try:
            yield
        except (zipfile.BadZipFile, ValueError, OSError, EOFError, zlib.error, KeyError, RuntimeError) as e:
            raise DataError(f"{self.path}: not a readable {self.path.suffix} file: {e}") from None


_SMALL = frozenset(["levels", "factors", "factor_names"])


class _Array:
    """An array in a file: its header, then its bytes."""

    def __init__(self, file: IO[bytes]):
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.header = Header(*read(file))
        self.read = file.read


def _is_image(header: Header) -> bool:
    if header.dtype.kind not in "biuf":
        return False
    try:
        interpret.pixels(header.shape, "")
    except DataError:
        return False
    return True


def _by_part(names: dict[str, Header], kinds: frozenset[str]) -> dict[int, str]:
    """Part -> array, of names such as x_train and test_images."""
    found = {}
    for name in names:
        words = name.lower().split("_")
        if len(words) == 2 and (kind := kinds.intersection(words)):
            other = words[1 - words.index(next(iter(kind)))]
            if other in PART_NAMES:
                found[PART_NAMES[other]] = name
    return found
