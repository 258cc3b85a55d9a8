"""What a panel is: a file here that answers questions about runs that it fits, and one of the same name in
`static/panels/` that asks them."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, create_model

from lowerbound.errors import UserError
from lowerbound.explorer.messages import Answer, reasons
from lowerbound.explorer.shelf import Shown
from lowerbound.runs.conditions import Asked

Answers = Answer | Iterator[Answer | None]
F = TypeVar("F", bound=Callable[..., Answers])

# ---- what questions are given

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(max_length=200)]
Places = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=4096)]
Vector = Annotated[list[Finite], Field(max_length=16384)]
ImageName = Annotated[str, Field(max_length=80)]  # upload:HASH or valid:17
Strengths = Annotated[dict[Name, Finite], Field(max_length=64)]


class Condition(BaseModel):
    """A label, or values of attributes, as the page says them."""

    model_config = ConfigDict(extra="forbid")

    label: Name | None = None
    attributes: Annotated[dict[Name, Name | Finite], Field(max_length=64)] = {}


def _asked(value: Any) -> Asked:
    if isinstance(value, Asked):
        return value
    try:
        said = Condition.model_validate(value)
    except ValidationError as e:
        raise ValueError(reasons(e)) from None
    return Asked(said.label, said.attributes)


Given = Annotated[Asked, PlainValidator(_asked)]


def action(function: F) -> F:
    """Marks a method that answers a question of its name: `def decode(self, shown, *, z: Vector) -> Answer`.

    What it is given is checked by its annotations before it is called. It returns an answer, or yields several: the
    page is sent each as it comes. It is left off where a newer question of its kind has come by then. To yield None is
    to say that there is nothing new: it is asked again in a second. Raises UserError for what the page is to say.
    """
    function.is_action = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


class Panel(ABC):
    """Answers what the page asks of a run, by its methods that are marked `action`. It keeps nothing: what is found of
    a run is kept with it (`Shown.once`), what the user does in the page's address."""

    title: ClassVar[str] = ""  # on the page
    place: ClassVar[int] = 100  # among the panels, the lowest first

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name, own in vars(cls).items():
            if getattr(own, "is_action", False) and hasattr(Panel, name):
                raise TypeError(
                    f"{cls.__name__}.{name}: an action may not be called as an attribute that every panel has"
                )

    @property
    def name(self) -> str:
        """That of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def fits(self, shown: Shown) -> bool:
        """Whether it is of use for a run, by the role of its model."""

    @cached_property
    def actions(self) -> Mapping[str, "Action"]:
        found = inspect.getmembers(type(self), lambda f: getattr(f, "is_action", False))
        return {name: Action(function) for name, function in found}


class Action:
    """A method of a panel, and what it must be given."""

    def __init__(self, function: Callable[..., Answers]):
        self.function = function
        signature = inspect.signature(function, eval_str=True)
        fields: dict[str, Any] = {}
        for name, p in list(signature.parameters.items())[2:]:  # after the panel and the run
            fields[name] = (p.annotation, ... if p.default is p.empty else p.default)
        config = ConfigDict(extra="forbid")
        self.model = create_model(function.__name__, __config__=config, **fields)

    def __call__(self, panel: Panel, shown: Shown, given: Mapping[str, Any]) -> Answers:
        """Raises UserError for what it can't be given."""
        try:
            values = self.model.model_validate(given)
        except ValidationError as e:
            raise UserError(f"{panel.name}.{self.function.__name__}: {reasons(e)}") from None
        return self.function(panel, shown, **{name: getattr(values, name) for name in self.model.model_fields})
