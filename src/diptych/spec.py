"""Specs: names with options, `NAME:key=value:key=value`, of sources, towers and tokenizers.

>>> parse("vit:width=384:depth=12")
Spec(name='vit', options={'width': 384, 'depth': 12})
>>> str(parse("glyphs:split=test:design=noto+emojione"))
'glyphs:split=test:design=noto+emojione'
"""

import ast
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from reprlib import Repr
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from diptych.errors import InputError, brief, nearest, unknown

_OPTION = re.compile(r":(?=[A-Za-z_][A-Za-z0-9_]*=)")
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Spec:
    """A name and its options.

    The name may contain colons (`timm:resnet18`, `C:/data`): only `:key=` starts an option.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


def parse(text: str) -> Spec:
    """Parse `NAME:key=value…`; Python numbers, booleans, None and tuples are converted, other
    values stay text.

    Raises InputError for an empty name or a key given twice.
    """
    name, *parts = _OPTION.split(text)
    if not name:
        raise InputError(f"{text!r} has no name before its options; write NAME:key=value")
    options: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key in options:
            raise InputError(f"{text!r} gives {key!r} twice; give it once")
        options[key] = _value(value)
    return Spec(name, options)


def split_specs(text: str) -> list[str]:
    """Split a list of specs at its commas, except those in braces, which belong to a name.

    >>> split_specs("photos/:part=1/5,{0..9},{a,b}.tar")
    ['photos/:part=1/5', '{0..9}', '{a,b}.tar']
    """
    return re.split(r",(?![^{]*\})", text)


def split_options(text: str) -> tuple[str, str]:
    """The name of a spec, and the unparsed text of its options.

    >>> split_options("C:/photos/:part=1/5:draw=2")
    ('C:/photos/', ':part=1/5:draw=2')
    """
    found = _OPTION.search(text)
    at = found.start() if found else len(text)
    return text[:at], text[at:]


def _value(text: str) -> Any:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float | type(None) | tuple) else text


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit of a numeric option, used in an annotation such as `Annotated[float, Above(0)]`."""

    limit: float
    word: ClassVar[str]
    holds: ClassVar[Callable[[float, float], bool]]

    def __str__(self) -> str:
        return f"{self.word} {self.limit:g}"

    def allows(self, value: float) -> bool:
        """Whether the value is within the limit."""
        return type(self).holds(value, self.limit)


class Above(Bound):
    """
    >>> Above(0).allows(0), str(Above(0))
    (False, 'above 0')
    """

    word = "above"
    holds = operator.gt


class AtLeast(Bound):
    """
    >>> AtLeast(1).allows(1), str(AtLeast(1))
    (True, 'at least 1')
    """

    word = "at least"
    holds = operator.ge


class Below(Bound):
    """
    >>> Below(1).allows(1), str(Below(1))
    (False, 'below 1')
    """

    word = "below"
    holds = operator.lt


class AtMost(Bound):
    """
    >>> AtMost(1).allows(1), str(AtMost(1))
    (True, 'at most 1')
    """

    word = "at most"
    holds = operator.le


@dataclass(frozen=True, slots=True)
class Role:
    """The role of an option, used in an annotation; the contract suite makes smaller models by
    it."""

    name: Literal["width", "dropout", "network", "model", "denoiser"]


def role(hint: Any) -> str | None:
    """The name of the role in an annotation, or None.

    >>> role(Width | None), role(Count)
    ('width', None)
    """
    if get_origin(hint) is Annotated:
        return next((part.name for part in get_args(hint)[1:] if isinstance(part, Role)), None)
    if get_origin(hint) in (Union, UnionType):
        return next(filter(None, map(role, get_args(hint))), None)
    return None


Positive = Annotated[float, Above(0)]
NotNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, AtLeast(0), AtMost(1)]
ShareBelowOne = Annotated[float, AtLeast(0), Below(1)]
Cosine = Annotated[float, AtLeast(-1), AtMost(1)]
CosineDistance = Annotated[float, AtLeast(0), AtMost(2)]
"""1 - cosine."""
Count = Annotated[int, AtLeast(1)]
Natural = Annotated[int, AtLeast(0)]
Width = Annotated[int, AtLeast(1), Role("width")]
"""Features of a layer."""
Dropout = Annotated[float, AtLeast(0), Below(1), Role("dropout")]
"""A dropout probability."""
NetworkSpec = Annotated[str, Role("network")]
"""The spec of a tower or a head, such as `mlp:hidden=2048`."""
ModelSpec = Annotated[str, Role("model")]
"""The spec of a whole model, as `diptych.load` takes it."""
DenoiserSpec = Annotated[str, Role("denoiser")]
"""The spec of a model that predicts noise, as `diptych.load` takes it."""


