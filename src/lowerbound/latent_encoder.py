"""`LatentEncoder`: the encoder of a latent-variable model as a scikit-learn transformer."""

import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from lowerbound.data import interpret
from lowerbound.data.base import Images
from lowerbound.data.batches import Batches
from lowerbound.devices import pick_device
from lowerbound.errors import ConfigError, ModelError
from lowerbound.families import SharedScaleNormal
from lowerbound.model import LatentModel
from lowerbound.networks.base import Network
from lowerbound.networks.mlp import MLP
from lowerbound.noise import key, seeded
from lowerbound.progress import Progress
from lowerbound.runs import recipes
from lowerbound.runs.facts import Facts
from lowerbound.runs.recipes import Recipe
from lowerbound.runs.run import Run
from lowerbound.space import Space
from lowerbound.training.loop import Loop


class Table(NamedTuple):
    """Rows of real numbers, their columns standardized."""

    mean: np.ndarray  # [D]
    scale: np.ndarray  # [D]

    @staticmethod
    def of(X: np.ndarray) -> "Table":
        mean, scale = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
        return Table(mean, np.where(scale > 1e-12 * np.abs(mean), scale, 1.0))

    @property
    def space(self) -> Space:
        return Space(self.mean.shape)

    def events(self, X: np.ndarray) -> np.ndarray:
        """Float64 [N, D]."""
        return (X - self.mean) / self.scale

    def values(self, x: np.ndarray) -> np.ndarray:
        """Events in the table's own units."""
        return x * self.scale + self.mean


class Pictures(NamedTuple):
    """Images of one shape, [H, W], [H, W, C] or [C, H, W]."""

    shape: tuple[int, ...]
    levels: int
    channels_first: bool = False

    @staticmethod
    def of(X: np.ndarray, levels: int) -> "Pictures":
        """Warns of images that are taken as [C, H, W]. Raises DataError where that is not clear."""
        first = X.ndim == 4 and interpret.channels_first(X.shape, "X")
        if first:
            said = f"X is {list(X.shape)}: taken as images with their channels first, [N, C, H, W]"
            warnings.warn(said, DataConversionWarning, stacklevel=3)
        return Pictures(X.shape[1:], levels, first)

    @property
    def space(self) -> Space:
        if self.channels_first:
            return Space(self.shape, self.levels)
        height, width, *channels = self.shape
        return Space((*(channels or (1,)), height, width), self.levels)

    def events(self, X: np.ndarray) -> np.ndarray:
        """uint8 [N, C, H, W]. Raises ValueError for other images than these."""
        if X.dtype != np.uint8:
            raise ValueError(f"images must be uint8 with values below {self.levels}, got {X.dtype}")
        if X.shape[1:] != self.shape:
            raise ValueError(f"images have shape {list(X.shape[1:])}, expected {list(self.shape)}")
        if int(X.max(initial=0)) >= self.levels:
            raise ValueError(f"a pixel has the value {int(X.max())}, but levels is {self.levels}")
        x = X[:, None] if X.ndim == 3 else X if self.channels_first else X.transpose(0, 3, 1, 2)
        return np.array(x, order="C")

    def values(self, x: np.ndarray) -> np.ndarray:
        """uint8 images, from means [N, C, H, W]."""
        x = np.rint(x).clip(0, self.levels - 1).astype(np.uint8)
        return x[:, 0] if len(self.shape) == 2 else x if self.channels_first else x.transpose(0, 2, 3, 1)


class LatentEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features without labels: posterior means of a model that is trained on the arrays it is fitted to.

    Images are uint8 [N, H, W] or [N, H, W, C], modelled as the recipe says, but that grey values are not binarized: a
    row's code depends on the row alone. Where the last axis can't be the channels and the second can, they are taken
    as [N, C, H, W], with a warning. A table is [N, D] of real numbers; its columns are standardized, and modelled
    by Gaussians whose one standard deviation is learned, as real-valued events.

    Args:
        recipe: a bundled name, or a TOML or JSON file; its data are not read. For tables its networks must be
            `networks.mlp.MLP`.
        latent: dimensions of the code; None: the recipe's.
        train: changes to the recipe's table of that name, such as {"steps": 500}.
        model: changes to the recipe's table of that name.
        levels: values a pixel takes, 2 to 256.
        random_state: seed of weights, order and noise, and of the tenth of the rows that is held out to choose the best
            weights by.
        device: auto, cpu, cuda or cuda:N.

    Attributes:
        model_: the trained model, an nn.Module in eval mode (float64 for tables).
        input_: what it was fitted to: the mean and scale of a table's columns, or the shape and levels of images.

    Nothing is left on disk.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(100, 5))
        >>> encoder = LatentEncoder(latent=2, train={"steps": 10}, random_state=0).fit(x)
        >>> z = encoder.transform(x)
        >>> z.shape, encoder.inverse_transform(z).shape
        ((100, 2), (100, 5))
    """

    def __init__(
        self,
        recipe: str | Path = "vae",
        *,
        latent: int | None = None,
        train: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
        levels: int = 256,
        random_state: Any = None,
        device: str = "auto",
    ):
        self.recipe = recipe
        self.latent = latent
        self.train = train
        self.model = model
        self.levels = levels
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on the rows of X. y is not looked at."""
        if is_images(X):
            X = np.asarray(X)
            self.input_ = Pictures.of(X, self.levels)
            if len(X) < 2:
                raise ValueError(f"Found array with {len(X)} sample(s) while a minimum of 2 is required")
        else:
            X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
            self.input_ = Table.of(X)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.model_ = self._trained(self.input_.events(X), self._recipe(seed), pick_device(self.device))
        with torch.no_grad():
            self._codes = [q.event_shape for q in self.model_.posteriors(self._tensor(self.input_.events(X[:1])))]
        self._n_features_out = sum(shape.numel() for shape in self._codes)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means: [N, L]; float32 for images, of the type of X for tables of floats."""
        check_is_fitted(self, "model_")
        if isinstance(self.input_, Table):
            X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        x, dtype = self.input_.events(np.asarray(X)), np.float32 if isinstance(self.input_, Pictures) else X.dtype
        return self._blocks(x, self.model_.features).astype(dtype, copy=False)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """The mean of p(x|z) for codes [N, L]: a table [N, D] in its own units, or uint8 images as they were given."""
        check_is_fitted(self, "model_")
        Z = check_array(Z, dtype=[np.float64, np.float32])  # pyright: ignore[reportArgumentType]
        if Z.shape[1] != self._n_features_out:
            raise ValueError(f"codes have {Z.shape[1]} columns, but this LatentEncoder gives {self._n_features_out}")
        x = self.input_.values(self._blocks(Z, self._mean))
        return x.astype(Z.dtype, copy=False) if isinstance(self.input_, Table) else x

    def _mean(self, z: Tensor) -> Tensor:
        """The mean of p(x|z) for codes [B, L], which are cut into levels."""
        levels = z.split([shape.numel() for shape in self._codes], 1)
        return self.model_.likelihood(tuple(z.unflatten(1, s) for z, s in zip(levels, self._codes, strict=True))).mean

    @torch.no_grad()
    def _blocks(self, x: np.ndarray, work: Any) -> np.ndarray:
        return np.concatenate([work(part).cpu().numpy() for part in self._tensor(x).split(self.model_.rows)])

    def _tensor(self, x: np.ndarray) -> Tensor:
        parameter = next(self.model_.parameters())
        return torch.from_numpy(x).to(parameter.device, parameter.dtype if x.dtype.kind == "f" else None)

    # ---- the training

    def _recipe(self, seed: int) -> Recipe:
        """The recipe with the changes. Raises ConfigError for one that can't be trained on these arrays."""
        model = dict(self.model or {}) | ({} if self.latent is None else {"latent": self.latent})
        found = recipes.load(self.recipe, {"model": model, "train": dict(self.train or {}), "seed": seed})
        if found.data.label:
            raise ConfigError(f"recipe {self.recipe}: its model is given labels, which a transformer has none of")
        if isinstance(self.input_, Pictures):
            return recipes.override(found, {"data": {"binarize": False}})
        for name, part in found.model:
            if isinstance(part, Network.Config) and not isinstance(part, MLP.Config):
                raise ConfigError(f"model.{name}: a table takes networks.mlp.MLP, got {part.type_name()}")
        if "likelihood" in model or "likelihood" not in type(found.model).model_fields:
            return found
        return recipes.override(found, {"model": {"likelihood": SharedScaleNormal()}})

    def _trained(self, x: np.ndarray, recipe: Recipe, device: torch.device) -> LatentModel:
        """The model with its best weights, in eval mode; its run is gone."""
        space = self.input_.space
        shape = space.shape if len(space.shape) == 3 else (1, 1, *space.shape)
        facts = Facts(name="array", shape=shape, levels=space.levels or 256, images=len(x))  # pyright: ignore
        with seeded(recipe.seed, "weights"):
            model = recipe.model.build(space).to(device)
        if not isinstance(model, LatentModel):
            raise ModelError(f"recipe {self.recipe}: {model.why_no_code()}")
        with tempfile.TemporaryDirectory() as folder:
            run = Run.create(Path(folder), "array", recipe, facts)
            parts = tuple(self._batches(x, recipe, device))
            for stage in model.stages():
                Loop(run, model, stage, parts, Progress(), threading.Event()).run_through()  # pyright: ignore
        # float64 for tables: a row has the same code alone and among others
        return (model.double() if isinstance(self.input_, Table) else model).eval()

    def _batches(self, x: np.ndarray, recipe: Recipe, device: torch.device) -> Iterator[Batches]:
        """What is trained on, and the tenth that is held out."""
        order = np.random.default_rng(key(recipe.seed, "held out")).permutation(len(x))
        held = max(1, len(x) // 10)
        flip = recipe.data.flip and isinstance(self.input_, Pictures)
        for split, rows in (("train", order[held:]), ("valid", order[:held])):
            part = x[np.sort(rows)]
            part = part.astype(np.float32) if part.dtype.kind == "f" else part
            yield Batches(Images("array", split, part, self.levels), device, flip=flip and split == "train")


def is_images(X: Any) -> bool:
    return getattr(X, "ndim", 2) in (3, 4)
