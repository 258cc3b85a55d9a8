"""The bundled recipes: model, data, time, number reached."""

from lowerbound.runs import recipes as bundled
from lowerbound.verbs.base import Rows, verb


@verb
def recipes() -> Rows:
    """The bundled recipes: model, data, time, number reached."""
    rows = []
    for name in bundled.names():
        recipe = bundled.load(name)
        about = recipe.about
        facts = {"model": about.model, "data": recipe.data.source, "time": about.time, "reached": about.reached}
        rows.append({"name": name} | facts)
    return Rows(rows)
