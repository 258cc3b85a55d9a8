"""The pages of the reference, generated from the library itself: docstrings, fields, verbs, recipes."""

import functools
import html
import importlib
import inspect
import logging
import re
import tomllib
from collections.abc import Iterator

from lowerbound.config import Component
from lowerbound.latent_encoder import LatentEncoder

from .fields import components, keys
from .pages import RECIPES, ROOT
from .signatures import called

PAGES = {  # room of the package: its page's title, and what it holds
    "models": ("Models", "What has samples and, most of them, log p(x). `model.type=models.vae.VAE` names one."),
    "priors": ("Priors", "Small models over latents: `model.prior`, and what `fit-prior` fits."),
    "families": ("Families", "From what a network puts out to a distribution: `model.posterior`, `model.likelihood`."),
    "objectives": (
        "Objectives",
        "From the terms of the bound to the loss of a step, and what else is trained against.",
    ),
    "estimators": (
        "Estimators",
        "How latents are drawn in training, and how gradients get through: `model.estimator`.",
    ),
    "networks": ("Networks", "What encoders, decoders, conditionals and denoisers are made of."),
    "quantizers": ("Quantizers", "From vectors to codes."),
    "transforms": ("Transforms", "How whole numbers become real ones."),
    "schedules": ("Schedules", "The noise of diffusion: how much of it, what is predicted, how it is taken away."),
    "optimization": ("Optimization", "`train.optimizer`, `train.schedule`, `train.averaging`, `train.skip`."),
    "metrics": ("Metrics", "What `evaluate` measures; its options set their fields."),
}
LOG = logging.getLogger("mkdocs.documentation")
API = re.compile(r"^from \.(\S+) import (\w+) as (\w+)$", re.MULTILINE)


@functools.cache
def generated() -> dict[str, str]:
    """Every page: its place below docs/, and its Markdown."""
    pages = {f"reference/{room}.md": _room(room, *about) for room, about in PAGES.items()}
    return pages | {
        "reference/index.md": _index(),
        "reference/python.md": _python(),
        "reference/model.md": _model(),
        "reference/command-line.md": _command_line(),
        "reference/configuration.md": _configuration(),
        "reference/recipes.md": _recipes(),
    }


def _index() -> str:
    rooms = "\n".join(f"- [{title}]({room}.md): {about}" for room, (title, about) in PAGES.items())
    return f"""# Reference

Written by the build, from the library itself: its docstrings, the fields of its components, its command line, its
recipes.

- [The command line](command-line.md): every verb and its options
- [Configuration](configuration.md): every key of a recipe outside its model
- [Recipes](recipes.md): what each is, the time it takes, the number it reached
- [Python](python.md): the public names of `lowerbound`
- [A model](model.md): what every model answers

And the components, by the room that they are in. A component is named by where it lives, in a recipe as on the command
line: `model.posterior=families.FullNormal`.

{rooms}
"""


def _room(room: str, title: str, about: str) -> str:
    of = {kind: [c for c in found if c.type_name().startswith(f"{room}.")] for kind, found in components().items()}
    parts = [f"# {title}\n\n{about}\n"]
    for kind, found in sorted(of.items(), key=lambda item: item[0].__module__):
        several = len([k for k in of if of[k]]) > 1
        if found and several:
            name = kind.__qualname__.removesuffix(".Config")
            parts.append(f"## {name}\n\n{_summary(kind)}\n")
        for cls in found:
            parts.append(_component(cls, "###" if several else "##"))
    return "\n".join(parts)


def _summary(cls: type) -> str:
    owner = _owner(cls)
    return "" if owner.__doc__ is None else inspect.getdoc(owner).partition("\n\n")[0].replace("\n", " ")  # pyright: ignore


def _owner(cls: type) -> type:
    """The class that people know: the model of a nested Config."""
    outer = cls.__qualname__.removesuffix(".Config")
    return cls if outer == cls.__qualname__ else getattr(inspect.getmodule(cls), outer)


def _component(cls: type[Component], marks: str) -> str:
    """A heading that is the name in a configuration, the docstring, the keys."""
    owner = _owner(cls)
    name = cls.type_name()
    level = len(marks)
    return f"""{marks} `{name}` {{ #{name} }}

::: {owner.__module__}.{owner.__qualname__}
    options: {{ heading_level: {level + 1}, show_root_heading: false, show_root_toc_entry: false, members: false }}

{_table(cls)}
"""