def configure(cls: type, options: Mapping[str, Any], where: str) -> Any:
    """Build the frozen dataclass `cls` from plain options.

    A number is accepted for a tuple of one, as in `widths=8` on the command line. Raises InputError
    as `check` does; for an unknown key it suggests the nearest field.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Config:
    ...     width: int = 64
    >>> configure(Config, {"widht": 32}, "tower 'vit'")
    Traceback (most recent call last):
    diptych.errors.InputError: unknown option of tower 'vit' 'widht'; did you mean 'width'?
    """
    hints = annotations(cls)
    options = {key: _listed(value, hints.get(key)) for key, value in options.items()}
    check(cls, options, where)
    try:
        return cls(**options)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 200
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 12
_REPR.maxlevel = 4


def shown(value: Any) -> str:
    """The `repr` of a value, truncated if it is long, since a short file can nest one list in
    another many times.

    >>> shown([1, "a"]), shown([[[[[[1]]]]]])
    ("[1, 'a']", '[[[[...]]]]')
    """
    return _REPR.repr(value)


def as_names(names: str | Iterable[str]) -> list[str]:
    """Names that a program gives as a list; a text is one name.

    >>> as_names("clip"), as_names(["clip", "siglip"])
    (['clip'], ['clip', 'siglip'])
    """
    return [names] if isinstance(names, str) else list(names)


def _listed(value: Any, hint: Any) -> Any:
    """A number as a tuple of one if the annotation is a tuple of any length; any other value
    unchanged."""
    is_tuple = get_origin(hint) is tuple and get_args(hint)[-1] is ...
    return (value,) if is_tuple and isinstance(value, int | float) else value


def check(cls: type, options: Mapping[str, Any], where: str) -> None:
    """Raise InputError if an option is no field of the dataclass `cls` or its value does not fit
    the annotation.

    Numbers, booleans, strings, `Literal`, tuples, lists, mappings, unions of them and each `Bound`
    are checked.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Config:
    ...     rate: Annotated[float, Above(0), Below(1)] = 0.5
    >>> check(Config, {"rate": 1.0}, "tower 'vit'")
    Traceback (most recent call last):
    diptych.errors.InputError: option 'rate' of tower 'vit' is 1.0; it must be a number above 0 and below 1
    """
    hints = annotations(cls)
    for key, value in options.items():
        if key not in hints:
            raise unknown(f"option of {where}", key, hints)
        if not fits(value, hints[key]):
            close = nearest(value, choices(hints[key])) if isinstance(value, str) else None
            hinted = f"; did you mean {close!r}?" if close else ""
            raise InputError(
                f"option {key!r} of {where} is {shown(value)}; it must be {takes(hints[key])}{hinted}"
            )


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raise InputError if a value, which messages call `name`, does not fit an annotation.

    >>> check_value("max_bad", 5.0, Share)
    Traceback (most recent call last):
    diptych.errors.InputError: max_bad is 5.0; it must be a number from 0 to 1
    """
    if not fits(value, hint):
        raise InputError(f"{name} is {shown(value)}; it must be {takes(hint)}")


def problem(cls: type, values: Mapping[str, Any]) -> str:
    """What is wrong with saved values of a dataclass (a missing field, or one of another type), or
    "".

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Saved:
    ...     count: int
    >>> problem(Saved, {}), problem(Saved, {"count": "many"}), problem(Saved, {"count": 3, "more": 1})
    ("it lacks 'count'", "'count' is 'many', not a whole number", '')
    """
    hints = annotations(cls)
    for item in fields(cls):
        if item.name in values:
            if not fits(values[item.name], hints[item.name]):
                return f"{item.name!r} is {brief(repr(values[item.name]), 40)}, not {takes(hints[item.name])}"
        elif item.default is MISSING and item.default_factory is MISSING:
            return f"it lacks {item.name!r}"
    return ""


def check_record(cls: type, values: Any, path: Path, remedy: str) -> dict[str, Any]:
    """The values of a saved record for the fields of the dataclass `cls`; other values are left
    out.

    Raises InputError, with the remedy at its end, if one is missing or has another type.
    """
    wrong = (
        problem(cls, values)
        if isinstance(values, Mapping)
        else f"it holds a {type(values).__name__}"
    )
    if wrong:
        raise InputError(f"{path} is damaged ({wrong}); {remedy}")
    return {name: value for name, value in values.items() if name in cls.__dataclass_fields__}


@cache
def annotations(cls: type) -> dict[str, Any]:
    """The annotations of the fields that `cls` accepts as arguments, bounds included."""
    assert is_dataclass(cls)
    hints = get_type_hints(cls, include_extras=True)
    return {item.name: hints[item.name] for item in fields(cls) if item.init}


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value fits an annotation. Types other than those listed at `check` accept any
    value.

    >>> fits(-1, Annotated[int, AtLeast(0)] | None), fits(None, Annotated[int, AtLeast(0)] | None)
    (False, True)
    """
    origin = get_origin(wanted)
    parts = get_args(wanted)
    if origin is Annotated:
        bounds = [part for part in parts[1:] if isinstance(part, Bound)]
        return fits(value, parts[0]) and all(bound.allows(value) for bound in bounds)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if parts[-1] is ...:
            return all(fits(each, parts[0]) for each in value)
        return len(value) == len(parts) and all(map(fits, value, parts))
    if origin is list:
        return isinstance(value, list) and all(fits(each, parts[0]) for each in value)
    if origin is Mapping or origin is dict:
        if not isinstance(value, Mapping):
            return False
        return all(fits(key, parts[0]) and fits(each, parts[1]) for key, each in value.items())
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is float:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) <= _LARGEST
        )
    return isinstance(value, wanted) if wanted in (bool, str, NoneType) else True


