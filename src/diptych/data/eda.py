"""Noise of texts: easy data augmentation (Wei and Zou, 2019), typos by kind, and words in another
order.

    without_stop_words   the text without articles, pronouns, prepositions and the like ("not" among them)
    varied               one random operation: synonyms .4, a swap of two words .4, deletion .2
    misspell             typos: letters swapped, dropped, doubled, replaced by a neighbouring key or a look-alike
    reordered            words moved: anywhere, in windows of three, or two neighbours

A text that would become empty is not changed. Synonyms come from a table from words to words
(`synonyms`): common words of captions, listed here, those of an installed WordNet, or those of a
file.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

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


# ---- typos and orders

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LOOKS = {"o": "0", "l": "1", "i": "1", "e": "3", "s": "5", "b": "6", "t": "7"}


def _beside(letter: str) -> str:
    """The neighbouring keys of a Latin letter, in its case; none of another letter."""
    for row in _ROWS:
        at = row.find(letter.lower())
        if at >= 0:
            keys = row[max(0, at - 1) : at] + row[at + 1 : at + 2]
            return keys if letter.islower() else keys.upper()
    return ""


def _swap(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :] if at + 2 < len(word) else word


def _drop(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at + 1 :]


def _double(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + word[at] + word[at:]


def _neighbour(word: str, at: int, rng: np.random.Generator) -> str:
    keys = _beside(word[at])
    if not keys:
        return word
    return word[:at] + keys[int(rng.integers(len(keys)))] + word[at + 1 :]


def _lookalike(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + _LOOKS.get(word[at], word[at]) + word[at + 1 :]


def _split(word: str, at: int, rng: np.random.Generator) -> str:
    return word[:at] + " " + word[at:]


_TYPOS: dict[str, Callable[[str, int, np.random.Generator], str]] = {
    "swap": _swap,
    "drop": _drop,
    "double": _double,
    "neighbour": _neighbour,
    "lookalike": _lookalike,
    "split": _split,
}
TYPOS = tuple(_TYPOS)
"""swap, drop or double a letter; a neighbouring key; a similar character (o, 0); a space inside the
word."""

ORDERS = ("all", "window", "pair")
"""How far words move: anywhere, within three consecutive words, or two neighbours that change
places."""


def misspell(
    text: str, kinds: Sequence[str], rate: float, rng: np.random.Generator, least: int = 1
) -> str:
    """The text with a typo in each word of 4 letters or more with probability `rate`, and in at
    least `least` (0 or 1) of them.

    First and last letters are kept. The kind is drawn for each word from those of `kinds` that
    change it. A text without such words is returned as it is.

    >>> from diptych.rng import generator
    >>> misspell("The old king carries a drum.", ["double"], 0.0, generator(0))
    'The old king carriees a drum.'
    """
    pieces = re.split(r"((?:[^\W\d_]|')+)", text)
    long = [at for at in range(1, len(pieces), 2) if len(pieces[at]) >= 4 and pieces[at].isalpha()]
    chosen = [at for at in long if rng.random() < rate]
    if not chosen and long and least:
        chosen = [long[int(rng.integers(len(long)))]]
    for at in chosen:
        for kind in rng.permutation(list(kinds)).tolist():
            if changed := _changes(pieces[at], kind, rng):
                pieces[at] = changed[int(rng.integers(len(changed)))]
                break
    return "".join(pieces)


def _changes(word: str, kind: str, rng: np.random.Generator) -> list[str]:
    """The words that a kind of typo can make, in order of position."""
    made = (_TYPOS[kind](word, at, rng) for at in range(1, len(word) - 1))
    return [other for other in made if other != word]


def reordered(words: Sequence[str], reach: str, rng: np.random.Generator) -> list[str]:
    """The words in another order: all of them ("all"), in windows of three ("window"), or with two
    neighbours exchanged ("pair").

    Words of which no other order can be made are returned as they are.

    >>> from diptych.rng import generator
    >>> reordered("the old king carries a drum".split(), "pair", generator(0))
    ['the', 'old', 'king', 'a', 'carries', 'drum']
    """
    words = list(words)
    if reach == "pair":
        differ = [at for at in range(len(words) - 1) if words[at] != words[at + 1]]
        if differ:
            at = differ[int(rng.integers(len(differ)))]
            words[at], words[at + 1] = words[at + 1], words[at]
        return words
    size = max(1, len(words)) if reach == "all" else 3
    starts = range(0, len(words), size)
    if all(len(set(words[start : start + size])) < 2 for start in starts):
        return words
    order = list(range(len(words)))
    while [words[at] for at in order] == words:
        parts = (rng.permutation(range(start, min(start + size, len(words)))) for start in starts)
        order = [int(at) for part in parts for at in part]
    return [words[at] for at in order]