def _table(cls: type[Component]) -> str:
    rows = keys(cls)
    if not rows:
        return "No keys."
    for key in rows:
        if not key.meaning:  # where the build is strict, it fails
            LOG.warning(f"{cls.type_name()}: no comment says what {key.name} means")
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key in rows:
        cells = [f"`{key.name}`", key.takes, f"`{key.default}`", key.meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _python() -> str:
    stub = (ROOT / "src" / "lowerbound" / "__init__.pyi").read_text(encoding="utf-8")
    parts = [
        "# Python\n\n`import lowerbound as lb`. A verb is the same function as on the "
        "[command line](command-line.md): a run is given by its folder, and the report that comes back reads as the "
        "mapping of its JSON.\n"
    ]
    for module, name, shown in sorted(API.findall(stub), key=lambda found: found[2].lower()):
        options = "show_root_heading: false, show_root_toc_entry: false, heading_level: 3"
        it = getattr(importlib.import_module(f"lowerbound.{module}"), name)
        call = called(it, f"lb.{shown}") if inspect.isfunction(it) or it is LatentEncoder else ""
        parts.append(f"## `lb.{shown}` {{ #{shown} }}\n")
        parts += [f"```python\n{call}\n```\n"] if call else []
        parts.append(f"::: lowerbound.{module}.{name}\n    options: {{ {options} }}\n")
    return "\n".join(parts)


def _model() -> str:
    parts = [
        "# A model\n\nWhat `lb.load` gives, and what every model answers. Letters and shapes are those of the papers: "
        "`x` [B, C, H, W], `z` [K, B, *latent].\n"
    ]
    for name in (
        "model.base.Model",
        "model.latent.LatentModel",
        "model.roles.CodeModel",
        "model.draws.Draw",
        "model.terms.ElboTerms",
        "space.Space",
        "space.Density",
    ):
        parts.append(f"::: lowerbound.{name}\n    options: {{ heading_level: 2 }}\n")
    return "\n".join(parts)


def _command_line() -> str:
    from lowerbound.cli import app, commands

    parts = [
        "# The command line\n\n`lowerbound VERB …`. Every verb takes `--help`; those that compute `--device` and "
        "`--seed`; those that report `--json`. A mistake of yours is a sentence on standard error, and exit status 2.\n"
    ]
    for command in commands():
        made = app([*command.words])
        for word in command.words:
            made = made[word]
        name = " ".join(command.words)
        text = made.generate_docs(heading_level=3, usage_name=f"lowerbound {name}")
        _, _, text = text.partition("\n")  # its heading
        text = re.sub(rf"^(lowerbound {name}) -m \w+", r"\1", text, flags=re.MULTILINE)  # the builder's
        parts.append(f"## `{name}` {{ #{'-'.join(command.words)} }}\n{_as_list(text)}\n")
    return "\n".join(parts)


def _as_list(text: str) -> str:
    """What cyclopts writes, with long helps in one line each and lists as Markdown wants them."""
    text = re.sub(r"\n {2,}(?=\S)", " ", text)
    return text.replace("```console", "```text").replace("<!--", "&lt;!--")


def _configuration() -> str:
    from lowerbound.runs.recipes import Recipe

    kinds = {cls.__name__: cls for found in components().values() for cls in found}
    parts = [
        "# Configuration\n\nA recipe is a TOML or JSON file of the tables below; on the command line a key is said as "
        "`train.steps=500`, `model.objective.beta=4`, `data.size=64`. A model and its parts are components: their "
        "`type` says where they live, and their keys are on the pages of [models](models.md) and their parts.\n",
        f"## A recipe\n\n{_table(Recipe)}\n",
    ]
    for table, name in (("data", "Data"), ("train", "Training"), ("about", "About")):
        parts.append(f"## `[{table}]` {{ #{table} }}\n\n{_table(kinds[name])}\n")
    return "\n".join(parts)


def _recipes() -> str:
    parts = ["# Recipes\n\n`lowerbound train NAME`. Each number was reached by the command of its recipe.\n"]
    for path in sorted(RECIPES.glob("*.toml")):
        parts.append("\n".join(_recipe(path.stem, path.read_text(encoding="utf-8"))))
    return "\n".join(parts)


def _recipe(name: str, text: str) -> Iterator[str]:
    values = tomllib.loads(text)
    about, head = values.get("about", {}), []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").removeprefix(" "))
    yield f"## `{name}` {{ #{name} }}\n"
    yield "\n".join(head) + "\n"
    for key in ("model", "time", "reached"):
        yield f"- {key}: {html.escape(about.get(key, 'not measured'), quote=False)}"
    yield f"- data: `{values.get('data', {}).get('source', 'digits')}`\n"
    yield f'<details markdown="1"><summary>The recipe</summary>\n\n```toml\n{text.strip()}\n```\n\n</details>\n'
