"""Pictures and images as files, each whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lowerbound.errors import UserError
from lowerbound.files import replacing
from lowerbound.pictures.sheets import Table, _cells, _checked, _sheet, grid, table_picture
from lowerbound.units import to_bytes


def check_out(out: str | Path | None, made_of: Sequence[str | Path] = (), *, moving: bool = False) -> Path | None:
    """The path, where there is one. Raises UserError, before anything is computed, where images can't be written to
    it, or would be written over the files that they are made of."""
    if out is None:
        return None
    out = Path(out)
    kind, gif = "" if out.is_dir() else out.suffix.lower(), ".gif (an animation), " if moving else ""
    if kind not in ("", ".png", ".npz") and not (moving and kind == ".gif"):
        raise UserError(
            f"--out {out}: expected a path ending in .png (a grid), {gif}.npz (an array), or a folder (no suffix, one "
            "PNG each)"
        )
    files = {out} if kind else {out / name for name in _file_names(len(made_of), made_of)}
    for path in made_of:
        if Path(path).resolve() in {file.resolve() for file in files}:
            raise UserError(f"--out {out}: would be written over {path}, which it is made of; name another place")
    return out


def save_table(
    table: Table,
    x: np.ndarray,
    out: Path,
    names: Sequence[str] | None = None,
    *,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """A table to a .png; to any other path the images x [N, C, H, W], as an animation or as `save_images` does."""
    kind = "" if out.is_dir() else out.suffix.lower()
    if kind == ".png":
        save_png(table_picture(table), out)
    elif kind == ".gif":
        save_gif(x, table.levels, out)
    else:
        save_images(x, table.levels, out, names, arrays=arrays)


def save_gif(x: ArrayLike, levels: int, out: Path, *, milliseconds: int = 120) -> None:
    """Write images [N, C, H, W] as the frames of an animation that repeats. Raises UserError for fewer than two."""
    from PIL import Image

    cells = _cells(x, levels, None)
    if len(cells) < 2:
        raise UserError(f"{out}: an animation needs at least two images, got {len(cells)}")
    frames = [Image.fromarray(c[..., 0] if c.shape[-1] == 1 else c) for c in cells]
    with replacing(out) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def save_png(picture: np.ndarray, path: Path) -> None:
    """Write a picture, uint8 [H, W] or [H, W, 3], as PNG; its folder is made if need be. Raises UserError."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=picture.size < 1 << 22)


def save_images(
    x: ArrayLike,
    levels: int,
    out: Path,
    names: Sequence[str] | None = None,
    *,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write images [N, C, H, W] the way the path says; raises UserError where it can't.

    - `.png`: one grid;
    - `.npz`: the pixel values themselves, `x` uint8 [N, H, W, C], with `levels` unless they are 256, and `arrays`;
    - a folder (no suffix): one PNG each, scaled to 0-255, called after the files `names` or numbered. Files already
      there stay, unless they have the same name.
    """
    kind = "" if out.is_dir() else out.suffix.lower()
    if kind == ".png":
        save_png(grid(x, levels), out)
    elif kind == ".npz":
        _save_npz(_checked(x), levels, out, arrays or {})
    elif kind == "":
        _save_folder(to_bytes(_checked(x), levels), out, names)
    else:
        raise UserError(
            f"{out}: can't write images as {out.suffix}; "
            "expected a path ending in .png (one grid) or .npz (an array), or a folder (no suffix, one PNG each)"
        )


# --- files


def _save_npz(x: np.ndarray, levels: int, out: Path, arrays: Mapping[str, np.ndarray]) -> None:
    values = {"x": np.rint(np.clip(x, 0, levels - 1)).astype(np.uint8).transpose(0, 2, 3, 1), **arrays}
    values |= {} if levels == 256 else {"levels": np.array(levels)}
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **values)  # pyright: ignore[reportArgumentType]


def _save_folder(x: np.ndarray, out: Path, names: Sequence[str] | None) -> None:
    """All images are written in a folder beside or in `out` first: either every one arrives or none."""
    files = _file_names(len(x), names)
    name = f".{out.name}.{secrets.token_hex(4)}"
    temporary = out / name if out.is_dir() else out.with_name(name)  # `.` has no place beside it
    try:
        for image, file in zip(x, files, strict=True):
            save_png(_sheet(image.transpose(1, 2, 0)[None], 1, 0, 0), temporary / file)
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            os.replace(temporary / file, out / file)
    except OSError as e:
        raise UserError(f"can't write {out}: {e.strerror or e}") from None
    except UserError as e:
        raise UserError(str(e).replace(str(temporary), str(out))) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _file_names(n: int, names: Sequence[str | Path] | None) -> list[str]:
    """One file name per image. Folders and the suffix of a name are dropped, and names that collide are numbered."""
    numbers = [f"{i:0{max(4, len(str(n - 1)))}d}" for i in range(n)]
    if names is None:
        return [number + ".png" for number in numbers]
    if len(names) != n:
        raise UserError(f"names: expected {n}, one per image, got {len(names)}")
    stems = [Path(name).stem or "image" for name in names]
    if len({stem.lower() for stem in stems}) < n:
        stems = [f"{number}-{stem}" for number, stem in zip(numbers, stems, strict=True)]
    return [stem + ".png" for stem in stems]
