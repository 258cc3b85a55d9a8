"""Checks of numbers."""

import math

from lowerbound.errors import UserError


def check_number(value: float, option: str, low: float = -math.inf) -> None:
    if not math.isfinite(value) or value <= low:
        wanted = "a finite number" if low == -math.inf else f"a finite number above {low:g}"
        raise UserError(f"{option}: expected {wanted}")


def check_steps(steps: int) -> None:
    if steps < 2:
        raise UserError(f"--steps {steps}: expected at least 2")
