"""Descriptions of classes: banks of texts, each of which belongs to a class by the class's name.

    bank.json                               {"laysan albatross": ["a white bird with dark wings", …], …}
    generate(names, describe)               what any callable says of each name: a language model, a person, a template
    'a photo of a {}.', pictures, FILE.txt  templates (`data.templates`), which say the same of all classes

A bank is a dict of a name and its different texts, in order. Names in files come with line breaks at their ends and
with dashes in place of blanks; they are compared by their words, whatever the case. Synonyms of classes, or texts
of pictures by their files, have the same form.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.sources.records import json_of
from diptych.data.templates import templates
from diptych.errors import InputError, nearest
from diptych.files import write_atomic

Bank = Mapping[str, Sequence[str]]
"""Texts by name."""
Describe = Callable[[str], Iterable[str]]
"""What says something of a class, by its name."""

FORM = '{"class": ["a text", …], …}'


def plain(name: str) -> str:
    """A name in words: without blanks around, blanks in place of dashes and underscores.

    >>> plain("black-footed_albatross\\n")
    'black footed albatross'
    """
    return " ".join(name.replace("-", " ").replace("_", " ").split())


def read(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The bank in a JSON file {name: [text, …], …}: names as `plain` has them, no text of a name twice.

    Raises InputError, which names the file and the class, for another form, a class without a text, an empty text, and
    two names that say the same.
    """
    found: dict[str, tuple[str, ...]] = {}
    seen: dict[str, str] = {}
    for name, texts in read_lists(path).items():
        if (before := seen.setdefault(plain(name).casefold(), name)) != name:
            raise InputError(f"{path}: the classes {before!r} and {name!r} have one name; join their texts")
        found[plain(name)] = texts
    return found


def read_lists(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The texts of a JSON file {key: [text, …], …} with the keys as they stand; raises as `read` does."""
    given = json_of(Path(path))
    if not isinstance(given, dict) or not given:
        raise InputError(f"{path}: no lists of texts; write {FORM}")
    return {key: _checked(texts, f"{key!r} of {path}") for key, texts in given.items()}


def _checked(given: Any, where: str) -> tuple[str, ...]:
    """Different texts without blanks around; else InputError, which says `where` they stand."""
    texts = list(given) if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else None
    if texts is None:
        raise InputError(f"{where}: {given!r} is no list of texts; write {FORM}")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: text {number} is {text!r}; write a text there, or take it out")
    if not texts:
        raise InputError(f"{where}: there is no text; give at least one")
    return tuple(dict.fromkeys(text.strip() for text in texts))


def write(path: str | Path, bank: Bank) -> None:
    """Write a bank where `read` finds it."""
    text = json.dumps({name: list(texts) for name, texts in bank.items()}, indent=1, ensure_ascii=False) + "\n"
    write_atomic(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def generate(names: Iterable[str], describe: Describe) -> dict[str, tuple[str, ...]]:
    """The bank of what a callable says of each name: one call a name, in order.

    Raises InputError, which names the class, where it says nothing or what is no text.

    >>> generate(["owl"], lambda name: [f"a grey {name}", f"a young {name}", f"a grey {name}"])
    {'owl': ('a grey owl', 'a young owl')}
    """
    return {name: _checked(describe(name), f"what was said of the class {name!r}") for name in names}


def templated(spec: str) -> Describe:
    """What says of every class the same: `templates` (see there) with its name filled in.

    >>> templated("a male {} | a female {}")("finch")
    ('a male finch', 'a female finch')
    """
    forms = templates(spec)
    return lambda name: tuple(form.replace("{}", name) for form in forms)


def describe(spec: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts of each class: of a bank's file (`.json`), or of templates.

    Raises InputError for a bank that lacks one of the classes, and as `read` and `templates` do.

    >>> describe("a {}, seen from above", ["key"])
    [('a key, seen from above',)]
    """
    if not spec.lower().endswith(".json"):
        return list(generate(names, templated(spec)).values())
    return of_classes(read(spec), names, spec)


def of_classes(bank: Bank, names: Sequence[str], where: str) -> list[tuple[str, ...]]:
    """The texts of each of some classes, found by the words of their names; `where` says whose bank it is.

    Raises InputError, with the classes that the bank lacks.

    >>> of_classes({"black footed albatross": ["a dark bird"]}, ["Black-footed Albatross"], "birds.json")
    [('a dark bird',)]
    """
    known = {plain(name).casefold(): tuple(texts) for name, texts in bank.items()}
    missing = [name for name in names if plain(name).casefold() not in known]
    if missing:
        near = nearest(plain(missing[0]), known)
        hint = f" (the nearest that it has is {near!r})" if near else ""
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{where} has no texts of the class {missing[0]!r}{hint}{more}; add them")
    return [known[plain(name).casefold()] for name in names]


def shorten(bank: Bank, summarise: Callable[[str], str]) -> dict[str, str]:
    """Each text of a bank and what a callable makes of it: a language model's summary, say, that fits a text tower.

    Raises InputError, which names the class, where it gives none.

    >>> shorten({"owl": ["There is a grey owl"]}, lambda text: text.removeprefix("There is "))
    {'There is a grey owl': 'a grey owl'}
    """
    return {
        text: _checked([summarise(text)], f"the summary of a text of the class {name!r}")[0]
        for name, texts in bank.items()
        for text in texts
    }


def read_summaries(path: str | Path) -> dict[str, str]:
    """The summaries in a JSON file {text: summary, …}, what `shorten` gives. Raises InputError for another form."""
    given = json_of(Path(path))
    if not isinstance(given, dict) or not all(isinstance(short, str) and short.strip() for short in given.values()):
        raise InputError(f'{path}: no summaries; write {{"a long text": "a short one", …}}')
    return {text.strip(): short.strip() for text, short in given.items()}
