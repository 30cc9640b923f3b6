"""`InputError`, the exception for all errors that a user can fix.

Everything a user can get wrong (a file, a name, an option, a shape) raises `InputError`, a
`ValueError` whose message names the problem, the place and the remedy. The command line prints it
on one line and exits with code 2. Any other exception is a bug in diptych and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input. The message is one line that addresses the user."""


class Missing(InputError, AttributeError):
    """An attribute that this kind of model lacks; `hasattr` returns False."""


@contextmanager
def located(place: str) -> Iterator[None]:
    """Context that puts `place` in front of an InputError's message.

    >>> with located("pets/"):
    ...     raise InputError("two classes are called 'cat'; give each a name of its own")
    Traceback (most recent call last):
    diptych.errors.InputError: pets/: two classes are called 'cat'; give each a name of its own
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice with the most similar spelling to `name`, or None if none is close.

    >>> nearest("cilp", ["clip", "siglip"])
    'clip'
    """
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[close[0]] if close else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """The error for an unknown name: it suggests the nearest choice, or lists up to twelve choices
    if none is close.

    >>> print(unknown("method", "cilp", ["clip", "siglip"]))
    unknown method 'cilp'; did you mean 'clip'?
    """
    choices = sorted(choices)
    close = nearest(name, choices)
    if close:
        return InputError(f"unknown {kind} {name!r}; did you mean {close!r}?")
    listed = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return InputError(f"unknown {kind} {name!r}; there are: {listed or 'none'}")


def some(names: Iterable[str]) -> str:
    """At most three names, and the number of the others.

    >>> some("abcde")
    'a, b, c and 2 more'
    """
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def brief(error: BaseException | str, length: int = 120) -> str:
    """The message of another library's error, or a user's text, on one line and truncated, to quote
    it.

    >>> brief(OSError("no\\n  network"))
    'no network'
    """
    return " ".join(str(error).split())[:length]


def shortened(text: str, length: int = 60) -> str:
    """A user's text on one line; the middle of a long text is left out, since names may differ at
    their ends.

    >>> shortened("very " * 30 + "red cat", 24)
    'very very v…very red cat'
    """
    text = " ".join(text.split())
    half = (length - 1) // 2
    return (
        text if len(text) <= length else f"{text[:half]}…{text[len(text) - (length - 1 - half) :]}"
    )
