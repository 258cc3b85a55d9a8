"""All images of a split in two dimensions, and the pictures between them."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lowerbound.data.images import Images
from lowerbound.editing.controls import in_words
from lowerbound.errors import UserError
from lowerbound.explorer.conditions import condition
from lowerbound.explorer.mapping import Encoding, along, as_codes, has_umap, umap
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import Finite, Given, Name, Panel, action
from lowerbound.explorer.shelf import Shown
from lowerbound.runs.conditions import NOTHING

MOST_NAMES = 12  # that have a colour of their own
NEIGHBOURS = 12
SIDE = 64  # pixels of a small picture
BRIGHTNESS = "brightness"
NONE = 255  # of no name that has a colour

Coordinate = Annotated[Finite, Field(ge=-1e6, le=1e6)]
At = tuple[Coordinate, Coordinate]
Way = Annotated[list[At], Field(min_length=2, max_length=512)]
Points = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=512)]


class View(BaseModel):
    """Which map: of which images, and how they are laid out."""

    model_config = ConfigDict(extra="forbid")

    split: Literal["train", "valid", "test"] = "valid"
    layout: Literal["plane", "umap"] = "plane"
    # whether a place stands for the code in the plane, or for one like those of the images around it
    exact: bool = False


class Map(Panel):
    """For models whose images are made of one vector of numbers."""

    title = "Map"
    place = 20

    def fits(self, shown: Shown) -> bool:
        try:
            return shown.codec.encodes and not shown.run.recipe.model.views_given()
        except UserError:
            return False

    @action
    def about(self, shown: Shown) -> Answer:
        """What there is to be chosen."""
        size = shown.codec.size
        name = "the latent as it is" if size == 1 else "the two latents as they are" if size == 2 else "PCA"
        layouts = [{"name": "plane", "title": name}, *([{"name": "umap", "title": "UMAP"}] if has_umap() else [])]
        return Answer({"size": size, "layouts": layouts, "whole": size <= 2})

    @action
    def points(self, shown: Shown, *, view: View) -> Iterator[Answer]:
        """Where the images are, as they are encoded: float32 [n, 2] from point `start` on."""
        encoding = _encoding(shown, view)
        sent, plane = 0, None
        while True:
            start = sent if encoding.plane is plane else 0
            plane, done = encoding.plane, encoding.done
            if done > start:
                said = {"start": start, "done": done, "of": len(encoding), "share": [*plane.share]}
                yield Answer(said | {"images": len(encoding.images)}, {"at": plane.places(encoding.z[start:done])})
            sent = done
            if sent == len(encoding) and encoding.plane is plane:
                break
            encoding.advance()
        if view.layout == "umap":
            said = {"start": 0, "done": sent, "of": sent, "share": [], "images": len(encoding.images)}
            yield Answer(said, {"at": _placed(shown, view, encoding)})

    @action
    def colours(self, shown: Shown, *, view: View) -> Answer:
        """What points can be coloured by."""
        return Answer({"names": [*_colours(_encoding(shown, view).images)]})

    @action
    def colour(self, shown: Shown, *, view: View, by: Name) -> Answer:
        """What every point has of it: the place of a name, uint8, NONE where it has no colour of its own; or a number,
        float32, NaN where nothing is known."""
        encoding = _encoding(shown, view)
        return shown.once(("map", view.split, "colour", by), lambda: _colour(encoding, by))

    @action
    def images(self, shown: Shown, *, view: View, points: Points) -> Answer:
        """Small pictures of points, and what they are called."""
        encoding = _encoding(shown, view)
        rows = encoding.rows[_checked(encoding, points)]
        pictures = _small(shown.pictures(encoding.images.x[rows]))
        return Answer({"names": [_name(encoding.images, int(row)) for row in rows]}, {"pictures": pictures})

    @action
    def select(self, shown: Shown, *, view: View, point: Annotated[int, Field(ge=0)]) -> Answer:
        """An image: its code, what it is made again as, and those whose codes are nearest."""
        encoding = _encoding(shown, view)
        (point,) = _checked(encoding, [point]).tolist()
        row = int(encoding.rows[point])
        batch = shown.batch(view.split, np.array([row]))
        z = shown.codec.encode(batch.x, batch.y)
        said = {
            "name": _name(encoding.images, row),
            "image": f"{view.split}:{row}",
            "given": in_words(shown.run, None if batch.y is None else batch.y.cpu()),
        }
        again = shown.codec.decode(z, batch.y)[0]
        pictures = {"original": shown.pictures(batch.x[0]), "picture": shown.pictures(again)}
        near = _near(shown, view, encoding, z[0].double().cpu().numpy(), but=point)
        return Answer(said | near[0], pictures | near[1] | {"z": z[0].float().cpu().numpy()})

    @action
    def decode(self, shown: Shown, *, view: View, at: At, given: Given = NOTHING, near: bool = False) -> Answer:
        """The picture of a place; near: and its code, and the images whose codes are nearest."""
        encoding = _encoding(shown, view)
        z = as_codes(shown, _codes(shown, view, encoding, np.array([at])))
        y = condition(shown, given)
        picture = {"picture": shown.pictures(shown.codec.decode(z, y)[0])}
        if not near:
            return Answer(arrays=picture)
        said, arrays = _near(shown, view, encoding, z[0].double().cpu().numpy())
        given_in_words = in_words(shown.run, None if y is None else y.cpu())
        return Answer(said | {"given": given_in_words}, picture | arrays | {"z": z[0].float().cpu().numpy()})

    @action
    def path(
        self,
        shown: Shown,
        *,
        view: View,
        way: Way,
        frames: Annotated[int, Field(ge=2, le=120)] = 32,
        given: Given = NOTHING,
    ) -> Answer:
        """The pictures along a line, at equal distances: [frames, H, W, C], and where they are, [frames, 2]."""
        encoding = _encoding(shown, view)
        at = along(np.array(way), frames)
        z = as_codes(shown, _codes(shown, view, encoding, at))
        pictures = shown.pictures(shown.codec.decode(z, condition(shown, given)))
        return Answer(arrays={"pictures": pictures, "at": at.astype(np.float32), "z": z.float().cpu().numpy()})


def _encoding(shown: Shown, view: View) -> Encoding:
    return shown.once(("map", view.split), lambda: Encoding(shown, view.split))


def _placed(shown: Shown, view: View, encoding: Encoding) -> np.ndarray:
    """Where the points are that have been encoded, [n, 2]."""
    if view.layout == "umap" and encoding.done == len(encoding):
        return shown.once(("map", view.split, "umap"), lambda: umap(encoding.z))
    return encoding.places()


def _codes(shown: Shown, view: View, encoding: Encoding, at: np.ndarray) -> np.ndarray:
    """Those of places [N, 2]: [N, D]."""
    placed = _placed(shown, view, encoding)
    if not len(placed):
        raise UserError("no image is encoded yet")
    if view.layout == "umap":
        return encoding.codes_among(at, placed)
    return encoding.codes_at(at, placed, view.exact)


def _near(
    shown: Shown, view: View, encoding: Encoding, z: np.ndarray, but: int | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The images around a code, besides one: what is said of them, and their pictures and places."""
    found, far = encoding.nearest(z, NEIGHBOURS + (but is not None))
    other = found != but
    found, far = found[other][:NEIGHBOURS], far[other][:NEIGHBOURS]
    rows = encoding.rows[found]
    names = [_name(encoding.images, int(row)) for row in rows]
    said = {"names": names, "points": found.tolist(), "distances": [float(f"{d:.4g}") for d in far]}
    return {"neighbours": said}, {
        "neighbours": _small(shown.pictures(encoding.images.x[rows])),
        "places": _placed(shown, view, encoding)[found],
    }


