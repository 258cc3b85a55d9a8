"""What the verbs share: the decorator, what a report is, and how the command line takes a parameter.

A verb is one function with one signature. Python calls it with a run's folder, a device's name and whether to show
progress, and `verb` opens, picks and makes what the function works with; the command line makes its options from the
same signature, their help from the same `Args:`, and prints the report that comes back.
"""

import functools
import inspect
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, Self, TypeVar, get_args, get_origin, overload

from cyclopts import Parameter

from lowerbound.config import allowing
from lowerbound.data.images import Failed
from lowerbound.devices import pick_device
from lowerbound.errors import ConfigError, UserError
from lowerbound.parallel import ALONE, Environment, World, asked, joined, team, together
from lowerbound.processes import speaks
from lowerbound.progress import Progress, Terminal
from lowerbound.runs.conditions import Said
from lowerbound.runs.run import Run
from lowerbound.verbs import tables
from lowerbound.waiting import sharing_cores

P = ParamSpec("P")
R = TypeVar("R")

# ---- reports


class Shown(ABC):
    """What a verb gives back: the command line prints it.

    failed: the user's files that can't be read, where all else was done; the exit status says so.
    """

    failed: tuple[Failed, ...] = ()

    @abstractmethod
    def json(self) -> Any:
        """Plain JSON values."""

    @abstractmethod
    def shown(self) -> Any:
        """For a person: a sentence, or what rich can print."""

    def notes(self) -> Sequence[str]:
        """Lines that follow it on standard error."""
        return ()

    def status(self) -> int:
        """The exit status of the command."""
        return 1 if self.failed else 0

    def failures(self) -> list[list[str]]:
        """`failed`, for JSON."""
        return [[*failed] for failed in self.failed]


class Made(Shown):
    """Images that a verb makes, and where they go; with nowhere to go they can be saved later."""

    out: Path | None

    @abstractmethod
    def save(self, out: Path) -> None:
        """By the rule of `--out`."""

    def saved(self) -> Self:
        """Itself, once it is where it goes."""
        if self.out is not None and team().first:
            self.save(self.out)
        return self

    def where(self) -> str | None:
        """For JSON."""
        return None if self.out is None else str(self.out)


ASIDE = {"json": None}  # of a field that is no part of the JSON


def called(key: str) -> dict[str, Any]:
    """Of a field that has this name in the JSON."""
    return {"json": key}


class Report(Shown, Mapping[str, Any]):
    """A report of numbers: its JSON are its fields, and it reads as the mapping of them. Subclasses are frozen
    dataclasses with `eq=False`.

    A field with a default is left out where it has it; `metadata` of ASIDE or `called` say what else is otherwise.
    """

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in fields(self):  # pyright: ignore[reportArgumentType]
            key, value = field.metadata.get("json", field.name), getattr(self, field.name)
            if key is not None and (field.default is MISSING or value != field.default):
                found[key] = value
        return found

    def shown(self) -> Any:
        return tables.plain(self.json())

    def __getitem__(self, key: str) -> Any:
        return self.json()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.json())

    def __len__(self) -> int:
        return len(self.json())


@dataclass(frozen=True)
class Rows(Shown):
    """A table: a row for each dict."""

    rows: list[dict[str, Any]]

    def json(self) -> list[dict[str, Any]]:
        return self.rows

    def shown(self) -> Any:
        return tables.plain(self.rows)


# ---- how the command line takes a parameter


@dataclass(frozen=True)
class Option:
    """Where the command line takes a parameter otherwise than Python.

    kind: its type there. parse: (what was said, how the option is called) -> the value. default: what it is where
    nothing is said, or what makes it. hidden: it is no option.
    """

    kind: Any = None
    parse: Callable[[Any, str], Any] | None = None
    default: Any = inspect.Parameter.empty
    hidden: bool = False


def numbered(text: str, said: str, kind: Callable[[str], Any]) -> Any:
    """A number of a kind. Raises UserError."""
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"{said}: expected {wanted}, got {text or 'nothing'}") from None


