"""Latent-variable models of images: train, measure, sample. Every likelihood says whether it is exact or a bound."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowerbound.api import (
        compare,
        complete,
        doctor,
        encode,
        evaluate,
        fit_prior,
        load,
        predict,
        probe,
        reconstruct,
        redraw,
        sample,
        score,
        train,
    )
    from lowerbound.errors import UserError
    from lowerbound.latent_encoder import LatentEncoder
    from lowerbound.runs.run import Run

__all__ = [
    "LatentEncoder",
    "Run",
    "UserError",
    "compare",
    "complete",
    "doctor",
    "encode",
    "evaluate",
    "fit_prior",
    "load",
    "predict",
    "probe",
    "reconstruct",
    "redraw",
    "sample",
    "score",
    "train",
]

_HOMES = {"LatentEncoder": "latent_encoder", "Run": "runs.run", "UserError": "errors"}
_HOMES |= dict.fromkeys([name for name in __all__ if name not in _HOMES], "api")


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `lowerbound --help` waits for no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"lowerbound.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """`lowerbound.train` (compare, doctor, probe, score) stays the function when the module is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
