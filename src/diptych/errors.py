"""The one exception that tells a user what to change.

Everything a user can get wrong (a file, a name, an option, a shape) raises `InputError`, a
`ValueError` whose message names the thing, the place and the remedy. The command line prints it as
one line and exits with code 2; any other exception is a defect of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: the message is one line, written for the person who gave the input."""


@contextmanager
def located(place: str) -> Iterator[None]:
    """Put the place in front of an error for users that something within tells without it.

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
    """The choice spelt most like `name`, or None where nothing is close.

    >>> nearest("cilp", ["clip", "siglip"])
    'clip'
    """
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[close[0]] if close else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """The error for a name that does not exist: shows the nearest one, or all of them where there
    are few.

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
    """At most three names, and how many more there are.

    >>> some("abcde")
    'a, b, c and 2 more'
    """
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def brief(error: BaseException | str, length: int = 120) -> str:
    """What another library's error says, or a text of the user's, on one line and cut short, to be
    quoted in ours.

    >>> brief(OSError("no\\n  network"))
    'no network'
    """
    return " ".join(str(error).split())[:length]


def shortened(text: str, length: int = 60) -> str:
    """A text of the user's on one line, its middle left out where it is long: names may differ at
    their ends.

    >>> shortened("very " * 30 + "red cat", 24)
    'very very v…very red cat'
    """
    text = " ".join(text.split())
    half = (length - 1) // 2
    return (
        text if len(text) <= length else f"{text[:half]}…{text[len(text) - (length - 1 - half) :]}"
    )
