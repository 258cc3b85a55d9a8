"""Components <-> JSON and TOML, dotted overrides, and errors that name the whole path of the field.

A component is frozen data: what to build, never how it is doing. Its `type` is the place where its class
lives, seen from the package (`{"type": "families.Bernoulli"}`); there is no registry.
"""

import contextlib
import importlib
import inspect
import json
import pkgutil
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import annotated_types
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from lowerbound.errors import ConfigError, did_you_mean

PACKAGE = "lowerbound"
DEEPEST = 30  # parts of a key
_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())
C = TypeVar("C", bound="Component")


class Component(BaseModel):
    """Frozen data that describes a part. A class is abstract (declared so) or final: never both, never neither.

    Example:
        >>> class Shape(Component, abstract=True): ...
        >>> class Circle(Shape):
        ...     radius: float = 1.0
        >>> dump(Circle(radius=2.0))["radius"]
        2.0
        >>> parse(Circle, {"radios": 2})
        Traceback (most recent call last):
        ...
        lowerbound.errors.ConfigError: radios: unknown key; did you mean radius?
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    abstract: ClassVar[bool] = True
    rooms: ClassVar[tuple[str, ...]] = ()  # of the package, where components of this kind are
    lacks: ClassVar[Mapping[str, str]] = {}  # keys that others of its kind have, and why it has none

    def __init_subclass__(cls, *, abstract: bool = False, rooms: tuple[str, ...] | None = None) -> None:
        """rooms: where the components of an abstract kind are; None: where those of its base are, or in its own."""
        super().__init_subclass__()
        package, _, home = cls.__module__.partition(".")
        if rooms is not None:
            cls.rooms = rooms
        elif not cls.rooms and package == PACKAGE:
            cls.rooms = (home.partition(".")[0],)
        for base in cls.__mro__[1:]:
            if issubclass(base, Component) and not base.abstract:
                raise TypeError(f"{cls.__name__} subclasses {base.__name__}, which is final")
        cls.abstract = abstract

    @classmethod
    def type_name(cls) -> str:
        """Where the class lives: `families.Bernoulli`, `models.vae.VAE` (for its nested Config); a class that a room
        shows in its `__init__` is named by the room, in whichever file of it it sits."""
        name, home = cls.__qualname__.removesuffix(".Config"), cls.__module__
        room = home.rpartition(".")[0]
        shown = getattr(sys.modules.get(room), name, None)
        return f"{room if shown is not None and getattr(shown, 'Config', shown) is cls else home}.{name}".removeprefix(
            PACKAGE + "."
        )

    @classmethod
    def hint(cls, text: str) -> str:
        """What somebody may have meant who gave a text where this is a table."""
        return ""

    @model_validator(mode="wrap")
    @classmethod
    def _resolve(cls, value: Any, handler: Any) -> Self:
        if isinstance(value, Component):
            if not isinstance(value, cls):
                raise _problem(f"expected {_article(_kind(cls))}, got {value.type_name()}")
            return value
        if isinstance(value, str):
            if not cls.abstract and cls.__mro__[1] is Component:
                raise _problem(f"expected {_article(_kind(cls))} as a table of keys, got {value!r}{cls.hint(value)}")
            value = {"type": value}
        if not isinstance(value, dict):
            raise _problem(f"expected {_article(_kind(cls))} as a table of keys, got {value!r}")
        value = dict(value)
        target = resolve(value.pop("type"), cls) if "type" in value else cls
        if target.abstract:
            known = ", ".join(sorted(c.type_name() for c in components(cls)))
            raise _problem(f"is abstract and needs a `type`: one of {known}")
        if target is not cls:
            return target.model_validate(value)
        try:
            return handler(value)
        except ValidationError as e:
            raise ValidationError.from_exception_data(cls.__name__, [_explain(cls, d) for d in e.errors()]) from None

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_number(cls, value: Any, info: Any) -> Any:
        field = cls.model_fields[info.field_name]
        kind = _plain(field.annotation)
        if typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
        values = value if isinstance(value, list | tuple) else [value]
        if kind in (int, float) and any(isinstance(v, bool) for v in values):
            raise _problem(f"expected {described(field)}, got {_shown(value)}")
        return value

    @model_serializer(mode="wrap")
    def _with_type(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        named = type(self).__mro__[1] is not Component  # one of several of its kind
        return {"type": self.type_name(), **handler(self)} if named else handler(self)


def dump(component: Component) -> dict[str, Any]:
    """The component as plain JSON values, every field included."""
    return component.model_dump(mode="json", serialize_as_any=True)


def parse(cls: type[C], values: Any, path: str = "") -> C:
    """Build a component from plain values. Raises ConfigError naming every wrong field by its whole path."""
    try:
        return cls.model_validate(values)
    except ValidationError as e:
        raise ConfigError("; ".join(_line(path, d) for d in e.errors())) from None


def read(path: Path) -> dict[str, Any]:
    """The table in a TOML or JSON file. Raises ConfigError when it can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from None
    except ValueError as e:
        raise ConfigError(f"{path}: not a {path.suffix.lstrip('.').upper() or 'JSON'} file: {e}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a table of keys, got a {type(values).__name__}")
    return values


