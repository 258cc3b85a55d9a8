"""Whether clusters that were found without labels are the labels."""

from typing import ClassVar

import numpy as np

from lowerbound.chunks import own_batches
from lowerbound.errors import ModelError
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.parallel import gathered


class Clusters(Metric):
    """hungarian_accuracy: the share of images whose label is the one their cluster is given, each label to one cluster
    at most and so that the share is the largest (Kuhn 1955; the "clustering accuracy" of Xie et al. 2016, DEC,
    https://arxiv.org/abs/1511.06335, eq. 10). The assignment is made of the very labels that it is measured on: it is
    an upper end of what a name for each cluster would reach, by next to nothing where images are many.

    nmi: the mutual information of cluster and label over the arithmetic mean of their entropies, in [0, 1].
    """

    names: ClassVar[tuple[str, ...]] = ("hungarian_accuracy", "nmi")

    def applies(self, world: World) -> bool:
        return world.model.predicts == "cluster" and world.images.y is not None and world.images.classes is not None

    def __call__(self, world: World) -> dict[str, Value]:
        from sklearn.metrics import normalized_mutual_info_score  # a slow import, and every metric is looked at

        labels, classes = world.images.y, world.images.classes
        assert labels is not None
        assert classes is not None
        found = []
        for batch in own_batches(world.batches, world.model.rows):
            found.append(world.model._predicted(batch.x).argmax(1).cpu().numpy())
            world.advance(len(batch.index))
        clusters = np.concatenate(gathered(found))
        labels = np.asarray(labels)[: len(clusters)]
        right = assigned(clusters, len(classes), labels)[clusters] == labels
        nmi = float(normalized_mutual_info_score(labels, clusters))
        return {
            "hungarian_accuracy": Value.share(right.astype(np.float64), "of images"),
            "nmi": Value(nmi, None, "of 1", "=", len(labels), 0),
        }


def assigned(clusters: np.ndarray, classes: int, labels: np.ndarray) -> np.ndarray:
    """The label of every cluster, -1 where it is given none, so that most images [N] have their own: int64 [K].

    Example:
        >>> assigned(np.array([2, 2, 0, 0, 1]), 2, np.array([0, 0, 1, 1, 1])).tolist()
        [1, -1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    if not len(clusters):
        raise ModelError("there are no images to tell clusters of")
    counts = np.zeros((int(clusters.max()) + 1, classes), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    names = np.full(len(counts), -1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    names[rows] = columns
    return names
