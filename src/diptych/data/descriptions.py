"""Sentences about classes, as a language model writes them, in a JSON file: {"cat": ["a cat has whiskers.", …], …}.

Files of synonyms have the same form: {"cat": ["house cat", "feline"], …}.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from diptych.errors import InputError, nearest

_FORM = '{"cat": ["a cat has whiskers.", …], …}'


def normal(name: str) -> str:
    """How names of classes are compared: in lower case, one blank for every gap.

    >>> normal("American_Bulldog")
    'american bulldog'
    """
    return " ".join(name.replace("_", " ").lower().split())


def read(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The sentences of each class, by its `normal` name. Raises InputError, with file and class, for another form."""
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); write {_FORM}") from error
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: no sentences of classes; write {_FORM}")
    sentences: dict[str, tuple[str, ...]] = {}
    for name, given in found.items():
        if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
            raise InputError(f"{path}: the class {name!r} has no list of sentences; write {_FORM}")
        if normal(name) in sentences:
            raise InputError(f"{path}: the class {name!r} stands there twice; put its sentences into one list")
        sentences[normal(name)] = tuple(text.strip() for text in given)
    return sentences


def of_classes(path: str | Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The sentences of these classes, in their order. Raises InputError for a class that the file has not."""
    found = read(path)
    for name in names:
        if normal(name) not in found:
            close = nearest(normal(name), found)
            hint = f"; it has {close!r}" if close else ""
            raise InputError(f"{path}: there is no class {name!r}{hint}; add it, with [] where there is nothing to say")
    return tuple(found[normal(name)] for name in names)