Changes = Iterable[str | Mapping[str, Any]] | Mapping[str, Any]  # KEY=VALUE lines and nested tables


def override(config: C, changes: Changes) -> C:
    """A changed copy. Changes are `key.key=VALUE` lines (VALUE is JSON, or plain text) or nested tables.

    Setting `type` clears its siblings, which belonged to the other class; a component's name is its type, and keys of
    it may come before or after. The items of a list go by number (`model.levels.0.factor=8`).
    Raises ConfigError for a key that does not exist or a value it can't take.
    """
    asked: dict[str, Any] = {}
    lines: Iterable[Any] = [changes] if isinstance(changes, Mapping) else changes
    for change in lines:
        asked = _joined(asked, _nested(change) if isinstance(change, str) else change)
    return parse(type(config), _merge(dump(config), asked))


@contextlib.contextmanager
def allowing(packages: Iterable[str]) -> Iterator[None]:
    """Inside, component names may also resolve in these packages."""
    token = _allowed.set(tuple(packages))
    try:
        yield
    finally:
        _allowed.reset(token)


def resolve(name: Any, base: type[C]) -> type[C]:
    """The concrete component class of this name that is a `base`."""
    found = _find(name) if isinstance(name, str) else None
    if not (inspect.isclass(found) and issubclass(found, Component)):
        raise _problem(f"no component {name!r}{did_you_mean(str(name), [c.type_name() for c in components(base)])}")
    if found.abstract:
        raise _problem(f"{name} is abstract{did_you_mean(name, [c.type_name() for c in components(base)])}")
    if not issubclass(found, base):
        known = ", ".join(sorted(c.type_name() for c in components(base)))
        raise _problem(f"{name} is not {_article(_kind(base))}; known: {known}")
    return found


def components(base: type[C], package: str = PACKAGE) -> list[type[C]]:
    """Every concrete component of a kind, found by walking its rooms."""
    for room in base.rooms:
        home = importlib.import_module(f"{package}.{room}")
        for info in pkgutil.walk_packages(getattr(home, "__path__", ()), f"{home.__name__}."):
            importlib.import_module(info.name)
    found, queue = [], [base]
    while queue:
        cls = queue.pop()
        queue += cls.__subclasses__()
        if not cls.abstract and cls.__module__.split(".")[0] in (package, *_allowed.get()):
            found.append(cls)
    return sorted(set(found), key=lambda c: c.type_name())


def _find(name: str) -> Any:
    """The class at a dotted name inside the package, or inside an allowed one; a model's or network's Config."""
    parts = name.split(".")
    if not all(p.isidentifier() and not p.startswith("_") for p in parts):
        return None
    if parts[0] not in _allowed.get():
        parts = [PACKAGE, *parts]
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as e:
            if e.name and module_name.startswith(e.name):
                continue
            raise
        for part in parts[cut:]:
            found = inspect.getattr_static(found, part, None)
        return getattr(found, "Config", found)
    return None


