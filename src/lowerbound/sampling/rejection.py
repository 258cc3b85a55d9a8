"""Rejection sampling by a classifier: more images are drawn than are wanted, and those kept that it is surest of."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowerbound.errors import ModelError
from lowerbound.model import PLAIN, Classifying, Draw, Model
from lowerbound.progress import Progress
from lowerbound.runs.run import Run
from lowerbound.sampling.drawing import Samples, draw, pixels


@dataclass(frozen=True)
class Rejection:
    """What a classifier made of the images that were drawn: its probability of the class each was drawn for."""

    classifier: str
    accept: float
    kept: np.ndarray  # [n]
    rejected: np.ndarray  # [drawn - n]

    def report(self) -> dict[str, object]:
        """How many were drawn, and the mean probabilities; that of none is None."""
        return {
            "classifier": self.classifier,
            "accept": self.accept,
            "drawn": len(self.kept) + len(self.rejected),
            "kept": float(self.kept.mean()),
            "rejected": float(self.rejected.mean()) if len(self.rejected) else None,
        }

    def __str__(self) -> str:
        r = self.report()
        others = f", of the others {r['rejected']:.3f}" if len(self.rejected) else ""
        return f"{r['drawn']} drawn; mean probability of the class, of those kept {r['kept']:.3f}{others}"


@torch.no_grad()
def sample(
    model: Model, y: Tensor, judge: Classifying, accept: float, how: Draw = PLAIN, progress: Progress | None = None
) -> tuple[Samples, np.ndarray, np.ndarray]:
    r"""An image for each label of y [n]: of each class the share `accept` to which p(class | image) is highest.

    Of a class that y holds k times, ⌈k / accept⌉ are drawn. So images become more typical and less diverse, as in
    Razavi et al. (2019), VQ-VAE-2, section 3.4, https://arxiv.org/abs/1906.00446. Returns them, and the probabilities
    of those that were kept and of those that were not.
    """
    asked = proposals(y, accept)
    found = draw(model, len(asked), asked, how, progress)
    drawn, x = Samples.of(model, found, how=how), pixels(found.x)
    p = torch.cat([_of_class(judge, x, asked, part) for part in torch.arange(len(asked)).split(judge.rows)])
    chosen = best(p, asked, y).numpy()
    codes = {name: c[chosen] for name, c in drawn.codes.items()}
    kept = Samples(drawn.x[chosen], drawn.levels, y.numpy(), codes)
    return kept, p.numpy()[chosen], np.delete(p.numpy(), chosen)


def proposals(y: Tensor, accept: float) -> Tensor:
    """The labels y [n], and after them as many more of each class that these are the share `accept` of all.

    Example:
        >>> proposals(torch.tensor([2, 0, 2]), 0.5).tolist()
        [2, 0, 2, 0, 2, 2]
    """
    counts = y.bincount()
    more = torch.tensor([math.ceil(k / accept - 1e-9) - k for k in counts.tolist()])  # 7 / 0.7 is a little above 10
    return torch.cat([y, torch.arange(len(counts)).repeat_interleave(more)])


def best(p: Tensor, asked: Tensor, y: Tensor) -> Tensor:
    """For each label of y [n] the place of another image drawn for it: of each class those with the highest p.

    Example:
        >>> best(torch.tensor([0.2, 0.5, 0.9, 0.1]), torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0])).tolist()
        [2, 1]
    """
    chosen = torch.empty_like(y)
    for c in y.unique():
        own, wanted = (asked == c).nonzero().flatten(), y == c
        chosen[wanted] = own[p[own].topk(int(wanted.sum())).indices.sort().values]
    return chosen


def _of_class(judge: Classifying, x: np.ndarray, asked: Tensor, part: Tensor) -> Tensor:
    """The probability of the class asked for, of a part of the images: [P]."""
    p = judge.probabilities(torch.from_numpy(x[part.numpy()]).to(judge.device)).cpu()
    return p.gather(1, asked[part, None])[:, 0]


def open_judge(judge: Run, run: Run, accept: float, device: torch.device | str) -> Classifying:
    """The classifier of a run, for the images of another. Raises ModelError where it can't judge them."""
    if not 0 < accept <= 1:
        raise ModelError(f"--accept {accept:g}: expected a share above 0 and of at most 1")
    if not run.recipe.data.label:
        raise ModelError(
            f"--reject: {run.path} is not conditional, so its images have no class that they should be of; train it "
            "with data.label=true"
        )
    model = judge.load(device)
    if not isinstance(model, Classifying):
        raise ModelError(
            f"--reject {judge.path}: {type(model).__name__} gives no labels; expected a run of the recipe classifier, "
            "or of `lowerbound probe RUN --finetune --out CLASSIFIER`"
        )
    if model.space != run.facts.space:
        kinds = [f"{list(space.shape)} with {space.levels} levels" for space in (model.space, run.facts.space)]
        raise ModelError(f"--reject {judge.path}: it takes images of {kinds[0]}; {run.path} draws {kinds[1]}")
    if judge.facts.classes != run.facts.classes:
        raise ModelError(
            f"--reject {judge.path}: its classes are those of {judge.facts.name}, not of {run.facts.name}, which "
            f"{run.path} is conditioned on"
        )
    return model
