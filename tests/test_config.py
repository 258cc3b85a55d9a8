"""Configurations survive the way through JSON and TOML, and every mistake is named by the whole path of its field."""

import json
import sys
import types
from pathlib import Path

import pytest
from pydantic import Field

from lowerbound.config import Component, allowing, components, dump, override, parse, read, resolve
from lowerbound.errors import ConfigError
from lowerbound.families import Bernoulli, DiagonalNormal, Family, LogisticMixture
from lowerbound.model import Model
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import ELBO, IWAE, Objective
from lowerbound.priors import GaussianMixture
from lowerbound.runs import recipes
from lowerbound.runs.recipes import Recipe

RECIPE = Recipe(
    model=VAE.Config(
        latent=(3,),
        likelihood=LogisticMixture(components=4),
        prior=GaussianMixture.Config(components=7),
        encoder=MLP.Config(hidden=(8, 9), activation="tanh"),
        objective=IWAE(draws=3, dreg=True),
    )
)


def said(values: object) -> str:
    """What a recipe of these values is refused with."""
    with pytest.raises(ConfigError) as e:
        parse(Recipe, values)
    return str(e.value)


def changed(*lines: str) -> str:
    """What these changes of a recipe are refused with."""
    with pytest.raises(ConfigError) as e:
        override(RECIPE, lines)
    return str(e.value)


# ---- round trips


def test_json_gives_the_same_recipe_back():
    values = json.loads(json.dumps(dump(RECIPE)))
    assert parse(Recipe, values) == RECIPE
    assert values["model"]["prior"] == {"type": "priors.GaussianMixture", "components": 7, "starts": 10}
    network = {"type": "networks.mlp.MLP", "hidden": [8, 9], "activation": "tanh", "gain": None}
    assert values["model"]["encoder"] == network


def test_every_field_is_dumped():
    assert set(dump(RECIPE)["model"]) == {"type", *VAE.Config.model_fields}
    assert "type" not in dump(RECIPE)["train"]  # the only one of its kind


def test_toml_and_json_say_the_same(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps({"model": {"type": "models.vae.VAE", "latent": 3}}))
    (tmp_path / "a.toml").write_text('[model]\ntype = "models.vae.VAE"\nlatent = 3\n')
    assert parse(Recipe, read(tmp_path / "a.json")) == parse(Recipe, read(tmp_path / "a.toml"))
    assert recipes.load(tmp_path / "a.toml") == recipes.load(tmp_path / "a.json")


@pytest.mark.parametrize("name", recipes.names())
def test_bundled_recipes_load_and_round_trip(name: str):
    recipe = recipes.load(name)
    assert parse(Recipe, json.loads(json.dumps(dump(recipe)))) == recipe
    assert recipe.about.model
    assert recipe.train.total_steps(1000) >= 1
    first = (recipes.FOLDER / f"{name}.toml").read_text().splitlines()
    assert any(f"lowerbound train {name}" in line for line in first if line.startswith("#"))


def test_a_type_alone_is_a_component():
    recipe = parse(Recipe, {"model": "models.vae.VAE"})
    assert recipe.model == VAE.Config()
    assert parse(Recipe, {"model": {"type": "models.vae.VAE", "objective": "objectives.IWAE"}}).model == VAE.Config(
        objective=IWAE()
    )


def test_a_component_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        RECIPE.model.latent = (2,)  # pyright: ignore


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "model = [", "a.toml: not a TOML file: "),
        ("a.json", "{", "a.json: not a JSON file: "),
        ("a.json", "[1]", "a.json: expected a table of keys, got a list"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / name)


def test_files_that_are_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.json: No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"no recipe 'vaee'; did you mean vae\?"):
        recipes.load("vaee")


# ---- errors name the whole path, the value and what would be right