def numbers(kind: Callable[[str], Any]) -> Callable[[str, str], list[Any]]:
    """Parses 0,1,…"""
    return lambda text, option: [numbered(part, f"{option} {text}", kind) for part in text.split(",")]


def names(text: str, option: str) -> list[str]:
    """Parses a,b."""
    return text.split(",")


def by_level(kind: Callable[[str], Any]) -> Callable[[str, str], Any]:
    """Parses a number for all levels, or one for each, as in top=0.9,bottom=1.0."""

    def parse(text: str, option: str) -> Any:
        if "=" not in text:
            return numbered(text, option, kind)
        found: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if not name or not equals or name in found:
                raise UserError(
                    f"{option} {text}: expected one number, or a number for each level, as in top=…,bottom=…"
                )
            found[name] = numbered(value, f"{option} {text}", kind)
        return found

    return parse


def assigned(
    key_kind: Callable[[str], Any] = str, default: str = ""
) -> Callable[[Sequence[str], str], dict[Any, float]]:
    """Parses KEY=VALUE of an option that may be given several times; KEY alone takes the default, where there is
    one."""

    def parse(words: Sequence[str], option: str) -> dict[Any, float]:
        pairs: dict[str, float] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not key or not (equals or default):
                raise UserError(f"{option} {word}: expected {'NAME' if default else 'DIM'}=VALUE")
            if key in pairs:
                raise UserError(f"{option} {word}: {key} is given twice")
            pairs[key] = numbered(value if equals else default, f"{option} {word}", float)
        return {numbered(k, f"{option} {k}={v:g}", key_kind): v for k, v in pairs.items()}

    return parse


def values_said(words: Sequence[str], option: str) -> dict[str, str]:
    """Parses NAME=VALUE of an option that may be given several times."""
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not (name and equals and value):
            raise UserError(f"{option} {word}: expected NAME=VALUE")
        if name in pairs:
            raise UserError(f"{option} {word}: {name} is given twice")
        pairs[name] = value
    return pairs


def range_of_two(text: str, option: str) -> tuple[float, float]:
    """Parses LOW,HIGH."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}: expected two numbers LOW,HIGH, such as -1,1") from None
    return low, high


def _whole(kind: Any, tokens: Any) -> int:
    """2.5 is no whole number, and is not rounded to one."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].keyword}: expected a whole number, got {tokens[0].value}") from None


HIDDEN = Option(hidden=True)
WHOLE = Parameter(converter=_whole)
N = Parameter(name=["-n", "--n"])

Device = Annotated[Any, Option(kind=str)]  # auto, cpu, cuda or cuda:N; inside, a torch.device
Told = Annotated[Any, HIDDEN]  # whether to show progress, or a Progress; inside, a Progress
Table = Annotated[Mapping[str, Any] | None, HIDDEN]
OtherRun = Annotated[Any, Option(kind=Path | None)]  # a run's folder, or a Run, or None; inside, a Run or None
Runs = Annotated[Sequence[Any], Option(kind=list[Path])]  # runs' folders, or Runs; inside, Runs
Files = Annotated[Sequence[str | Path], Option(kind=list[Path])]
SomeFiles = Annotated[Sequence[str | Path] | None, Option(kind=list[Path] | None)]
File = Annotated[str | Path | None, Option(kind=Path | None)]
Whole = Annotated[int, WHOLE]
SomeWhole = Annotated[int | None, WHOLE]
MANY = Parameter(negative="")  # an option that may be given several times
Label = Annotated[str | int | None, Option(kind=str | None)]
Attributes = Annotated[Mapping[str, Said] | None, Option(list[str] | None, values_said), MANY]
Names = Annotated[Sequence[str] | None, Option(kind=str | None, parse=names)]
Seed = Annotated[int, WHOLE]
Processes = Annotated[int | None, Option(kind=int | None), WHOLE]  # so many of this machine do it together
FreshSeed = Annotated[int, Option(kind=int | None, default=lambda: secrets.randbelow(2**31)), WHOLE]
# where what is made goes: required of the command line; Python may do without, and save later
Temperature = Annotated[
    float | Mapping[str, float], Option(kind=str, parse=by_level(float)), Parameter(allow_leading_hyphen=True)
]
TopK = Annotated[
    int | Mapping[str, int] | None, Option(kind=str | None, parse=by_level(int)), Parameter(allow_leading_hyphen=True)
]
TopP = Annotated[
    float | Mapping[str, float] | None,
    Option(kind=str | None, parse=by_level(float)),
    Parameter(allow_leading_hyphen=True),
]
Out = Annotated[str | Path | None, Option(kind=Path), Parameter(required=True)]
WITH_HYPHEN = Parameter(allow_leading_hyphen=True)


