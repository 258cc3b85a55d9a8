"""What a run may go on with."""

import json
from pathlib import Path
from typing import Any

from lowerbound.config import dump
from lowerbound.errors import ConfigError
from lowerbound.progress import Progress
from lowerbound.runs import recipes
from lowerbound.runs.recipes import Recipe, Training


def changed(config: Recipe, more: dict[str, Any]) -> Recipe:
    """The configuration with these changes, and data that are found from any working directory."""
    config = recipes.override(config, more)
    there = Path(config.data.source).expanduser().exists()
    data = config.data.settled()
    return config.model_copy(update={"data": data.absolute() if there else data})


# what a run is; how it goes on (its length, its rate, what it saves) may change
_FIXED = ("model.", "data.", "seed")
_PLACE = "data.source"  # data may have been moved: what they are is compared, not where they lie
_FIXED_IN_TRAINING = ("batch", "averaging", "skip", "optimizer.type")  # of all stages, or of one


def continued(old: Recipe, asked: Recipe, changed: Recipe, progress: Progress, again: str | None = None) -> Recipe:
    """A run's own configuration with the changes that were asked for, not all of the recipe's anew.

    again: a stage that starts over, so that its own model and training may be others.

    Raises ConfigError where another thing would be trained.
    """
    a, b, c = _flat(dump(old)), _flat(dump(asked)), _flat(dump(changed))
    keys = sorted(a.keys() | b.keys() | c.keys())
    free = (_PLACE, *_own(old, again))
    refused = [k for k in keys if _differ(a, b, k) and _is_fixed(k) and not k.startswith(free)]
    if refused:
        shown = "; ".join(f"{k} was {json.dumps(a.get(k))}, now {json.dumps(b.get(k))}" for k in refused[:_SHOWN])
        shown += f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise ConfigError(f"{shown}: not the run's options; resume with the ones it was begun with, or --overwrite it")
    news = [f"{k} was {json.dumps(a.get(k))}, is {json.dumps(c.get(k))}" for k in keys if a.get(k) != c.get(k)]
    kept = [f"{k}={json.dumps(c.get(k))}" for k in keys if c.get(k) != b.get(k) and not k.startswith("about.")]
    if news:
        progress.say(f"resuming with other options: {'; '.join(news)}")
    if kept:
        progress.say(f"as the run was begun: {' '.join(kept)}")
    return changed


_SHOWN = 8  # of the options that are refused


def _differ(a: dict[str, Any], b: dict[str, Any], key: str) -> bool:
    """Whether a value is another; in the table of a stage, none at all is not null."""
    return a.get(key) != b.get(key) or (key.startswith("train.stages.") and (key in a) != (key in b))


def _is_fixed(key: str) -> bool:
    """Whether a run goes on only if this is the same."""
    if not key.startswith("train."):
        return key.startswith(_FIXED)
    parts = key.split(".")
    while parts and (parts[0] in ("train", "stages") or parts[0] not in Training.model_fields):
        parts = parts[1:]  # train.stages.prior.top.batch -> batch
    return ".".join(parts).startswith(_FIXED_IN_TRAINING)


def _own(recipe: Recipe, stage: str | None) -> tuple[str, ...]:
    """The beginnings of the keys that are of a stage alone: train.stages.prior.top., model.priors.0."""
    if stage is None:
        return ()
    return f"train.stages.{stage}.", *(f"model.{key}" for key in recipe.model.of_stage(stage))


def _flat(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Every value by its whole key; the items of a list of tables go by number."""
    flat: dict[str, Any] = {}
    for k, v in table.items():
        if isinstance(v, list) and v and all(isinstance(item, dict) for item in v):
            v = {str(i): item for i, item in enumerate(v)}
        flat |= _flat(v, f"{path}{k}.") if isinstance(v, dict) else {path + k: v}
    return flat