def _nested(line: str) -> dict[str, Any]:
    """`a.b=1` -> {"a": {"b": 1}}."""
    key, equals, text = line.partition("=")
    if not equals or not key:
        raise ConfigError(f"{line!r}: expected KEY=VALUE, such as train.steps=500")
    parts = key.split(".")
    if len(parts) > DEEPEST:
        raise ConfigError(f"{key[:40]}…: a key of {len(parts)} parts; none has more than {DEEPEST}")
    try:
        value: Any = json.loads(text)
    except RecursionError:
        raise ConfigError(f"{key}={text[:40]}…: lists or tables in one another, too deep to be read") from None
    except ValueError:
        value = text
    for part in reversed(parts):
        value = {part: value}
    return value


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Changes and later ones as one table; the name of a component and keys of it are a table of both."""
    joined = dict(old)
    for key, value in new.items():
        before = joined.get(key)
        if isinstance(before, str) and isinstance(value, Mapping) and "type" not in value:
            joined[key] = {"type": before, **value}
        elif isinstance(before, Mapping) and isinstance(value, str) and before.get("type", value) == value:
            joined[key] = {**before, "type": value}
        elif isinstance(before, Mapping) and isinstance(value, Mapping) and "type" not in value:
            joined[key] = _joined(before, value)
        else:
            joined[key] = value
    return joined


def _merge(old: dict[str, Any], new: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    merged = {"type": new["type"]} if "type" in new and new["type"] != old.get("type") else dict(old)
    for key, value in new.items():
        if isinstance(value, Mapping):
            inner = merged.get(key)
            if isinstance(inner, list):
                merged[key] = _merge_items(path + key, inner, value)
            else:
                merged[key] = _merge(inner if isinstance(inner, dict) else {}, value, f"{path}{key}.")
        else:
            merged[key] = dump(value) if isinstance(value, Component) else value
    return merged


def _merge_items(path: str, old: list[Any], new: Mapping[str, Any]) -> list[Any]:
    """A list of tables with changes to some: `levels.0.factor=8`. Raises ConfigError for a place it does not have."""
    items = list(old)
    for place, value in new.items():
        if not (place.isdecimal() and int(place) < len(items)):
            raise ConfigError(f"{path}.{place}: expected a number from 0 to {len(items) - 1}, or the whole list")
        item = items[int(place)]
        items[int(place)] = (
            _merge(item if isinstance(item, dict) else {}, value, f"{path}.{place}.")
            if isinstance(value, Mapping)
            else value
        )
    return items


def problem_at(path: str, message: str) -> ValidationError:
    """What a validator raises of a value further down: its path from the component, and what is wrong with it."""
    detail = InitErrorDetails(type=_problem(message), loc=tuple(path.split(".")), input=None)
    return ValidationError.from_exception_data("", [detail])


def _problem(message: str) -> PydanticCustomError:
    return PydanticCustomError("lowerbound", "{message}", {"message": message})


def _explain(cls: type[Component], detail: Any) -> InitErrorDetails:
    """Pydantic's error at a field of `cls` in the library's words; those of components below are done already."""
    loc, kind = detail["loc"], detail["type"]
    field = cls.model_fields.get(str(loc[0])) if loc else None
    if kind == "lowerbound":
        message = detail["ctx"]["message"]
    elif kind == "extra_forbidden":
        key = str(loc[-1])
        message = cls.lacks.get(key) or f"unknown key{did_you_mean(key, cls.model_fields)}"
    elif kind == "missing":
        message = f"is missing: expected {described(field)}" if field else "is missing"
    elif kind in ("value_error", "assertion_error"):
        message = str(detail["ctx"]["error"])
    elif field:
        message = f"expected {described(field)}, got {_shown(detail['input'])}"
    else:
        message = detail["msg"]
    return InitErrorDetails(type=_problem(message), loc=loc, input=detail["input"])


def _line(path: str, detail: Any) -> str:
    where = ".".join(str(p) for p in ([path] if path else []) + list(detail["loc"]))
    return f"{where}: {detail['msg']}" if where else detail["msg"]


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _kind(cls: type[Component]) -> str:
    return cls.__qualname__.removesuffix(".Config")


def _article(kind: str) -> str:
    """With it before."""
    return f"an {kind}" if kind[0] in "AEIO" else f"a {kind}"


def _plain(annotation: Any) -> Any:
    """`X | None` -> X."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return inner[0] if len(inner) == 1 else annotation
    return annotation


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_BOUNDS = {
    annotated_types.Gt: "above {0.gt}",
    annotated_types.Ge: "of at least {0.ge}",
    annotated_types.Lt: "below {0.lt}",
    annotated_types.Le: "of at most {0.le}",
    annotated_types.MinLen: "with at least {0.min_length}",
}


def described(field: FieldInfo) -> str:
    """The values a field takes, in words: `a whole number above 0`."""
    annotation = _plain(field.annotation)
    bounds = [_BOUNDS[type(m)].format(m) for m in field.metadata if type(m) in _BOUNDS]
    if annotation in _WORDS:
        words = _WORDS[annotation]
        bounds = [f"{bound} character" if annotation is str else bound for bound in bounds]
    elif isinstance(annotation, types.UnionType):
        words = " or ".join(_WORDS.get(a, str(a)) for a in typing.get_args(annotation))
    elif typing.get_origin(annotation) is typing.Literal:
        words = " or ".join(json.dumps(value) for value in typing.get_args(annotation))
    elif typing.get_origin(annotation) is dict:
        words = "a table"
    elif typing.get_origin(annotation) is tuple:
        words = f"a list of {_MANY.get(typing.get_args(annotation)[0], 'values')}"
    elif inspect.isclass(annotation) and issubclass(annotation, Component):
        words = _article(_kind(annotation))
    else:
        words = str(annotation)
    nothing = " or null" if annotation is not field.annotation else ""
    return " ".join([words, " and ".join(bounds)]).strip() + nothing