HELP = {  # of options that mean the same everywhere; what a verb's own Args say of them goes first
    "run": "a run's folder, pretrained:NAME or hf://USER/NAME",
    "data": "images in the place of the run's own: a bundled name, a folder, .zip, .tar or .npz, or shards",
    "split": "train, valid, test or all",
    "device": "auto, cpu, cuda or cuda:N",
    "seed": "of all that is drawn: the same seed, the same numbers",
}

DAYS = 10 * 86400.0  # seconds; how long the others wait while one draws, fits or measures

# ---- the decorator


@overload
def verb(function: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run | str | Path, P], R]: ...
@overload
def verb(function: Callable[P, R]) -> Callable[P, R]: ...
def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of opened runs, a torch.device and a Progress one of folders, a device's name and a yes or no.

    What is annotated `Run`, `OtherRun` or `Runs` may be given as a folder; `device` by name; `progress` as True for
    bars and lines on standard error. `allow`, where the function takes it: packages besides lowerbound that components
    may come from. `Processes`: those that are asked for are begun, and do it `together`, as those that torchrun has
    begun do unless 1 is asked for; the function then writes in the first of them alone. While it runs, its threads give
    way to other processes (`lowerbound.waiting`). Raises RunError for a folder that is no run, ConfigError for a device
    that isn't there.
    """
    signature = inspect.signature(function, eval_str=True)
    runs = [name for name, p in signature.parameters.items() if p.annotation in (Run, OtherRun, Runs)]
    shared = any(p.annotation == Processes for p in signature.parameters.values())

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options)
        given.apply_defaults()
        values, allow = given.arguments, tuple(given.arguments.get("allow", ()))
        progress = _progress(values.get("progress"))
        environment = Environment.read() if shared and values["processes"] != 1 else Environment()
        if shared and environment.begins(values["processes"]):
            for name in [*values]:
                values[name] = _folders(values[name])
            del values["progress"]
            named = function.__module__, function.__name__
            return asked.of_processes(named, given.args, given.kwargs, values["processes"], progress)
        if "device" in values:
            values["device"] = pick_device(environment.device(str(values["device"])))
        with allowing(allow) if allow else nullcontext(), _together(environment, values) as world:
            progress = progress if world.first else Progress()
            if "progress" in values:
                values["progress"] = progress
            for name in runs:
                values[name] = _opened(values[name], allow, progress)
            if isinstance(values.get("seed"), int):
                values["seed"] = world.told(values["seed"])
                if values["seed"] < 0:
                    raise ConfigError(f"--seed {values['seed']}: expected a whole number of at least 0")
            with sharing_cores():
                return function(*given.args, **given.kwargs)

    return called


@contextmanager
def _together(environment: Environment, values: Mapping[str, Any]) -> Iterator[World]:
    """Inside, the processes that were begun do the same; one alone is a world of its own."""
    if environment.size == 1:
        yield ALONE
        return
    with joined(environment, values["device"]) as world, together(world):
        world.patience = DAYS
        yield world


def _folders(value: Any) -> Any:
    """A run as the name of its folder."""
    return str(value.path) if isinstance(value, Run) else value


def _opened(run: Any, allow: Sequence[str], progress: Progress) -> Any:
    if run is None or isinstance(run, Run):
        return run
    if isinstance(run, str | Path):
        return Run.open(run, allow, progress)
    if not isinstance(run, Sequence):
        raise UserError(f"expected a run: its folder, or a Run, which knows its data; got {type(run).__name__}")
    return [_opened(one, allow, progress) for one in run]


def _progress(told: Any) -> Progress:
    return told if isinstance(told, Progress) else Terminal() if told else Progress()


# ---- the same, as a command


def command(called: Callable[..., Any], show: Callable[[Any, bool], int]) -> Callable[..., int]:
    """A verb as the function of a command: with the command line's types, and `--json`.

    show: prints what came back, as JSON or for a person, and returns the exit status.
    """
    function = inspect.unwrap(called)
    own = inspect.signature(function, eval_str=True)
    parameters = own.parameters
    options = {name: _option(p) for name, p in parameters.items()}
    taken = [_as_command(p, options[name], called) for name, p in parameters.items() if not options[name].hidden]
    json = Annotated[bool, Parameter(name="--json", negative="", help="one JSON document on standard output")]
    taken.append(inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=json))
    signature = inspect.Signature(taken)

    def run(*args: Any, **said: Any) -> int:
        given = signature.bind(*args, **said)
        if given.arguments.get("processes", None if "processes" in parameters else 1) == 1 and not speaks():
            return 0  # the first of several processes does it alone
        as_json = given.arguments.pop("json", False)
        for name, option in options.items():
            if option.hidden:
                continue
            value = given.arguments.get(name)
            if value is None and option.default is not inspect.Parameter.empty:
                given.arguments[name] = option.default() if callable(option.default) else option.default
            elif value is not None and option.parse is not None:
                given.arguments[name] = option.parse(value, _called(name, parameters[name]))
        more = {"progress": Terminal()} if "progress" in parameters else {}
        given = inspect.BoundArguments(own, given.arguments)
        return show(called(*given.args, **given.kwargs, **more), as_json)

    run.__name__, run.__doc__ = function.__name__, inspect.getdoc(function)
    run.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {p.name: p.annotation for p in taken}
    return run


def _option(p: inspect.Parameter) -> Option:
    found = [m for m in get_args(p.annotation)[1:] if isinstance(m, Option)]
    return found[0] if found else Option(hidden=p.name in ("progress", "allow"))


def _as_command(p: inspect.Parameter, option: Option, called: Callable[..., Any]) -> inspect.Parameter:
    """A parameter with the type and the default that it has on the command line; what may be left out is an option."""
    inner = get_args(p.annotation) if get_origin(p.annotation) is Annotated else (p.annotation,)
    kind = Path if inner[0] is Run else inner[0] if option.kind is None else option.kind
    said = [m for m in inner[1:] if isinstance(m, Parameter)]
    if p.name in HELP and not re.search(rf"^ *{p.name}: ", called.__doc__ or "", re.MULTILINE):
        said.append(Parameter(help=HELP[p.name]))
    if kind is bool:
        said.append(Parameter(negative=""))
    nothing = inspect.Parameter.empty
    default = p.default if option.default is nothing else option.default
    if default is not nothing and callable(default):
        default = None
    if option.parse is not None and default is not None and default is not nothing:
        many: Any = default
        default = f"{many:g}" if isinstance(many, int | float) else ",".join(map(str, many))
    if any(m.required for m in said):
        default = nothing
    place = p.kind
    if place is p.POSITIONAL_OR_KEYWORD:
        place = p.KEYWORD_ONLY
    if place is p.POSITIONAL_ONLY and get_origin(kind) is list:  # files may stand before and behind options
        place, (kind,) = p.VAR_POSITIONAL, get_args(kind)
        said.append(Parameter(required=default is nothing))
        default = nothing
    annotation = Annotated[(kind, *said)] if said else kind  # pyright: ignore[reportInvalidTypeForm]
    return p.replace(kind=place, default=default, annotation=annotation)


def _called(name: str, p: inspect.Parameter) -> str:
    """--keep-level: how the command line calls a parameter."""
    own = [[*m.name] for m in get_args(p.annotation)[1:] if isinstance(m, Parameter) and m.name]
    return own[0][-1] if own else f"--{name.replace('_', '-')}"
