"""Named directions of a latent vector, added to a code.

With a step, which is the distance of the means of two classes along the direction,

.. math:: z' = z + strength \\cdot step
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lowerbound.errors import ModelError, UserError, did_you_mean

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # becomes a file's, and stands before a = on the command line


@dataclass(frozen=True)
class Direction:
    """A direction of a model's latent vector.

    step: float64 [D], what strength 1 adds to z. report: how it was learnt and what was measured, plain JSON values.
    fresh: whether the model still has the weights that it was learnt for.
    """

    name: str
    step: Tensor
    report: dict[str, Any] = field(default_factory=dict)
    fresh: bool = True


def shifted(z: Tensor, strengths: Mapping[str, float], known: Mapping[str, Direction]) -> Tensor:
    """Codes [..., D] with each named direction added, at its strength.

    Raises ModelError for an unknown direction, one of other weights, or a strength that is not finite.
    """
    # --8<-- [start:shifted]
    for name, strength in strengths.items():
        direction = found(name, known)
        if not math.isfinite(strength):
            raise ModelError(f"direction {name}={strength}: expected a finite strength, such as {name}=1")
        z = z + strength * direction.step.to(z)
    return z
    # --8<-- [end:shifted]


def found(name: str, known: Mapping[str, Direction]) -> Direction:
    """The direction of this name. Raises ModelError where there is none, or only one of other weights."""
    if name not in known:
        hint = did_you_mean(name, known) if known else "; none is stored: learn one with `lowerbound direction`"
        raise ModelError(f"no direction {name!r}{hint}")
    if not known[name].fresh:
        raise ModelError(f"direction {name!r} was learnt before the model was trained on; learn it again")
    return known[name]


def check_name(name: str) -> None:
    """Raise UserError for a name that can't be a direction's."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} can't name a direction: expected letters, digits, _ . or -, a letter or digit first")
