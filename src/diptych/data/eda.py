"""Easy data augmentation of texts (Wei and Zou, 2019): removal of stop words, and replacement, swap
or deletion of words. Typos and words in another order are in `typos`.

    without_stop_words   the text without articles, pronouns, prepositions and the like ("not" among them)
    varied               one random operation: synonyms .4, a swap of two words .4, deletion .2
    changed              one operation that is named: repetition, deletion, synonyms

A text that would become empty is not changed. Synonyms come from a table from words to words
(`synonyms`): common words of captions, listed here, those of an installed WordNet, or those of a
file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from diptych.errors import InputError

_WORDS = """
a an the this that these those some any each every either neither both all such own same other another i me my
mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
it its itself they them their theirs themselves who whom whose which what am is are was were be been being have
has had having do does did doing will would shall should can could may might must about above across after
against along among around as at before behind below beneath beside between beyond by down during for from in
inside into near of off on onto out outside over past through to toward towards under until up upon with within
without and but or nor so yet if because while than then though although whether again also ever here how just
more most no not now once only quite rather there too very when where why few s t d m o re ve ll y don isn aren
wasn weren hasn haven hadn doesn didn won wouldn shouldn couldn mustn
"""
STOP_WORDS = frozenset(_WORDS.split())
"""Function words of English."""

COMMON = """
big large huge / small little tiny / striped stripy banded / dotted spotted speckled /
checked chequered checkered / plain solid unpatterned / man guy gentleman / woman lady / child kid youngster /
children kids youngsters / boy lad / girl lass / baby infant / person individual / people folks persons /
crowd throng / friend pal / photo photograph picture image / drawing sketch / painting artwork / car automobile
/ bike bicycle / motorbike motorcycle / plane airplane aeroplane aircraft / boat vessel / ship vessel /
truck lorry / street road / path trail track / shop store / house home / couch sofa / cup mug / phone telephone
/ television tv / movie film / stone rock / hill mound / sea ocean / forest woods woodland / field meadow /
garden yard / sand beach / grass lawn / lake pond / cat feline / dog hound / puppy pup / rabbit bunny /
horse steed / flower blossom bloom / bird fowl / food meal / dinner supper / sweet sugary / cake gateau /
hat cap / coat jacket / trousers pants / shoes footwear / glasses spectacles / purple violet / turquoise teal /
grey gray / golden gilded / bright vivid / dark dim / old aged ancient / new recent / young youthful /
happy glad cheerful / sad unhappy / angry cross / pretty beautiful lovely / ugly unsightly / quick fast rapid /
slow sluggish / tall high / wide broad / thin slim slender / fat plump / empty vacant / full filled / wet damp /
dry arid / clean spotless / dirty filthy / near close / far distant / top upper / bottom lower /
middle centre center / front fore / back rear / holding carrying / sitting seated / standing upright /
walking strolling / running sprinting / jumping leaping / looking gazing / smiling grinning / eating munching /
riding mounted / throwing tossing
"""
"""Groups of interchangeable words of captions, separated by slashes."""

_MARKS = ".,;:!?()'" + '"'

Synonyms = Mapping[str, Sequence[str]]
Kind = Literal["repetition", "deletion", "synonym"]


def without_stop_words(text: str) -> str:
    """The text without its stop words, or the text itself if nothing would be left.

    >>> without_stop_words("There is a red cat on the mat"), without_stop_words("to be or not to be")
    ('red cat mat', 'to be or not to be')
    """
    kept = [word for word in text.split() if word.strip(_MARKS).lower() not in STOP_WORDS]
    return " ".join(kept) or text


def varied(text: str, rng: np.random.Generator, table: Synonyms, *, share: float = 0.1) -> str:
    """The text after one random operation.

    A share `share` of the words, at least one, is replaced or swapped; or each word is deleted with
    that probability.

    >>> varied("a large cat", np.random.default_rng(0), {"large": ("big",)})
    'large a cat'
    """
    words = text.split()
    if not words:
        return text
    at = rng.uniform()
    operation: Callable = _replaced if at < 0.4 else _swapped if at < 0.8 else _deleted
    return " ".join(operation(words, rng, table, share)) or text


def changed(
    text: str, kind: Kind, rng: np.random.Generator, table: Synonyms, *, share: float = 0.1
) -> str:
    """The text after one operation of a kind.

    `synonym` replaces and `deletion` deletes as in `varied`; `repetition` says a share of the words
    twice, at least one (Wu et al., 2021).

    >>> changed("a large cat", "repetition", np.random.default_rng(0), {})
    'a large cat cat'
    """
    words = text.split()
    if not words:
        return text
    operation: Callable = {"repetition": _repeated, "deletion": _deleted, "synonym": _replaced}[
        kind
    ]
    return " ".join(operation(words, rng, table, share))


def _repeated(
    words: list[str], rng: np.random.Generator, table: Synonyms, share: float
) -> list[str]:
    count = max(1, int(share * len(words)))
    twice = set(rng.choice(len(words), count, replace=False).tolist())
    return [word for at, word in enumerate(words) for _ in range(1 + (at in twice))]


def _replaced(
    words: list[str], rng: np.random.Generator, table: Synonyms, share: float
) -> list[str]:
    """Replace words that have synonyms; all occurrences of a word get the same synonym."""
    words, most = list(words), max(1, int(share * len(words)))
    known = list(dict.fromkeys(word for word in words if table.get(word.lower())))
    for word in [known[at] for at in rng.permutation(len(known))[:most]]:
        options = table[word.lower()]
        other = options[int(rng.integers(len(options)))]
        words = [other if each == word else each for each in words]
    return words


def _swapped(
    words: list[str], rng: np.random.Generator, table: Synonyms, share: float
) -> list[str]:
    words = list(words)
    if len(words) > 1:
        for _ in range(max(1, int(share * len(words)))):
            a, b = rng.choice(len(words), 2, replace=False)
            words[a], words[b] = words[b], words[a]
    return words


def _deleted(
    words: list[str], rng: np.random.Generator, table: Synonyms, share: float
) -> list[str]:
    """Delete each word with probability `share`; if none is left, keep one at random."""
    if len(words) == 1:
        return words
    kept = [
        word for word, at in zip(words, rng.uniform(size=len(words)), strict=True) if at >= share
    ]
    return kept or [words[int(rng.integers(len(words)))]]


@lru_cache(maxsize=8)
def synonyms(source: str) -> Synonyms:
    """The table of synonyms of a name: "none", "common", "wordnet" (or "wordnet:FOLDER"), or a JSON
    file.

    The file holds lists of interchangeable words.

    Raises InputError if there is no such table.

    >>> synonyms("common")["big"]
    ('huge', 'large')
    """
    if source == "none":
        return {}
    if source == "common":
        return _table([group.split() for group in COMMON.split("/")])
    if source.partition(":")[0] == "wordnet":
        from diptych.data.sources import open_source

        found = open_source(source)
        return _table([found[at].captions("word") for at in range(len(found))])
    try:
        groups = json.loads(Path(source).read_text("utf-8"))
        return _table([[str(word) for word in group] for group in groups])
    except FileNotFoundError:
        known = "none, common, wordnet or a JSON file"
        raise InputError(f"there is no table of synonyms {source!r}; name {known}") from None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{source} is no table of synonyms ({error}); write a JSON list of lists of words"
        ) from None


def _table(groups: Sequence[Sequence[str]]) -> Synonyms:
    found: dict[str, set[str]] = {}
    for group in groups:
        for word in group:
            found.setdefault(word.lower(), set()).update(
                other for other in group if other.lower() != word.lower()
            )
    return {word: tuple(sorted(others)) for word, others in found.items() if others}
