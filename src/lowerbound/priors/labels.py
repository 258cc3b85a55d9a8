"""A density of its own for each label."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Draw, Drawn, ExactModel, Model, Told, told_nobody
from lowerbound.parallel import all_rows, own_rows
from lowerbound.priors.normals import Gaussian
from lowerbound.space import Space, Y, conditions
from lowerbound.stages import Pair, Stage, Turn


class LabelError(ModelError):
    """What a density can't be fitted to of one label: `label`, which has a name elsewhere, and `why`."""

    page = "model#label"

    def __init__(self, label: int, why: str):
        super().__init__(f"label {label}: {why}")
        self.label, self.why = label, why


class PerLabel(ExactModel):
    r"""A density of one kind for each label, :math:`p(z|y) = p_y(z)`, which share nothing.

    `each` is what a density knows by itself, such as a normal or a mixture: what is fitted in closed form is fitted to
    the events of each label alone. Those that take a condition learn from all labels together, and need less of each.
    """

    class Config(Model.Config):
        each: Model.Config = Gaussian.Config()  # the prior of every label

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "PerLabel":
            return PerLabel(self, space, given)

        @classmethod
        def example(cls) -> tuple["PerLabel.Config", Space, tuple[Space, ...]]:
            return cls(), Space((2,)), (Space((), levels=3, ordered=False),)

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        if len(given) != 1 or given[0].levels is None or given[0].shape:
            raise ConfigError(
                f"{config.type_name()} is a density for each label, and takes one label as its condition; set "
                f"data.label=true, or use {config.each.type_name()} itself"
            )
        self.parts = nn.ModuleList(config.each.build(space) for _ in range(given[0].levels))
        if not all(isinstance(part, ExactModel) for part in self.parts):
            raise ConfigError(f"model.prior.each: {config.each.type_name()} has no density of its own to be exact")

    def stages(self) -> tuple[Stage, ...]:
        closed = all(self._stage(c).fit for c in range(len(self.parts)))
        return (Stage("model", (Turn((self,), self._loss),), fit=self.fit if closed else None),)

    def fit(self, pairs: Iterable[Pair], told: Told = told_nobody) -> None:
        """Fit the density of each label to all events of it.

        Raises LabelError where there are none, or too few.
        """
        kept = [(x, *conditions(y, self.given)) for x, y in pairs]
        for c in range(len(self.parts)):
            own = [x[y == c] for x, y in kept if bool((y == c).any())]
            if not own:
                raise LabelError(c, "there is nothing of it to fit a density to")
            fit = self._stage(c).fit
            assert fit is not None
            try:
                fit((x, None) for x in own)
            except ModelError as e:
                raise LabelError(c, str(e)) from None

    @property
    def cost(self) -> int:
        return max(part.cost for part in self._all())

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        (label,) = conditions(y, self.given)
        every = torch.stack([part._log_prob(x) for part in self._all()])  # [C, B]: to pick events out is to wait
        return every.gather(0, label[None])[0]

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        label = all_rows(*conditions(y, self.given))
        places = [(label == c).nonzero().flatten() for c in range(len(self.parts))]
        with noise.of_rows(None):  # how many of a label a process has is for nobody else to know
            of = [part._draw(len(p), None, how, told).x for part, p in zip(self._all(), places, strict=True) if len(p)]
        rows = own_rows(len(label))
        return Drawn(torch.cat(of)[torch.cat(places).argsort()][rows.start : rows.stop])

    def _all(self) -> tuple[ExactModel, ...]:
        return tuple(part for part in self.parts if isinstance(part, ExactModel))

    def _stage(self, c: int) -> Stage:
        (stage,) = self._all()[c].stages()
        return stage