def _checked(encoding: Encoding, points: list[int]) -> np.ndarray:
    if points and max(points) >= len(encoding):
        raise UserError(f"no point {max(points)}; expected a number below {len(encoding)}")
    return np.array(points, int)


def _name(images: Images, row: int) -> str:
    if images.y is None or not images.classes or not 0 <= images.y[row] < len(images.classes):
        return f"image {row}"
    return f"image {row}, {images.classes[images.y[row]]}"


def _small(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] of at most SIDE pixels, by the means of squares."""
    k = -(-max(pictures.shape[1:3]) // SIDE)
    if k == 1:
        return pictures
    n, h, w, c = pictures.shape
    squares = pictures[:, : h // k * k, : w // k * k].reshape(n, h // k, k, w // k, k, c)
    return squares.mean((2, 4)).round().astype(np.uint8)


# ---- colours


def _colours(images: Images) -> list[str]:
    label = ["label"] if images.y is not None and images.classes else []
    return [*label, *(name for name in images.factor_names or () if name not in label), BRIGHTNESS]


def _colour(encoding: Encoding, by: str) -> Answer:
    """Raises UserError for what the images don't have."""
    images, rows = encoding.images, encoding.rows
    if by not in _colours(images):
        raise UserError(f"the images have no {by!r}; expected one of {', '.join(_colours(images))}")
    if by == "label" and images.y is not None:
        return _named(images.y[rows], images.classes or ())
    if by == BRIGHTNESS:
        parts = np.array_split(rows, -(-len(rows) // 4096))
        means = [images.x[part].mean((1, 2, 3)) / (images.levels - 1) for part in parts]
        return _numbers(np.concatenate(means), "")
    place = (images.factor_names or ()).index(by)
    assert images.factors is not None
    found, kind = images.factors[rows, place], images.kinds[place] if images.kinds else None
    if kind is not None and kind.kind == "categorical":
        return _named(np.where(np.isnan(found), -1, found).astype(int), kind.values)
    return _numbers(found, kind.unit if kind else "")


def _named(values: np.ndarray, names: tuple[str, ...]) -> Answer:
    """The most frequent names have a colour."""
    counts = np.bincount(values[values >= 0], minlength=len(names))
    kept = np.argsort(-counts, kind="stable")[:MOST_NAMES] if len(names) > MOST_NAMES else np.arange(len(names))
    colours = np.full(len(names) + 1, NONE, np.uint8)  # the last of what has no name
    colours[kept] = np.arange(len(kept))
    said = {"names": [names[k] for k in kept], "others": len(names) - len(kept)}
    return Answer(said, {"values": colours[np.where(values < 0, len(names), values)]})


def _numbers(values: np.ndarray, unit: str) -> Answer:
    known = values[np.isfinite(values)]
    low, high = (float(np.quantile(known, q)) if len(known) else 0.0 for q in (0.01, 0.99))
    return Answer({"low": low, "high": high, "unit": unit}, {"values": values.astype(np.float32)})
