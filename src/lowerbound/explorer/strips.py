"""Images of a run's own data, for panels to begin from."""

from lowerbound.explorer.messages import Answer
from lowerbound.explorer.shelf import Shown


def strip(shown: Shown, start: int, count: int) -> Answer:
    """Names, labels and pictures of so many images of the validation part, from one on."""
    images = shown.data()
    rows = range(min(start, len(images)), min(start + count, len(images)))
    names = [f"valid:{i}" for i in rows]
    labels = [] if images.y is None or not images.classes else [images.classes[images.y[i]] for i in rows]
    x = shown.pictures(images.x[rows.start : rows.stop])
    return Answer({"names": names, "labels": labels, "of": len(images)}, {"pictures": x})