MODEL = {"type": "models.vae.VAE"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {**MODEL, "latent": 16.5}}, "model.latent: expected a whole number above 0, got 16.5"),
        ({"model": {**MODEL, "latent": 0}}, "model.latent: expected a whole number above 0, got 0"),
        ({"model": {**MODEL, "latent": True}}, "model.latent: expected a whole number above 0, got True"),
        ({"model": {**MODEL, "latnet": 3}}, "model.latnet: unknown key; did you mean latent?"),
        ({"model": MODEL, "tain": {}}, "tain: unknown key; did you mean train?"),
        ({}, "model: is missing: expected a Model"),
        (
            {"model": {**MODEL, "objective": {"type": "objectives.ELBO", "beta": -1}}},
            "model.objective.beta: expected a number of at least 0, got -1",
        ),
        (
            {"model": {**MODEL, "objective": {"type": "objectives.ELBO", "beta": "big"}}},
            'model.objective.beta: expected a number of at least 0, got "big"',
        ),
        (
            {"model": {**MODEL, "prior": {"type": "priors.GaussianMixture", "components": 2.5}}},
            "model.prior.components: expected a whole number above 0, got 2.5",
        ),
        (
            {"model": {**MODEL, "encoder": {"type": "networks.mlp.MLP", "hidden": [3, "x"]}}},
            "model.encoder.hidden",
        ),
        (
            {"model": {**MODEL, "encoder": {"type": "networks.mlp.MLP", "hidden": [3, 0]}}},
            "model.encoder.hidden: expected widths above 0, got [3, 0]",
        ),
        (
            {"model": {**MODEL, "encoder": {"type": "networks.mlp.MLP", "activation": "rellu"}}},
            "model.encoder.activation: no activation 'rellu'; did you mean relu?",
        ),
        ({"model": MODEL, "train": {"optimizer": {"lr": 1}}}, "train.optimizer: is abstract and needs a `type`"),
        (
            {"model": MODEL, "train": {"optimizer": {"type": "optimization.Adam", "lr": 0}}},
            "train.optimizer.lr: expected a number above 0, got 0",
        ),
        (
            {"model": MODEL, "train": {"steps": "many"}},
            'train.steps: expected a whole number above 0 or null, got "many"',
        ),
        ({"model": MODEL, "train": 3}, "train: expected a Training as a table of keys, got 3"),
        ({"model": MODEL, "seed": -1}, "seed: expected a whole number of at least 0, got -1"),
        (
            {"model": MODEL, "data": {"levels": 1}},
            "data.levels: expected a whole number of at least 2 and of at most 256",
        ),
    ],
    ids=lambda v: v[:50] if isinstance(v, str) else "",
)
def test_errors_name_path_value_and_rule(values: dict, message: str):
    assert said(values).startswith(message)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": MODEL, "seed": True}, "seed: expected a whole number of at least 0, got true"),
        ({"model": MODEL, "train": {"steps": True}}, "train.steps: expected a whole number above 0 or null, got true"),
        ({"model": MODEL, "train": {"epochs": False}}, "train.epochs: expected a number above 0 or null, got false"),
        (
            {"model": {**MODEL, "objective": {"type": "objectives.IWAE", "draws": True}}},
            "model.objective.draws: expected",
        ),
        (
            {"model": {**MODEL, "encoder": {"type": "networks.mlp.MLP", "hidden": [True]}}},
            "model.encoder.hidden: expected a list of whole numbers, got [true]",
        ),
        (
            {"model": {**MODEL, "encoder": {"type": "networks.mlp.MLP", "hidden": (8, False)}}},
            "model.encoder.hidden: expected a list of whole numbers, got [8, false]",
        ),
    ],
    ids=lambda v: v[:30] if isinstance(v, str) else "",
)
def test_booleans_are_no_numbers(values: dict, field: str):
    assert said(values).startswith(field)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float):
    assert said({"model": {**MODEL, "objective": {"type": "objectives.ELBO", "beta": value}}}).startswith(
        "model.objective.beta: expected a number"
    )


def test_all_mistakes_are_named_at_once():
    message = said({"model": {**MODEL, "latent": 0, "contxt": 3}, "train": {"batch": 0}})
    assert "model.latent: " in message
    assert "model.contxt: unknown key; did you mean context?" in message
    assert "train.batch: expected a whole number above 0, got 0" in message


def test_long_values_are_cut():
    assert len(said({"model": MODEL, "seed": "x" * 1000})) < 200


# ---- names of components


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("families.Bernouli", "no component 'families.Bernouli'; did you mean families.Bernoulli?"),
        ("networks.mlp.Bernoulli", "did you mean families.Bernoulli?"),
        ("families.Family", "families.Family is abstract"),
        ("objectives.ELBO", "objectives.ELBO is not a Family; known: families."),
        ("os.system", "no component 'os.system'"),
        ("families.torch.nn.Linear", "no component"),
        ("families.Head", "no component"),
        ("families._times", "no component"),
        ("config.Component", "is abstract"),
        ("", "no component ''"),
        (3, "no component 3"),
    ],
)
def test_names_that_are_no_family(name: object, message: str):
    assert said({"model": {**MODEL, "likelihood": {"type": name}}}).startswith("model.likelihood: ")
    assert message in said({"model": {**MODEL, "likelihood": {"type": name}}})


def test_components_are_named_by_where_they_live():
    for base in (Family, Model.Config, Objective):
        for cls in components(base):
            assert resolve(cls.type_name(), base) is cls
    assert Bernoulli.type_name() == "families.Bernoulli"
    assert VAE.Config.type_name() == "models.vae.VAE"


