"""Names with options in one word: `NAME:key=value:key=value`, used for sources, towers and tokenizers alike.

>>> parse("vit:width=384:depth=12")
Spec(name='vit', options={'width': 384, 'depth': 12})
>>> str(parse("glyphs:split=test:design=noto+emojione"))
'glyphs:split=test:design=noto+emojione'
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args

from diptych.errors import InputError, unknown

_OPTION = re.compile(r":(?=[A-Za-z_][A-Za-z0-9_]*=)")


@dataclass(frozen=True)
class Spec:
    """A name and its options. The name may hold colons (`timm:resnet18`, `C:/data`): only `:key=` opens an option."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


def parse(text: str) -> Spec:
    """Split `NAME:key=value…`; values that read as Python numbers, booleans or None become such, others stay text.

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


def joined(text: str) -> list[str]:
    """The specs that commas join; those in braces belong to a name.

    >>> joined("photos/:part=1/5,{0..9},{a,b}.tar")
    ['photos/:part=1/5', '{0..9}', '{a,b}.tar']
    """
    return re.split(r",(?![^{]*\})", text)


def parted(text: str) -> tuple[str, str]:
    """The name of a spec, and its options as they stand.

    >>> parted("C:/photos/:part=1/5:draw=2")
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


def configure(cls: type, options: dict[str, Any], where: str) -> Any:
    """Build the frozen dataclass `cls` from plain options; an unknown key names the nearest field.

    A number, a truth value or a text where the field is of another of these is an InputError too.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Config:
    ...     width: int = 64
    >>> configure(Config, {"widht": 32}, "tower 'vit'")
    Traceback (most recent call last):
    diptych.errors.InputError: unknown option of tower 'vit' 'widht'; did you mean 'width'?
    """
    assert is_dataclass(cls)
    types = {item.name: item.type for item in fields(cls) if item.init}
    for key, value in options.items():
        if key not in types:
            raise unknown(f"option of {where}", key, types)
        if not _fits(value, types[key]):
            wanted = getattr(types[key], "__name__", types[key])  # unions have no name
            raise InputError(f"option {key!r} of {where} is {value!r}; it must be {wanted}")
    try:
        return cls(**options)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value may stand where a plain type or a union is wanted; other types are left to the class."""
    if isinstance(wanted, UnionType):
        return any(_fits(value, part) for part in get_args(wanted))
    if wanted in (int, float):
        return isinstance(value, int | wanted) and not isinstance(value, bool)
    return isinstance(value, wanted) if wanted in (bool, str, NoneType) else True


def several(kind: str, given: str | int, choices: Sequence[str], also: Sequence[str] = ()) -> tuple[str, ...]:
    """The values of an option that takes several, joined by `+`, in the order of `choices`; "all" is all of them.

    `also` are further words that the option takes, for the error's sake.

    >>> several("colour", "blue+red", ("red", "green", "blue"))
    ('red', 'blue')
    """
    asked = list(choices) if given == "all" else str(given).split("+")
    for name in asked:
        if name not in choices:
            raise unknown(kind, name, [*choices, *also, "all"])
    return tuple(name for name in choices if name in asked)
