"""What is known of images besides their pixels, as it is kept: plain JSON values, and arrays with a row for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lowerbound.config import parse
from lowerbound.data.attributes import Factor
from lowerbound.data.images import Annotated, Failed, Images


class Texts(Sequence[str]):
    """Many file names without a Python object for each: UTF-8 in one buffer, and where each one ends."""

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        self.text, self.ends = text, ends

    @staticmethod
    def packed(texts: Sequence[str]) -> "Texts":
        encoded = [str(text).encode("utf-8", "surrogateescape") for text in texts]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return Texts(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, i: Any) -> Any:  # of an index or a slice, as a list does
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        return self.text[self.ends[i] : self.ends[i + 1]].tobytes().decode("utf-8", "surrogateescape")


def facts_of(known: Annotated, name: str, levels: int) -> dict[str, Any]:
    """What is said once of all images, as JSON values."""
    return {
        "name": name,
        "levels": levels,
        "classes": known.classes,
        "factor_names": known.factor_names,
        "kinds": known.kinds and [f.model_dump(mode="json") for f in known.kinds],
        "factor_cut": known.factor_cut,
        "views": known.views,
        "unreadable": known.unreadable,
        "ignored": known.ignored,
        "layout": known.layout,
        "notes": known.notes,
    }


def arrays_of(known: Annotated) -> dict[str, np.ndarray]:
    """What is said of each image, by the names of the files that keep it."""
    found: dict[str, np.ndarray] = {}
    if known.y is not None:
        found["y"] = known.y.astype(np.int64)
    if known.factors is not None:
        found["factors"] = np.asarray(known.factors)
    if known.paths is not None:
        names = Texts.packed(known.paths)
        found |= {"paths": names.text, "ends": names.ends}
    return found


def annotations(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of `Annotated`, of what `facts_of` and `arrays_of` gave."""
    kinds = facts.get("kinds")
    return {
        "y": arrays.get("y"),
        "classes": facts["classes"] and tuple(facts["classes"]),
        "paths": Texts(arrays["paths"], arrays["ends"]) if "paths" in arrays else None,
        "factors": arrays.get("factors"),
        "factor_names": facts["factor_names"] and tuple(facts["factor_names"]),
        "kinds": tuple(parse(Factor, f, "kinds") for f in kinds) if kinds else None,
        "factor_cut": facts.get("factor_cut"),
        "views": facts.get("views"),
        "unreadable": tuple(Failed(*pair) for pair in facts["unreadable"]),
        "ignored": facts["ignored"],
        "layout": facts["layout"],
        "notes": tuple(facts["notes"]),
    }


def images_of(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], x: Any) -> Images:
    """All images of a data set: x is uint8 [N, C, H, W], or is read as if it were."""
    return Images(name=facts["name"], split="all", x=x, levels=facts["levels"], **annotations(facts, arrays))
