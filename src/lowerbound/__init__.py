"""Latent-variable models of images: train, measure, sample. Every likelihood says whether it is exact or a bound."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowerbound.api import evaluate, load, train
    from lowerbound.errors import UserError
    from lowerbound.run import Run

__all__ = ["Run", "UserError", "evaluate", "load", "train"]

_HOMES = {"Run": "run", "UserError": "errors", "evaluate": "api", "load": "api", "train": "api"}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `lowerbound --help` waits for no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"lowerbound.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
