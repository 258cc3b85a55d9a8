"""Whether the weights are there, whole and finite."""

import torch

from lowerbound.errors import RunError
from lowerbound.model import Model
from lowerbound.runs.run import Run
from lowerbound.verbs.doctor.check import Check
from lowerbound.verbs.doctor.evidence import most


def loaded(run: Run, device: torch.device) -> tuple[Model | None, list[Check]]:
    """The model, where it can be measured, and what there is to say of its weights."""
    again = f"lowerbound train {run.name} … --resume --out {run.path}"
    try:
        model = run.load(device)
    except RunError as e:
        return None, [Check("weights.missing", 1, 0, True, "problem", str(e), again)]
    bad = {name: int((~torch.isfinite(t)).sum()) for name, t in model.state_dict().items() if t.is_floating_point()}
    bad = {name: n for name, n in bad.items() if n}
    message = f"{sum(bad.values()):,} weights are not finite, the first in {next(iter(bad), '')}"
    check = Check("weights.not_finite", sum(bad.values()), 0, bool(bad), "problem", message, again)
    check = check._replace(shows=lambda: [most("weights that are not finite, by tensor", bad)])
    return None if bad else model, [check]
