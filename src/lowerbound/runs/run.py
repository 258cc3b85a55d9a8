"""The run folder: the only file that knows its layout.

config.json           the whole configuration and what was found of the data; rebuilds the model
model.safetensors     the weights every verb uses
given.safetensors     the attributes of the training images, where the model is given some
log.jsonl             one line per logged step
state/                what resuming needs: one file for each stage, replaced atomically, and as NAME.before.safetensors
                      the one it took the place of, with folders NAME.parts-… of what processes shared out; what images
                      were turned into for later stages (prepared-train/, prepared-valid/); failed.json, what a training
                      ended by
lock.json             who is writing into the run, while somebody is
directions/           one file for each named direction of the latent vector: its step, and how it was learnt
evaluation/           reports, and codes.safetensors: what editing needs to know of the codes of the valid images
pictures/
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lowerbound.config import allowing, dump, parse
from lowerbound.data.attributes import decoded, encoded, said_of
from lowerbound.devices import out_of_memory, pick_device
from lowerbound.directions import Direction, check_name
from lowerbound.errors import RunError, UserError, did_you_mean
from lowerbound.files import UNFINISHED, replacing
from lowerbound.model import Invertible, LatentModel, Model
from lowerbound.noise import key, never_quick, seeded
from lowerbound.parallel import World
from lowerbound.progress import Progress
from lowerbound.runs import lock, parts, places, states
from lowerbound.runs.conditions import NOTHING, Asked, Candidates
from lowerbound.runs.facts import Facts
from lowerbound.runs.log import Log
from lowerbound.runs.recipes import Recipe
from lowerbound.runs.states import load_tensors, save_tensors

FORMAT = 1  # of config.json; a run of a higher one was made by a newer version


class Run:
    """A folder that holds one training and all that came of it."""

    def __init__(self, path: Path, name: str, recipe: Recipe, facts: Facts, place: str = ""):
        self.path = path
        self.place = place or str(path)  # as it was asked for: pretrained:NAME, hf://USER/NAME, or the folder
        self.name = name
        self.recipe = recipe
        self.facts = facts

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @staticmethod
    def create(path: Path, name: str, recipe: Recipe, facts: Facts) -> "Run":
        """Begin a run in an empty or new folder."""
        run = Run(path, name, recipe, facts)
        _make_folder(path)
        run.save_config()
        return run

    def save_config(self) -> None:
        values = {"version": version("lowerbound"), "format": FORMAT, "recipe": self.name}
        self.write_json("config.json", values | {"data": dump(self.facts), "config": dump(self.recipe)})

    @staticmethod
    def open(path: str | Path, allow: Iterable[str] = (), progress: Progress | None = None) -> "Run":
        """An existing run: its folder, `pretrained:NAME`, or `hf://USER/NAME`. Raises RunError for what isn't one."""
        said, path = places.said(path), places.found(path, progress)
        if not (path / "config.json").is_file():
            near = did_you_mean(said, [str(p.parent) for p in path.parent.glob("*/config.json")])
            what = "is not a run: it has no config.json" if path.is_dir() else "no such run"
            if path.is_dir() and (inside := sorted(str(p.parent) for p in path.glob("*/config.json"))):
                near = f"; in it are {', '.join(inside)}"
            raise RunError(f"{said}: {what}{near}")
        try:
            values = json.loads((path / "config.json").read_text(encoding="utf-8"))
            made_by, form, name = values["version"], values["format"], values["recipe"]
            config, data = values["config"], values["data"]
            newer = form > FORMAT
        except OSError as e:
            raise RunError(f"{said}/config.json can't be read: {e.strerror}") from None
        except (ValueError, KeyError, TypeError) as e:
            reason = f"it has no {e}" if isinstance(e, KeyError) else str(e)
            raise RunError(f"{said}/config.json is damaged, or no run's: {reason}") from None
        if newer:
            raise RunError(f"{said} was made by lowerbound {made_by}, newer than this one ({version('lowerbound')})")
        if allow:
            never_quick()
        with allowing(allow) if allow else nullcontext():
            recipe = parse(Recipe, config, f"{said}/config.json: config")
        return Run(path, name, recipe, parse(Facts, data, f"{said}/config.json: data"), said)

    def again(self) -> "Run":
        """The run as its folder has it by now. Raises RunError where it has none."""
        run = Run.open(self.path)
        run.place = self.place
        return run

    @property
    def title(self) -> str:
        """What it is called for short: its folder's name, or what it is asked for by elsewhere."""
        return self.place if places.elsewhere(self.place) else self.path.resolve().name

    # ---- the model and its weights

    def build(self) -> Model:
        """The model with new weights, keyed by the run's seed."""
        with seeded(self.recipe.seed, "weights"):
            return self.recipe.model.build(self.facts.space, self.facts.given(self.recipe))

    def load(self, device: str | torch.device = "cpu") -> Model:
        """The trained model, in eval mode, with the run's directions.

        Raises RunError before there are weights, or where the device has no room for them.
        """
        try:
            model = self.build()
            self.load_weights(model)
            if isinstance(model, LatentModel | Invertible):
                model.directions = self.directions(model, strict=False)
            return model.to(device).eval()
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            raise RunError(f"{self.path}: the memory of {device} is not enough for its model") from e

    def load_weights(self, model: nn.Module) -> None:
        """Put the trained weights into a model. Raises RunError where there are none, or not of this model."""
        path = self.path / "model.safetensors"
        if not path.is_file():
            raise RunError(f"{self.path} has no weights yet: train it on with `lowerbound train … --resume`")
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, OSError) as e:
            raise RunError(f"{path} is damaged: {e}") from None
        except RuntimeError as e:
            reason = " ".join(str(e).split()[:40])
            raise RunError(f"{path} does not fit the model of config.json: {reason}") from None

    # ---- what the model is given

    def condition(self, n: int, asked: Asked = NOTHING, seed: int = 0) -> Tensor | None:
        """What the model is given of n images: labels [n], or attributes as networks see them [n, D].

        As asked for, and whatever isn't as it is in training: labels by their frequencies, attributes as training
        images have them together. None for a model that is not conditional. Raises UserError for what it isn't given,
        and where the model is given views of a scene.
        """
        self.check_asked(asked)
        if self.recipe.model.views_given():
            raise RunError(
                f"{self.path} is of views of scenes, and given others with their cameras, which this does not do; "
                f"`lowerbound sample {self.path}` draws them, and `lowerbound evaluate {self.path}` measures them"
            )
        if self.facts.factors:
            return encoded(self.attributes(n, asked, seed), self.facts.factors)
        if not self.recipe.data.label or self.facts.classes is None or self.facts.counts is None:
            return None
        if asked.label is not None:
            return torch.full((n,), _class_number(str(asked.label), self.facts.classes))
        counts = torch.tensor(self.facts.counts, dtype=torch.float64)
        generator = torch.Generator().manual_seed(key(seed, "labels"))
        return torch.multinomial(counts, n, replacement=True, generator=generator)

    def check_asked(self, asked: Asked) -> None:
        """Raise RunError for a label or attributes of a model that is given none."""
        factors = self.facts.factors
        if asked.label is not None and not self.recipe.data.label:
            more = "is not conditional; train it with data.label=true"
            if factors:
                more = f"is given attributes: --attribute {factors[0].name}={factors[0].said(factors[0].low)}"
            if self.recipe.model.views_given():
                more = "is given views of a scene, and knows no label"
            raise RunError(f"--label {asked.label}: {self.path} {more}")
        if asked.attributes and not factors:
            name = next(iter(asked.attributes))
            raise RunError(f"--attribute {name}: {self.path} is given no attributes; train it with data.given={name}")

    def attributes(self, n: int, asked: Asked = NOTHING, seed: int = 0) -> np.ndarray:
        """Values of what the model is given, float64 [n, F]: as asked for, the others those of images of training."""
        rows = self._rows(seed)
        return asked.over(rows[np.resize(np.arange(len(rows)), n)], self.facts.factors)

    def candidates(self, asked: Asked = NOTHING, seed: int = 0, most: int = 64) -> Candidates:
        """Conditions that images may have, where some are not said: all labels, or the attributes of some images."""
        facts = self.facts
        if not facts.factors:
            names, counts = facts.classes or (), facts.counts or ()
            return Candidates(torch.arange(len(counts)), counts, names)
        values = self.attributes(min(most, len(self._rows(seed))), asked, seed)
        values = np.unique(values, axis=0)
        names = tuple(said_of(row, facts.factors) for row in values)
        return Candidates(encoded(values, facts.factors), [1] * len(values), names)

    def typical(self, asked: Asked = NOTHING) -> Tensor | None:
        """One condition, [1] or [1, D]: as asked for, and what isn't said the most frequent label, or the attributes
        of the training image that is nearest to the mean."""
        if self.facts.factors:
            seen = encoded(self._rows(0), self.facts.factors)
            nearest = int((seen - seen.mean(0)).square().sum(1).argmin())
            return encoded(asked.over(self._rows(0)[[nearest]], self.facts.factors), self.facts.factors)
        counts = self.facts.counts
        if self.recipe.data.label and counts and asked.label is None:
            asked = Asked(int(np.argmax(counts)))
        return self.condition(1, asked)

    def completed(self, seen: Tensor, asked: Asked) -> Tensor:
        """Attributes as networks see them, [B, D], made such as values can be, with those asked for in their place."""
        return encoded(asked.over(decoded(seen, self.facts.factors), self.facts.factors), self.facts.factors)

    def said(self, y: Tensor) -> list[str]:
        """Conditions [B, ...] as a person reads them."""
        factors = self.facts.factors
        if not factors:
            classes = self.facts.classes or ()
            return [str(classes[k]) for k in y.tolist()]
        return [said_of(row, factors) for row in decoded(y, factors)]

    def _rows(self, seed: int) -> np.ndarray:
        """What training images have of the factors that the model is given, in an order by the seed: float64 [N, F]."""
        path = self.path / "given.safetensors"
        try:
            rows = load_file(path)["values"].double().numpy()
        except (SafetensorError, OSError, KeyError) as e:
            raise RunError(f"{path} can't be read: {e}; it holds the attributes of the training images") from None
        return rows[np.random.default_rng(key(seed, "attributes")).permutation(len(rows))]

    def save_given(self, values: np.ndarray) -> None:
        """Keep what the training images have of the factors that the model is given: [N, F]."""
        save_tensors(self.path / "given.safetensors", {"values": torch.from_numpy(values)}, {})

    # ---- weights

    def save_model(self, model: nn.Module) -> None:
        self.save_weights(model.state_dict())

    def save_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Those of the whole model, by their names in it."""
        save_tensors(self.path / "model.safetensors", weights, {})

    # ---- the state that resuming needs

    def _state(self, stage: str) -> Path:
        return self.path / "state" / f"{stage}.safetensors"

    def save_state(self, stage: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        states.save_state(self._state(stage), tensors, values)

    def has_state(self) -> bool:
        return any(map(states.is_last, self._state("*").parent.glob("*.safetensors")))

    def tidy(self) -> None:
        """Remove the files that a killed process was writing."""
        for entry in (*self.path.glob(".*"), *self.path.glob("*/.*")):
            if UNFINISHED.fullmatch(entry.name) and entry.is_file():
                entry.unlink(missing_ok=True)
            elif UNFINISHED.fullmatch(entry.name) and entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)

    def forget_state(self, stage: str) -> None:
        """Remove a stage's state, so that it begins anew."""
        for path in (self._state(stage), states.before(self._state(stage))):
            path.unlink(missing_ok=True)
        parts.tidy(self._state(stage), ())

    def prepared(self, split: str) -> Path:
        """The folder for what the images of a split are turned into for later stages."""
        return self.path / "state" / f"prepared-{split}"

    def save_parts(self, stage: str, tensors: Mapping[str, Tensor], world: World) -> dict[str, Any]:
        """Write what processes share out of a state, before it is saved: its `values["parts"]`. All call it."""
        return parts.write(self._state(stage), tensors, world)

    def load_parts(self, stage: str, values: Mapping[str, Any], cut: parts.Cut) -> dict[str, Tensor]:
        """What this process has of a state's parts, as `cut` says. All call it."""
        return parts.read(self._state(stage), values["parts"], cut)

    def load_state(self, stage: str, said: states.Said | None = None, *, whole: bool = True) -> states.Loaded | None:
        """The tensors and values of the last state; None before the first.

        whole: with those that processes share out, which are for `load_parts` else.
        said: told where the last is damaged, and the one before it is what is given. Raises RunError where it is, and
        nobody is told, or that one is damaged too.
        """
        return states.load_state(self._state(stage), said, whole=whole)

    def states(self) -> dict[str, dict[str, Any]]:
        """The values of the last state of every stage, without its tensors: {} where there are none to be read."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(filter(states.is_last, self._state("*").parent.glob("*.safetensors"))):
            with suppress(*states.DAMAGE), safe_open(path, "pt") as file:
                found[path.stem] = json.loads(file.metadata()["values"])
        return found

    @property
    def failure(self) -> str | None:
        """What the last training ended by, where that was an error; None where there is nothing of it to be read."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(self._failed.read_text(encoding="utf-8"))["error"])
        return None

    @failure.setter
    def failure(self, text: str | None) -> None:
        if text is None:
            self._failed.unlink(missing_ok=True)
        else:
            self.write_json(f"{self._failed.relative_to(self.path)}", {"error": text})

    @property
    def _failed(self) -> Path:
        return self.path / "state" / "failed.json"

    # ---- directions, and what editing needs to know of the codes

    def directions(self, model: nn.Module, *, strict: bool = True) -> dict[str, Direction]:
        """The named directions, each told whether it was learnt for the weights of this model.

        Raises RunError for a file that is damaged; with `strict` false it is passed over.
        """
        found: dict[str, Direction] = {}
        paths = sorted((self.path / "directions").glob("[!.]*.safetensors"))
        code = weights_code(model, prior=False) if paths else ""
        for path in paths:
            try:
                tensors, values = load_tensors(path)
                fresh = values["weights"] == code
                found[path.stem] = Direction(path.stem, tensors["step"], values["report"], fresh)
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
                if strict:
                    raise RunError(f"{path} is damaged ({e}); remove it, and learn the direction again") from None
        return found

    def save_direction(self, direction: Direction, model: nn.Module) -> None:
        """Store a direction of this model under its name, in place of an earlier one."""
        check_name(direction.name)
        values = {"weights": weights_code(model, prior=False), "report": direction.report}
        save_tensors(
            self.path / "directions" / f"{direction.name}.safetensors",
            {"step": direction.step},
            {"values": json.dumps(values, allow_nan=False)},
        )

    def save_codes(self, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
        """Keep what was measured of the codes of the valid images, so that editing needs the data no more."""
        values = {"weights": weights_code(model)}
        save_tensors(self.path / "evaluation" / "codes.safetensors", tensors, {"values": json.dumps(values)})

    def load_codes(self, model: nn.Module) -> dict[str, Tensor] | None:
        """What was kept of the codes; None where nothing was, or the model has other weights since."""
        try:
            tensors, values = load_tensors(self.path / "evaluation" / "codes.safetensors")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None
        return tensors if values.get("weights") == weights_code(model) else None

    # ---- the log, pictures and evaluations

    @property
    def log(self) -> Log:
        return Log(self.path / "log.jsonl")

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def picture(self, name: str) -> Path:
        return self.path / "pictures" / name

    def write_json(self, name: str, values: Any) -> Path:
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return self.path / name

    def forget_prior(self) -> None:
        """Remove what was measured and drawn with a prior that is about to go."""
        drawn = [self.picture(name) for name in ("samples.png", "samples_mean.png", "manifold.png")]
        for entry in (*self.path.glob("evaluation/*.json"), *self.path.glob("evaluation/*.npz"), *drawn):
            entry.unlink(missing_ok=True)

    def is_finished(self) -> bool:
        """Whether every stage that was begun has come to its end."""
        states = self.states().values()
        return bool(states) and all(state["finished"] for state in states)

    def save_evaluation(self, report: dict[str, Any], per_image: Mapping[str, np.ndarray]) -> None:
        """A report under its split's name; that on other data than the run's own has the data's name before it."""
        name = self._evaluation(report["data"]["name"], report["data"]["split"])
        self.write_json(f"{name}.json", report)
        with replacing(self.path / f"{name}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **dict(per_image))  # pyright: ignore[reportArgumentType]

    def load_evaluation(self, data: str, split: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The saved report on a split of the data of this name, and its per-image values, [n] each.

        Raises RunError, which says in a few words why there are none: not there, older than the weights, damaged.
        """
        name = self._evaluation(data, split)
        files = [self.path / f"{name}{suffix}" for suffix in (".json", ".npz")]
        if not all(file.is_file() for file in files):
            raise RunError(f"there is no {name}.json with its .npz")
        weights = (self.path / "model.safetensors").stat().st_mtime_ns
        if any(file.stat().st_mtime_ns < weights for file in files):
            raise RunError(f"{name}.json is older than the weights")
        try:
            with np.load(files[1]) as arrays:
                return json.loads(files[0].read_text(encoding="utf-8")), {k: arrays[k] for k in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            raise RunError(f"{name}.json or its .npz is damaged") from None

    def _evaluation(self, data: str, split: str) -> str:
        return f"evaluation/{split if data == self.facts.name else f'{data}-{split}'}"


def load(path: str | Path, *, device: str = "auto", allow: Iterable[str] = ()) -> Model:
    """The trained model of a run, an nn.Module in eval mode. Nothing in a run is ever executed.

    path: a run's folder, `pretrained:NAME`, one of the package's own, or `hf://USER/NAME`, one of a hub.
    `allow`: packages besides lowerbound that its components may come from. Raises RunError.
    """
    return Run.open(path, allow).load(pick_device(device))


def _class_number(name: str, classes: tuple[str, ...]) -> int:
    if name in classes:
        return classes.index(name)
    if name.isdigit() and int(name) < len(classes):
        return int(name)
    raise RunError(f"--label {name}: no such class{did_you_mean(name, classes)}")


def clear(path: Path) -> None:
    """Remove an earlier run, and nothing else that lies there. Raises RunError for a folder that is no run."""
    if not occupied(path):
        return
    try:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
        is_run = isinstance(values, dict) and {"format", "recipe", "config"} <= values.keys()
    except (OSError, ValueError):
        is_run = False
    if not is_run:
        raise RunError(
            f"{path} is not a run (no config.json of one), so --overwrite does not touch it; choose another --out"
        )
    for name in _LAYOUT:
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


_LAYOUT = (  # the configuration last: until it goes, the rest is a run
    *("model.safetensors", "log.jsonl", "state", "directions", "pictures", "evaluation", "tensorboard"),
    "config.json",
)


def occupied(path: Path) -> bool:
    """Whether something is at the path already. Raises RunError when that is a file, or a run of another place."""
    if places.elsewhere(path):
        raise RunError(f"--out {places.said(path)}: is no folder; expected one, as in --out runs/mine")
    if path.exists() and not path.is_dir():
        raise RunError(f"--out {path}: is a file, expected a folder")
    found = path.iterdir() if path.is_dir() else ()
    return not all(entry.name == lock.NAME or UNFINISHED.fullmatch(entry.name) for entry in found)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"can't write {path}: {e.strerror}") from None


def weights_code(model: nn.Module, *, prior: bool = True) -> str:
    """What tells one set of weights from another; without `prior`, those of its encoder and decoder alone."""
    weights = model.state_dict()
    return code_of({name: w for name, w in weights.items() if prior or "prior" not in name.partition(".")[0]})


def code_of(weights: Mapping[str, Tensor]) -> str:
    """What tells these, by name, from others."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
