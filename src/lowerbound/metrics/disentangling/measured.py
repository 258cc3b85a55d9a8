"""The scores of a run: of its posterior means, and the factors of variation that its images are known to have."""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lowerbound.chunks import Advance, own_batches
from lowerbound.data.attributes import Factor
from lowerbound.data.batches import Batch, Batches
from lowerbound.data.images import Images
from lowerbound.errors import DataError
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.metrics.disentangling.base import SAID, Estimate, Floats, Kinds, Score, described, is_constant
from lowerbound.metrics.disentangling.fixed import beta_vae, factor_vae
from lowerbound.metrics.disentangling.infomec import infomec
from lowerbound.metrics.disentangling.information import mig, modularity, told
from lowerbound.metrics.disentangling.prediction import SPLITS, dci, explicitness, sap
from lowerbound.model import CodeModel, LatentModel
from lowerbound.parallel import gathered


class OfFactors(Metric, abstract=True):
    """A score of the codes of all images against the factors that are known of them.

    Factors that are constant in these images are left out. Of latents that take whole numbers, the likeliest.
    """

    costly: ClassVar[bool] = True

    def applies(self, world: World) -> bool:
        return isinstance(world.model, LatentModel)

    @abstractmethod
    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score: ...

    def __call__(self, world: World) -> dict[str, Value]:
        (name,), model = self.names, world.model
        assert isinstance(model, LatentModel)
        factors, kinds, out = known_factors(world.images, name)
        z = world.once("codes", lambda: codes(model, world.batches, world.advance))
        found = self.score(z, factors, kinds)
        table = {"columns": [f.name for f in kinds], "rows": found.matrix.tolist()}
        about: dict[str, Any] = {"remark": "; ".join(filter(None, [found.remark, out])), "table": table}
        parts = {f"{name}.{part}": e for part, e in found.parts.items()}
        parts = parts or {name: Estimate(found.value, found.low, found.high)}
        return {part: _value(part, estimate, len(world.images), about) for part, estimate in parts.items()}


def _value(name: str, estimate: Estimate, n: int, about: dict[str, Any]) -> Value:
    spread = estimate.high > estimate.low  # neither 0 nor unknown
    interval = (estimate.low, estimate.high) if spread else None
    error = (estimate.high - estimate.low) / 2 / 1.96 if spread else None
    unit = "factors/dim" if name.endswith(".size") else "of 1"
    return Value(estimate.value, error, unit, "=", n, 0, interval=interval, **about)


def codes(model: LatentModel, batches: Batches, advance: Advance = lambda n: None) -> Floats:
    """The posterior means of all images: [N, D]."""
    found = []
    for batch in own_batches(batches, model.rows):
        found.append(of_batch(model, batch).double().cpu().numpy())
        advance(len(batch.index))
    return np.concatenate(gathered(found))


@torch.no_grad()
def of_batch(model: LatentModel, batch: Batch) -> Tensor:
    """What `features` gives; of latents that take whole numbers, but those of codebooks, the likeliest: [B, D]."""
    if isinstance(model, CodeModel) or all(space.levels is None for space in model.latents):
        return model.features(batch.x, batch.y)
    return torch.cat([level.flatten(1) for level in model.centers(batch.x, batch.y)], 1)


def known_factors(images: Images, what: str) -> tuple[Floats, tuple[Factor, ...], str]:
    """The factors that vary among the images, [N, F], what they are, and which were left out.

    Raises DataError where none is known.
    """
    if images.factors is None or images.factor_names is None:
        raise DataError(
            f"{what}: {images.name} has no factors of variation; scenes and sprites have, and an .npz with the arrays "
            "factors and factor_names"
        )
    v = np.asarray(images.factors, np.float64)
    kinds = images.kinds or described(v, images.factor_names)
    kept = [k for k, factor in enumerate(kinds) if not is_constant(v[:, k], factor)]
    if not kept:
        raise DataError(f"{what}: no factor of {images.name} varies in its {images.split} part of {len(images)} images")
    out = [f"{factor.name} is constant and left out" for k, factor in enumerate(kinds) if k not in kept]
    return v[:, kept], tuple(kinds[k] for k in kept), "; ".join(out)


class Tells(NamedTuple):
    """The factor that a dimension tells most of, and which share that is of all that it tells of factors."""

    factor: str
    share: float


def tells(model: LatentModel, batches: Batches, what: str) -> list[Tells | None]:
    """Of each dimension of the codes; None: of one that tells no factor."""
    factors, kinds, _ = known_factors(batches.images, what)
    matrix = told(codes(model, batches), factors, kinds)
    return [
        Tells(kinds[row.argmax()].name, float(row.max() / row.sum())) if row.max() > SAID else None for row in matrix
    ]


class MIG(OfFactors):
    """mig: `disentangling.mig`."""

    names: ClassVar[tuple[str, ...]] = ("mig",)

    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score:
        return mig(z, v, kinds)


class Modularity(OfFactors):
    """modularity: `disentangling.modularity`."""

    names: ClassVar[tuple[str, ...]] = ("modularity",)

    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score:
        return modularity(z, v, kinds)


class DCI(OfFactors):
    """dci.disentanglement, dci.completeness, dci.informativeness, dci.explicitness, dci.size: `disentangling.dci`."""

    names: ClassVar[tuple[str, ...]] = ("dci",)
    suffixes: ClassVar[tuple[str, ...]] = (
        ".disentanglement",
        ".completeness",
        ".informativeness",
        ".explicitness",
        ".size",
    )

    splits: int = Field(default=SPLITS, ge=1)  # of the images into those that predictors are fitted to and others

    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score:
        return dci(z, v, kinds, splits=self.splits)


class SAP(OfFactors):
    """sap: `disentangling.sap`."""

    names: ClassVar[tuple[str, ...]] = ("sap",)

    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score:
        return sap(z, v, kinds)


class FactorVAEScore(OfFactors):
    """factor_vae: `disentangling.factor_vae`."""

    names: ClassVar[tuple[str, ...]] = ("factor_vae",)

    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score:
        return factor_vae(z, v, kinds)


class BetaVAEScore(OfFactors):
    """beta_vae: `disentangling.beta_vae`."""

    names: ClassVar[tuple[str, ...]] = ("beta_vae",)

    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score:
        return beta_vae(z, v, kinds)


class Explicitness(OfFactors):
    """explicitness: `disentangling.explicitness`."""

    names: ClassVar[tuple[str, ...]] = ("explicitness",)

    splits: int = Field(default=SPLITS, ge=1)  # of the images into those that predictors are fitted to and others

    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score:
        return explicitness(z, v, kinds, splits=self.splits)


class InfoMEC(OfFactors):
    """infomec.modularity, infomec.compactness, infomec.explicitness: `disentangling.infomec`."""

    names: ClassVar[tuple[str, ...]] = ("infomec",)
    suffixes: ClassVar[tuple[str, ...]] = (".modularity", ".compactness", ".explicitness")

    def score(self, z: Floats, v: Floats, kinds: Kinds) -> Score:
        return infomec(z, v, kinds)
