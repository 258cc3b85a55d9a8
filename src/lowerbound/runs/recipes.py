"""A recipe: a data set, a model and a training, in one file. Bundled ones are the TOML files of recipes/."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from lowerbound.config import Changes, Component, override, parse, problem_at, read
from lowerbound.data.base import Data
from lowerbound.devices import Precision
from lowerbound.errors import ConfigError, did_you_mean
from lowerbound.model import Model
from lowerbound.optimization import Adam, Averaging, Constant, Optimizer, Schedule, Skip

FOLDER = Path(__file__).parent.parent / "recipes"


class About(Component):
    """What `lowerbound recipes` shows: the model in words, the time it takes and where, the number it reached."""

    model: str = ""  # in words
    time: str = "not measured"  # that training takes, and where
    reached: str = "not measured"  # the number, with its error and conditions


class Training(Component):
    """How a model is trained. It ends after `steps` or `epochs`, whichever comes first."""

    steps: int | None = Field(default=None, gt=0)  # at most so many, of one batch each
    epochs: float | None = Field(default=None, gt=0)  # at most so many times every training image
    batch: int = Field(default=128, gt=0)  # images of a step
    optimizer: Optimizer = Adam()  # what makes a step of a gradient
    schedule: Schedule = Constant()  # of the learning rate, over the steps
    # of weights: the average is what is validated and kept; null: the last ones
    averaging: Averaging | None = Averaging()
    clip: float | None = Field(default=200.0, gt=0)  # the largest norm of the gradient, in nats per unit of weight
    skip: Skip | None = Skip()  # of steps whose gradients explode; null: none is left out
    precision: Precision = "float32"  # of networks, in training alone; see lowerbound.devices
    compile: bool = False  # networks by torch.compile, in training alone: fewer, larger kernels, after a minute or more
    graph: bool = False  # on a GPU, the whole step as one CUDA graph: several times faster where kernels are small
    shard: bool = False  # of several processes, each keeps a part of weights, averages, gradients and optimizer's state
    log_every: int = Field(default=100, gt=0)  # steps
    valid_every: int | None = Field(default=None, gt=0)  # steps; null: 20 times in a training
    valid_images: int = Field(default=5000, gt=0)  # at most so many of the validation split
    patience: int | None = Field(default=None, gt=0)  # stop after so many validations without a better one
    save_seconds: float = Field(default=60.0, gt=0)  # between saved states
    wait_seconds: float = Field(default=1800.0, gt=0)  # for a process that does not answer, where there are several
    tensorboard: bool = False  # also write its event files, into the run
    stages: dict[str, Any] = Field(
        default={}
    )  # what is other in later stages: {"prior": {"steps": 500, "top": {"batch": 16}}}

    @model_validator(mode="after")
    def _check_stages(self) -> "Training":
        for name in self.tables():
            try:
                self.of(name)
            except ConfigError as e:
                key, _, message = str(e).partition(": ")
                raise problem_at(f"stages.{name}.{key}", message) from None
        return self

    def tables(self) -> Iterator[str]:
        """The stages that have settings: `prior`, `prior.top`."""
        return _tables(self.stages)

    def of(self, stage: str) -> "Training":
        """The training of a stage: of `prior.top`, with what stages.prior changes, and then stages.prior.top."""
        table, own = self.stages, self.model_copy(update={"stages": {}})
        for part in stage.split("."):
            table = table.get(part)
            if not isinstance(table, dict):
                break
            own = override(own, {k: v for k, v in table.items() if k in Training.model_fields})
        return own

    def total_steps(self, images: int, batches: int = 1) -> int:
        """The number of steps for a training split of this many images, where a step takes so many batches."""
        if self.steps is None and self.epochs is None:
            raise ConfigError("train: set train.steps or train.epochs")
        limits = [] if self.steps is None else [self.steps]
        limits += [] if self.epochs is None else [round(self.epochs * images / (self.batch * batches))]
        return max(1, min(limits))


def _tables(stages: dict[str, Any], path: str = "") -> Iterator[str]:
    """The names of the stages that have a table. Raises ValidationError for what is neither a setting nor a table."""
    for name, value in stages.items():
        if path and name in Training.model_fields and name != "stages":
            continue
        if not isinstance(value, dict) or name == "stages":
            known = did_you_mean(name, Training.model_fields.keys() - {"stages"})
            raise problem_at(f"stages.{path}{name}", f"expected the table of a stage, or one of its settings{known}")
        yield path + name
        yield from _tables(value, f"{path}{name}.")


class Recipe(Component):
    """The whole configuration of a run."""

    about: About = About()  # what `lowerbound recipes` shows
    seed: int = Field(default=0, ge=0)  # of the weights, the batches and the noise of training
    data: Data = Data()  # the data set, and how its images are prepared
    model: Model.Config  # by its type and its keys
    train: Training = Training()  # how it is trained


def names() -> list[str]:
    """The bundled recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(recipe: str | Path, changes: Changes = ()) -> Recipe:
    """A recipe by its bundled name or its TOML or JSON file, with changes. Raises ConfigError."""
    path = FOLDER / f"{recipe}.toml"
    if str(recipe) not in names():
        path = Path(recipe)
        if path.suffix not in (".toml", ".json") or not path.is_file():
            near = did_you_mean(str(recipe), names(), "lowerbound recipes")
            raise ConfigError(f"no recipe {str(recipe)!r}{near}")
    values = read(path)
    if {"format", "config"} <= values.keys():
        again = f"lowerbound train {values.get('recipe', 'RECIPE')} --out {path.parent} --resume"
        raise ConfigError(f"{path} is what a run remembers, no recipe; `{again}` goes on with it")
    return override(parse(Recipe, values), changes)
