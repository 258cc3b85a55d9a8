"""The bundled recipes: model, data, time, number reached."""

from lowerbound.runs import places
from lowerbound.runs import recipes as bundled
from lowerbound.verbs.base import Rows, verb


@verb
def recipes() -> Rows:
    """The bundled recipes: model, data, time, number reached; and which there are trained, as pretrained:NAME."""
    rows, trained = [], places.pretrained()
    for name in bundled.names():
        recipe = bundled.load(name)
        about = recipe.about
        facts = {"model": about.model, "data": recipe.data.source, "time": about.time, "reached": about.reached}
        rows.append({"name": name} | facts | {"pretrained": f"pretrained:{name}" if name in trained else ""})
    return Rows(rows)
