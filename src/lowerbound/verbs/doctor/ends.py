"""What the two ends of a diffusion model's noise cost by themselves, whatever its network learns."""

import numpy as np
import torch

from lowerbound.model import Diffusing
from lowerbound.noise import KeyedNoise
from lowerbound.units import bits_per_dim
from lowerbound.verbs.doctor.check import Check, showing
from lowerbound.verbs.doctor.evidence import Bars
from lowerbound.verbs.doctor.examined import Examined

COSTLY = 0.1  # bits/dim


def checks(e: Examined) -> list[Check]:
    if not isinstance(e.model, Diffusing):
        return []
    first, last = (bits_per_dim(nats, e.model.space.dims) for nats in _terms(e, e.model))
    found = [
        Check(
            "noise.first",
            first,
            COSTLY,
            first > COSTLY,
            "problem",
            f"the noise at time 0 hides which value a pixel has: {first:.2f} bits/dim of the bound are lost there, and "
            "no network can win them back",
            "a lower model.schedule.gamma_min",
        ),
        Check(
            "noise.last",
            last,
            COSTLY,
            last > COSTLY,
            "problem",
            f"the noise at time 1 leaves of the image what costs {last:.2f} bits/dim, and samples begin without it",
            "a higher model.schedule.gamma_max, such as 5",
        ),
    ]
    names = ["at time 0", "at time 1"]
    return showing(found, lambda: [Bars("what the noise costs, bits/dim", names, np.array([first, last]), COSTLY)])


@torch.no_grad()
def _terms(e: Examined, model: Diffusing) -> tuple[float, float]:
    """The means of the reconstruction and prior terms over the validation images, in nats."""
    found = []
    for batch in e.in_order(e.valid):
        with KeyedNoise(0, batch.index) as noise:
            parts = model.bound_parts(batch.x, batch.y, noise.chunk(1))
        found.append(torch.stack([parts.reconstruction[0], parts.prior[0]]).double().cpu().numpy())
    reconstruction, prior = np.concatenate(found, 1).mean(1)
    return float(reconstruction), float(prior)
