"""What page and server say to one another on the socket.

The page asks in JSON: `{"id": 7, "run": 0, "panel": "latent", "do": "decode", "slot": 0, "given": {...}}`; with
`"stop": true`, that what it asked before in this place be left off. An answer is one binary frame: the length of a JSON
document as four bytes, the lowest first; the document; then its arrays, one after another. The document has the `id` of
what it answers, what was `said`, and of each array its name, type and shape; or an `error`. `more` is true where
further answers to the same question follow, `dropped` where a newer question took its place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lowerbound.errors import UserError

SLOTS = 16  # questions of one kind that a page may have open side by side


class Question(BaseModel):
    """What a page asks."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[int, Field(ge=0, lt=2**53)]
    panel: Annotated[str, Field(max_length=40)]
    do: Annotated[str, Field(max_length=40)]
    run: Annotated[int, Field(ge=0)] = 0
    slot: Annotated[int, Field(ge=0, lt=SLOTS)] = 0
    given: dict[str, Any] = {}
    stop: bool = False

    @staticmethod
    def of(text: str) -> "Question":
        """Raises UserError for what is no question."""
        try:
            return Question.model_validate_json(text)
        except ValidationError as e:
            raise UserError(f"a message is not understood: {reasons(e)}") from None


@dataclass(frozen=True)
class Answer:
    """said: plain JSON values. arrays: numpy arrays by name, of any shape; pictures are uint8 [..., H, W, C]."""

    said: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def frame(answer: Answer, question: int, *, more: bool = False) -> bytes:
    """The bytes of an answer."""
    arrays = {name: np.ascontiguousarray(a) for name, a in answer.arrays.items()}
    about = [{"name": name, "type": a.dtype.name, "shape": [*a.shape]} for name, a in arrays.items()]
    return _bytes({"id": question, "more": more, "said": dict(answer.said), "arrays": about}, *arrays.values())


def dropped(question: int) -> bytes:
    return _bytes({"id": question, "dropped": True})


def failed(question: int | None, text: str, kind: str = "error") -> bytes:
    """kind: `error`; `gone`, where the page has to send an image again."""
    return _bytes({"id": question, "error": {"kind": kind, "text": text}})


def _bytes(document: Mapping[str, Any], *arrays: np.ndarray) -> bytes:
    head = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # so that every type of array may begin behind it
    padded = (a.tobytes() + bytes(-a.nbytes % 8) for a in arrays)
    return b"".join([len(head).to_bytes(4, "little"), bytes(4), head, *padded])


def reasons(error: ValidationError) -> str:
    """The first thing that is wrong, in a few words."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])