def test_other_packages_are_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("elsewhere")
    exec(
        "from lowerbound.objectives import Objective\n"
        "class Mine(Objective):\n"
        "    weight: float = 2.0\n"
        "    def __call__(self, terms, step): ...\n",
        module.__dict__,
    )
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    values = {"model": {**MODEL, "objective": {"type": "elsewhere.Mine", "weight": 3.0}}}
    assert "no component 'elsewhere.Mine'" in said(values)
    with allowing(["elsewhere"]):
        recipe = parse(Recipe, values)
        assert dump(recipe)["model"]["objective"] == {"type": "elsewhere.Mine", "draws": 1, "weight": 3.0}
        assert parse(Recipe, dump(recipe)) == recipe
        assert module.__dict__["Mine"] in components(Objective)
    assert "no component 'elsewhere.Mine'" in said(values)
    assert module.__dict__["Mine"] not in components(Objective)


def test_naming_a_component_imports_nothing_from_outside():
    assert "antigravity" not in sys.modules
    said({"model": {**MODEL, "likelihood": {"type": "antigravity.Family"}}})
    assert "antigravity" not in sys.modules


# ---- abstract or final


def test_a_class_is_abstract_or_final():
    class Shape(Component, abstract=True):
        pass

    class Circle(Shape):
        radius: float = Field(default=1.0, gt=0)

    assert (Shape.abstract, Circle.abstract) == (True, False)
    with pytest.raises(TypeError, match="Disc subclasses Circle, which is final"):

        class Disc(Circle):
            pass

    with pytest.raises(ConfigError, match="is abstract and needs a `type`"):
        parse(Shape, {})
    assert parse(Circle, {"radius": 2}) == Circle(radius=2.0)


def test_another_kind_of_component_is_refused():
    with pytest.raises(ConfigError, match=r"objective: expected an Objective, got families\.Bernoulli"):
        parse(VAE.Config, {"objective": Bernoulli()})


# ---- changes


def test_changes_are_json_or_text():
    recipe = override(
        RECIPE,
        [
            "train.steps=500",
            "model.latent=[4,2,2]",
            "data.source=/photos",
            "train.clip=null",
            "model.encoder.activation=elu",
        ],
    )
    assert (recipe.train.steps, recipe.model.latent, recipe.data.source) == (500, (4, 2, 2), "/photos")  # pyright: ignore
    assert recipe.train.clip is None
    assert recipe.model.encoder == MLP.Config(hidden=(8, 9), activation="elu")  # pyright: ignore
    assert RECIPE.train.steps is None  # the old one is as it was


def test_tables_change_as_lines_do():
    table = {"train": {"steps": 5}, "model": {"objective": {"type": "objectives.ELBO", "beta": 2.0}}}
    lines = ["train.steps=5", "model.objective.type=objectives.ELBO", "model.objective.beta=2.0"]
    assert override(RECIPE, table) == override(RECIPE, lines)
    assert override(RECIPE, {"model": {"objective": ELBO(beta=2.0)}}) == override(
        RECIPE, {"model": {"objective": {"type": "objectives.ELBO", "beta": 2.0}}}
    )


def test_a_type_clears_its_siblings():
    recipe = override(RECIPE, ["model.prior.type=priors.StandardNormal"])
    assert dump(recipe)["model"]["prior"] == {"type": "priors.StandardNormal"}
    assert override(RECIPE, ["model.prior=priors.StandardNormal"]) == recipe
    same = override(RECIPE, ["model.prior.type=priors.GaussianMixture"])  # the same type clears nothing
    assert same == RECIPE
    both = override(RECIPE, ["model.objective.type=objectives.ELBO", "model.objective.beta=4"])
    assert both.model.objective == ELBO(beta=4)  # pyright: ignore
    assert override(RECIPE, ["model.likelihood.type=families.DiagonalNormal"]).model.likelihood == DiagonalNormal()  # pyright: ignore


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train.stepz=5"], "train.stepz: unknown key; did you mean steps?"),
        (["trian.steps=5"], "trian: unknown key; did you mean train?"),
        (["train.steps"], "'train.steps': expected KEY=VALUE, such as train.steps=500"),
        (["=5"], "'=5': expected KEY=VALUE"),
        (["model.latent=16.5"], "model.latent: expected a whole number above 0, got 16.5"),
        (["train.steps=true"], "train.steps: expected a whole number above 0 or null, got true"),
        (["model.prior.type=priors.StandardNormal", "model.prior.components=3"], "model.prior.components: unknown key"),
        (["model.prior.type=priors.Standard"], "model.prior: no component 'priors.Standard'"),
        (["model.encoder.hidden.first=3"], "model.encoder.hidden"),
    ],
    ids=str,
)
def test_changes_that_cannot_be(lines: list[str], message: str):
    assert changed(*lines).startswith(message)
