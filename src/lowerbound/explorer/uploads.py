"""Images that a page sends: looked at before they are decoded, and kept in a folder of their own until the server ends.

What comes in is an image file and nothing else besides: of a format that the page may send, as the content type says,
with a size in bounds, and over where the format says that it is over (a file that is a picture at its beginning and
something else at its end is refused).
"""

import hashlib
import io
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lowerbound.data.decode import Unreadable, header, quiet
from lowerbound.data.formats import foreign_content
from lowerbound.errors import UserError

MAX_BYTES = 16 * 2**20
MAX_PIXELS = 2**25  # 96 MiB of RGB
KEPT = 32  # images; the one that was not asked for longest goes first


class Refused(UserError):
    """An upload that is not taken.

    again: whether the page may make a plain PNG of it and send that.
    """

    def __init__(self, text: str, status: int = 422, *, again: bool = False):
        super().__init__(text)
        self.status = status
        self.again = again


class Gone(UserError):
    """An image that the server does not have, or no more."""


class Kind(NamedTuple):
    """A format that may be sent."""

    pillow: str
    starts: tuple[bytes, ...]
    end: Callable[[bytes], int | None]  # where such a file is over; None where nobody knows


def check(data: bytes, content_type: str) -> str:
    """The suffix of an image file. Raises Refused for whatever else it is."""
    mime = content_type.partition(";")[0].strip().lower()
    if mime not in KINDS:
        raise Refused(f"{mime or 'no content type'} is not taken; expected {', '.join(sorted(KINDS))}", 415)
    if not data:
        raise Refused("the file is empty")
    kind = KINDS[mime]
    if not data.startswith(kind.starts):
        told = foreign_content(data[:256])
        raise Refused(f"not {kind.pillow}, as was said" + (f", but {told}" if told else ""), 415)
    try:
        with quiet(), Image.open(io.BytesIO(data), formats=[kind.pillow]) as image:
            width, height = image.size  # the header alone
        if width * height > MAX_PIXELS:
            raise Refused(f"{width} x {height} is more than {MAX_PIXELS:,} pixels", 413, again=True)
        header(io.BytesIO(data))
    except Unreadable as e:
        raise Refused(str(e)) from None
    except Image.DecompressionBombError:
        raise Refused(f"more than {MAX_PIXELS:,} pixels", 413, again=True) from None
    except (OSError, SyntaxError, ValueError) as e:
        raise Refused(f"damaged: {e}") from None
    end = kind.end(data)
    if end is None or end > len(data):
        raise Refused("damaged: it ends too early")
    if data[end:].strip(b"\0\r\n "):
        raise Refused(f"{len(data) - end:,} bytes follow the end of the picture", again=True)
    return f".{kind.pillow.lower()}"


class Uploads:
    """The images of a server, by what they hold."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._paths: OrderedDict[str, Path] = OrderedDict()

    def keep(self, data: bytes, content_type: str) -> str:
        """The name by which the page asks for it. Raises Refused."""
        suffix = check(data, content_type)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self.folder / f"{name}{suffix}"
        path.write_bytes(data)
        self._paths[name] = path
        self._paths.move_to_end(name)
        while len(self._paths) > KEPT:
            self._paths.popitem(last=False)[1].unlink(missing_ok=True)
        return name

    def path(self, name: str) -> Path:
        """Raises Gone for one that is not there."""
        try:  # another page may send one, and this one go, at this very moment
            self._paths.move_to_end(name)
            return self._paths[name]
        except KeyError:
            raise Gone("the image is not here any more; send it again") from None


# ---- where a file of each format is over


def _png_end(data: bytes) -> int | None:
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND":
            return at
    return None


def _jpeg_end(data: bytes) -> int | None:
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0xD9:
            return at + 2
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
            if marker == 0xDA:  # a scan: up to the next marker that is no restart, and no escaped 0xFF
                at = _scan_end(data, at)
    return at + 2 if data[at : at + 2] == b"\xff\xd9" else None


def _scan_end(data: bytes, at: int) -> int:
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        if data[at + 1] not in (0x00, 0xFF, *range(0xD0, 0xD8)):
            return at
        at += 1 if data[at + 1] == 0xFF else 2
    return len(data)


def _gif_end(data: bytes) -> int | None:
    if len(data) < 13:
        return None
    at = 13 + _colours(data[10])
    while at < len(data):
        block = data[at]
        if block == 0x3B:
            return at + 1
        if block == 0x21:
            at += 2
        elif block == 0x2C and at + 10 <= len(data):
            at += 11 + _colours(data[at + 9])
        else:
            return None
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return None


def _colours(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _webp_end(data: bytes) -> int | None:
    return None if len(data) < 12 or data[8:12] != b"WEBP" else 8 + struct.unpack_from("<I", data, 4)[0]


def _bmp_end(data: bytes) -> int | None:
    return None if len(data) < 14 else struct.unpack_from("<I", data, 2)[0]


KINDS = {
    "image/png": Kind("PNG", (b"\x89PNG\r\n\x1a\n",), _png_end),
    "image/jpeg": Kind("JPEG", (b"\xff\xd8\xff",), _jpeg_end),
    "image/gif": Kind("GIF", (b"GIF87a", b"GIF89a"), _gif_end),
    "image/webp": Kind("WEBP", (b"RIFF",), _webp_end),
    "image/bmp": Kind("BMP", (b"BM",), _bmp_end),
}
