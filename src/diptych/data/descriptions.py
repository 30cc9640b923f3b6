"""Texts about classes, written by a language model or a person, in a JSON file {"cat": ["it has
whiskers.", …], …}.

Files of synonyms have the same form, {"cat": ["house cat", "feline"], …}, and so do files of texts
of images, by their keys. Names may have trailing line breaks, dashes and any case; they are
compared by their words (`normal`).

    generate(names, say)       texts of any callable for each name: a language model, a person, a template
    templated("a young {}")    such a callable, by templates (`data.templates`) that are the same for all classes
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.templates import filled, templates, written
from diptych.errors import InputError, nearest
from diptych.files import write_atomic

Say = Callable[[str], Iterable[str]]
"""A callable that returns texts about a class, given its name."""

_FORM = '{"cat": ["a cat has whiskers.", …], …}'


def normal(name: str) -> str:
    """The form in which class names are compared: lower case, words separated by single spaces.

    >>> normal("American_Bulldog"), normal("black-footed-albatross\\n")
    ('american bulldog', 'black footed albatross')
    """
    return written(name.replace("-", " ")).lower()


def read(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The different sentences of each class, by its `normal` name.

    Raises InputError with file and class for a file of another form.
    """
    sentences: dict[str, tuple[str, ...]] = {}
    for name, given in read_lists(path).items():
        if normal(name) in sentences:
            raise InputError(
                f"{path}: the class {name!r} stands there twice; put its sentences into one list"
            )
        sentences[normal(name)] = given
    return sentences


def read_lists(path: str | Path, what: str = "class") -> dict[str, tuple[str, ...]]:
    """The different texts of each class, or of each `what`, by its name in the file. Errors as in
    `read`."""
    found = _json(path)
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: no sentences by {what}; write {_FORM}")
    return {name: _checked(given, f"{path}: the {what} {name!r}") for name, given in found.items()}


def _json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); write {_FORM}") from error


def _checked(given: Any, whose: str) -> tuple[str, ...]:
    """The different texts, stripped; InputError for anything but a list of non-empty texts."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InputError(f"{whose} has no list of sentences but {given!r}; write {_FORM}")
    texts = list(given)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{whose} has no list of sentences: number {number} is {text!r}; write {_FORM}"
            )
    return tuple(dict.fromkeys(text.strip() for text in texts))


def of_classes(path: str | Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The sentences of some classes, in order. Raises InputError for a class that the file
    lacks."""
    found = read(path)
    for name in names:
        if normal(name) not in found:
            close = nearest(normal(name), found)
            hint = f"; it has {close!r}" if close else ""
            raise InputError(
                f"{path}: there is no class {name!r}{hint}; add it, with [] where there is nothing to say"
            )
    return tuple(found[normal(name)] for name in names)


def generate(names: Iterable[str], say: Say) -> dict[str, tuple[str, ...]]:
    """The texts that a callable returns for each name, in order; `write` saves them to a file.

    Raises InputError with the class if the callable returns anything but texts.

    >>> generate(["owl"], lambda name: [f"a grey {name}", f"a young {name}", f"a grey {name}"])
    {'owl': ('a grey owl', 'a young owl')}
    """
    return {name: _checked(say(name), f"what was said of the class {name!r}") for name in names}


def templated(spec: str) -> Say:
    """A callable that fills a class name into `templates`.

    >>> templated("a male {} | a female {}")("finch")
    ('a male finch', 'a female finch')
    """
    forms = templates(spec)
    return lambda name: tuple(filled(form, name) for form in forms)


def bank(spec: str, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The texts of some classes, at least one each, from a file (`.json`) or from templates.

    Raises InputError for a class without a text; other errors as in `of_classes` and `templates`.

    >>> bank("a {}, seen from above", ["key"])
    (('a key, seen from above',),)
    """
    if not spec.lower().endswith(".json"):
        return tuple(generate(names, templated(spec)).values())
    found = of_classes(spec, names)
    for name, texts in zip(names, found, strict=True):
        if not texts:
            raise InputError(f"{spec}: the class {name!r} has no sentence; write at least one")
    return found


def write(path: str | Path, texts: Mapping[str, Sequence[str]]) -> None:
    """Write texts by name to a file for `read`."""
    plain = (
        json.dumps(
            {name: list(given) for name, given in texts.items()}, indent=1, ensure_ascii=False
        )
        + "\n"
    )
    write_atomic(
        Path(path).expanduser(), lambda temporary: temporary.write_text(plain, encoding="utf-8")
    )


def shorten(texts: Mapping[str, Sequence[str]], summarise: Callable[[str], str]) -> dict[str, str]:
    """Map each text of some classes to its summary by a callable, such as a language model.

    Raises InputError with the class if the callable returns no text.

    >>> shorten({"owl": ["There is a grey owl"]}, lambda text: text.removeprefix("There is "))
    {'There is a grey owl': 'a grey owl'}
    """
    return {
        text: _checked([summarise(text)], f"the summary of a text of the class {name!r}")[0]
        for name, given in texts.items()
        for text in given
    }


def read_summaries(path: str | Path) -> dict[str, str]:
    """Read the result of `shorten` from a JSON file {text: short text, …}. Raises InputError for
    another form."""
    found = _json(path)
    if not isinstance(found, dict) or not all(
        isinstance(short, str) and short.strip() for short in found.values()
    ):
        raise InputError(f'{path}: no summaries; write {{"a long text": "a short one", …}}')
    return {text.strip(): short.strip() for text, short in found.items()}
