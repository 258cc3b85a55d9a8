"""All panels, found by walking their folder."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping

from lowerbound.explorer import panels
from lowerbound.explorer.panels.base import Panel


@functools.cache
def all_panels() -> Mapping[str, Panel]:
    """By their names, in the order of the page."""
    found: list[Panel] = []
    for info in pkgutil.iter_modules(panels.__path__):
        module = importlib.import_module(f"{panels.__name__}.{info.name}")
        kinds = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)
        found += [kind() for kind in kinds if issubclass(kind, Panel) and kind is not Panel]
    return {panel.name: panel for panel in sorted(found, key=lambda p: (p.place, p.name))}