def choices(hint: Any) -> list[str]:
    """The words that an annotation allows."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return [part for part in parts if isinstance(part, str)]
    return [word for part in parts for word in choices(part)]


def takes(hint: Any) -> str:
    """An annotation in words, for messages.

    >>> takes(int | None), takes(tuple[float, float]), takes(Literal["stop", "skip"])
    ('a whole number or null', '[a number, a number]', 'stop or skip')
    >>> takes(Annotated[float, Above(0)] | None)
    'a number above 0 or null'
    >>> takes(Count), takes(Share)
    ('a whole number of at least 1', 'a number from 0 to 1')
    """
    plain = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        NoneType: "null",
    }
    if hint in plain:
        return plain[hint]
    origin = get_origin(hint)
    parts = get_args(hint)
    if origin is Annotated:
        limits = bounds(hint)
        return f"{takes(parts[0])} {'of ' if limits.startswith('at ') else ''}{limits}".rstrip()
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(takes, parts))
    if origin is tuple:
        return f"[{', '.join('…' if part is ... else takes(part) for part in parts)}]"
    if origin is list:
        return f"[{takes(parts[0])}, …]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if parts[1] is not Any:
            return f"a mapping of {takes(parts[0])} to {takes(parts[1])}"
        return "a mapping, such as '{\"key\": 1}'"
    return str(hint)


def bounds(hint: Any) -> str:
    """The limits of a number in words, or "".

    >>> bounds(Annotated[float, Above(0), Below(1)] | None)
    'above 0 and below 1'
    """
    if get_origin(hint) is Annotated:
        limits = [part for part in get_args(hint)[1:] if isinstance(part, Bound)]
        if [type(limit) for limit in limits] == [AtLeast, AtMost]:
            return f"from {limits[0].limit:g} to {limits[1].limit:g}"
        return " and ".join(map(str, limits))
    if get_origin(hint) in (Union, UnionType):
        return next(filter(None, map(bounds, get_args(hint))), "")
    return ""


def several(
    kind: str, given: str | int, choices: Sequence[str], also: Sequence[str] = ()
) -> tuple[str, ...]:
    """The values of an option that accepts several, joined by `+`, in the order of `choices`; "all"
    is all of them.

    `also` are further words that the option accepts, which are listed in the error.

    >>> several("colour", "blue+red", ("red", "green", "blue"))
    ('red', 'blue')
    """
    asked = list(choices) if given == "all" else str(given).split("+")
    for name in asked:
        if name not in choices:
            raise unknown(kind, name, [*choices, *also, "all"])
    return tuple(name for name in choices if name in asked)
