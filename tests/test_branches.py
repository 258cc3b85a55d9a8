"""The recipes of 8x8 digits, one for each branch of the taxonomy that has one, trained whole by the command.

Over 5 s each, some minutes of a CPU core together: trainings to their ends.
"""

import importlib
from pathlib import Path

import pytest

import lowerbound as lb
from command import right
from lowerbound.runs import recipes
from lowerbound.space import Space

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("surroundings", "here")

REACHED = {  # what is measured of test images, its relation to the truth, and between what it must lie, by the recipe
    "flow-digits": ("bits_per_dim", "<=", 1.85, 2.05),
    "rbm-digits": ("nll", "~", 23.5, 25.5),
    "diffusion-digits": ("bits_per_dim", "<=", 1.78, 1.98),
    "gsn-digits": ("frechet", "=", 0.4, 0.8),
    "gan-digits": ("frechet", "=", 0.35, 0.7),
}


# One is trained each time; the others take two minutes together: with the slow ones.
@pytest.mark.parametrize("recipe", [pytest.param(r, marks=[pytest.mark.slow] * (r != "rbm-digits")) for r in REACHED])
def test_a_recipe_reaches_what_it_says(recipe: str):
    right("train", recipe, "--out", "run")
    name, relation, low, high = REACHED[recipe]
    found = lb.evaluate("run", metrics=[name], draws=20)["metrics"][name]
    assert found["relation"] == relation
    assert low < found["value"] < high
    right("sample", "run", "-n", "4", "--out", "samples.png")
    assert Path("samples.png").stat().st_size > 100


def test_the_map_tells_what_each_model_says_of_log_p(monkeypatch: pytest.MonkeyPatch):
    """Its lines, against the models that its runs are of; and its guides and recipes are there."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    taxonomy = importlib.import_module("taxonomy")
    page = (ROOT / "docs/taxonomy.md").read_text(encoding="utf-8")
    shown = page[page.index("<!-- map -->") : page.index("<!-- /map -->")]
    runs = []
    for leaf in taxonomy.leaves():
        recipe = recipes.load(leaf.recipe, {"model": leaf.model, "train": leaf.train})
        sign = recipe.model.build(Space((1, 8, 8), levels=2)).density.value
        sign = "~" if leaf.name == "rbm" else sign  # once it is trained, and log Z estimated
        runs.append({"name": leaf.name, "nll": {"relation": sign}})
        assert f"- `{sign}` [{leaf.title}]({leaf.guide})" in shown, leaf.name
        assert (ROOT / "docs" / leaf.guide).exists()
    assert "\n".join(taxonomy.listed({"runs": runs})) in shown
