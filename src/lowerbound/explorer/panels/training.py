"""A training watched: the curves of its log as they grow, how far it is, and the pictures that it has drawn so far."""

from collections.abc import Iterator

import numpy as np

from lowerbound.errors import UserError
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import Name, Panel, action
from lowerbound.explorer.shelf import Shown
from lowerbound.explorer.watching import Watched, pictures

LARGEST = 2**25  # bytes of a picture


class Training(Panel):
    """For runs that have a log, or are about to."""

    title = "Training"
    place = 70

    def fits(self, shown: Shown) -> bool:
        run = shown.run
        return run.log.path.is_file() or not (run.path / "model.safetensors").is_file()

    @action
    def follow(self, shown: Shown) -> Iterator[Answer | None]:
        """The whole log and how far its stages are, and then whatever is new, for as long as somebody looks on."""
        return Watched(shown.run).looks()

    @action
    def picture(self, shown: Shown, *, name: Name) -> Answer:
        """A picture of the run's, as the bytes of its PNG."""
        if name not in [p["name"] for p in pictures(shown.run)]:
            raise UserError(f"the run has no picture {name!r}")
        path = shown.run.picture(f"{name}.png")
        try:
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as e:
            raise UserError(f"{path}: can't be read: {e.strerror}") from None
        if len(data) > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 20} MiB")
        return Answer(arrays={"png": np.frombuffer(data, np.uint8)})
