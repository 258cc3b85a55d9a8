"""The rules of the house: imports go to a lower floor or stay in their room, files make no circle, no verb imports
another, nothing is imported inside a function, no file is long, and every room is a line of the README's tree."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "lowerbound"

# --8<-- [start:floors]
FLOORS = (  # ground first
    ("errors", "units", "noise", "progress", "processes", "waiting"),
    ("config", "space", "files", "devices", "directions", "parallel"),
    ("optimization", "schedules", "distributions", "networks", "quantizers", "data", "pictures", "likeness"),
    ("stages", "estimators", "transforms"),
    ("model",),
    ("chunks", "priors", "objectives", "families"),
    ("models",),
    ("runs", "inference"),
    ("sampling", "editing", "training", "exporting", "codec"),
    ("metrics", "latent_encoder"),
    ("verbs", "testing"),
    ("explorer",),
    ("cli", "__init__"),
    ("__main__",),
)
# --8<-- [end:floors]
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
LONGEST = 500  # lines of a file
DOORS = {"cli", "__init__"}  # which import what is asked for when it is asked for

FILES = {  # __init__ is the package itself
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def room(name: str) -> str:
    return name.partition(".")[0]


def imported(name: str) -> Iterator[tuple[str, ast.AST]]:
    """The files of the package that a file imports, wherever in it."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for whole in wanted:
            parts = whole.split(".")
            if parts[0] != "lowerbound":
                continue
            inside = ".".join(parts[1:])
            while inside and inside not in FILES:  # a name in a file
                inside = inside.rpartition(".")[0]
            yield inside or "__init__", node


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_or_stay_in_their_room(name: str):
    assert room(name) in FLOOR, f"{room(name)} is on no floor"
    for other, _ in imported(name):
        below = FLOOR[room(other)] < FLOOR[room(name)]
        assert below or room(other) == room(name), f"{name} imports {other}"


def test_nobody_outside_models_imports_a_model():
    """A model is asked by what it answers (`model`), and named by where it lives."""
    asking = {name for name in FILES if room(name) != "models" and "models" in {room(o) for o, _ in imported(name)}}
    assert not asking, f"{sorted(asking)} import a model"


def test_files_make_no_circle():
    state: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert state.get(name) != 1, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in state:
            state[name] = 1
            for other, _ in imported(name):
                if other != name and FILES[other].name != "__init__.py":
                    visit(other, (*path, name))
            state[name] = 2

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("verbs.")])
def test_no_verb_imports_a_verb(name: str):
    shared = {"base", "tables"}
    for other, _ in imported(name):
        same = other.split(".")[:2] == name.split(".")[:2]
        assert not other.startswith("verbs.") or same or other.split(".")[1] in shared, f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in FILES if name not in DOORS and name])
def test_nothing_of_the_package_is_imported_inside_a_function(name: str):
    inside = {
        id(node)
        for function in ast.walk(TREES[name])
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    late = [other for other, node in imported(name) if id(node) in inside]
    assert not late, f"{name} imports {late} inside a function"


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_long(name: str):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{name} has {lines} lines"


def test_every_room_is_a_line_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```\nsrc/lowerbound/\n(.*?)```", text, re.DOTALL)
    assert tree, "README.md has no tree"
    listed = {w for line in tree.group(1).splitlines() for w in re.findall(r"\w+(?:\.pyi?\b|/)", line)}
    rooms = {f"{p.name}/" if p.is_dir() else p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    rooms -= {"py.typed"}
    assert rooms <= listed, f"not in the README's tree: {sorted(rooms - listed)}"
