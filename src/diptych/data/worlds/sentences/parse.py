"""A parser from sentences to meanings, which uses only the vocabulary and the order of words, not
the templates.

It serves to verify that paraphrases keep the meaning and that twins change it as intended.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from diptych.data.worlds.sentences.meaning import ADJUNCTS, Meaning
from diptych.data.worlds.sentences.words import AFTER, ASIDE, BEFORE, WORDINGS
from diptych.errors import InputError, unknown

_DENIALS = "doesn't isn't hasn't fails no nobody lacks"
_HOLLOW = (
    "a an the is are has have does been being be by to it who that what one there of for "
    "busy happens manages people every made"
)
_STANCES = {
    "right": "right entitled permission",
    "duty": "duty obligation task",
    "chance": "chance possible",
    "hope": "hope hopes long longs",
    "fear": "fear fears worry",
    "plan": "plan intention aim",
    "promise": "promised vow pledged",
    "wish": "wish desire urge",
}
"""The words that identify a stance once filler phrases are removed."""


def parse(text: str) -> Meaning:
    """Parse a sentence of this world, without typos and shuffles.

    Filler phrases are removed; each remaining word must state a slot or be a function word. An
    attribute belongs to the noun after it, to "someone" or "something" before it, or to the noun
    before "who is" or "that is". Raises InputError for a word or an order that no sentence has.

    >>> parse("By chance, it is a tiny drum that the old king hasn't washed at midday.")
    Meaning(agent='king', agent_attribute='old', action='wash', object='drum', object_attribute='small',
            stance=None, place=None, time='noon', recipient=None, negative=True)
    """
    words = re.findall(r"[\w']+", _without_phrases(text.lower()))
    said: list[tuple[int, str, str]] = []  # where, slot, value ("" for someone, something)
    at = 0
    while at < len(words):
        size, slot, value = _read(words, at)
        if slot:
            said.append((at, slot, value))
        at += size
    nouns = {where: slot for where, slot, _ in said if slot in ("agent", "object")}
    found: dict[str, str] = {}
    for where, slot, value in said:
        name = f"{_owner(words, where, nouns)}_attribute" if slot == "attribute" else slot
        if name in found:
            raise InputError(
                f"{text!r} says the {name} twice; a sentence of this world says it once"
            )
        found[name] = value
    negative = bool(found.pop("denial", ""))
    return Meaning(**{name: value for name, value in found.items() if value}, negative=negative)


def _without_phrases(text: str) -> str:
    """The text without filler phrases at its ends."""
    text = text.strip().removesuffix(".")
    for phrase in BEFORE:
        text = text.removeprefix(f"{phrase}, ")
    for phrase in ASIDE:
        text = text.removesuffix(f", {phrase}")
    for phrase in sorted(AFTER, key=len, reverse=True):
        text = text.removesuffix(f" {phrase}")
    return text


@lru_cache(maxsize=1)
def _vocabulary() -> dict[tuple[str, ...], tuple[str, str]]:
    """(slot, value) of each word and phrase; ("", "") for function words."""
    pairs: list[tuple[tuple[str, ...], tuple[str, str]]] = [
        ((word,), ("", "")) for word in _HOLLOW.split()
    ]
    pairs += [((word,), ("denial", word)) for word in _DENIALS.split()]
    pairs += [
        ((word,), ("stance", stance))
        for stance, words in _STANCES.items()
        for word in words.split()
    ]
    pairs += [(("someone",), ("agent", "")), (("something",), ("object", ""))]
    for slot, values in WORDINGS.items():
        for value, wordings in values.items():
            for wording in wordings:
                if slot in ADJUNCTS:
                    pairs.append((tuple(wording.split()), (slot, value)))
                elif slot != "stance":
                    pairs += [((form,), (slot, value)) for form in wording.split()]
    table = dict(pairs)
    assert len(table) == len(pairs), "a word of the vocabulary says two things"
    return table


def _read(words: Sequence[str], at: int) -> tuple[int, str, str]:
    """The longest match from `at`: its number of words, slot and value."""
    for size in range(4, 0, -1):
        if found := _vocabulary().get(tuple(words[at : at + size])):
            return size, *found
    raise unknown(
        "word of the world 'sentences'",
        words[at],
        [word for phrase in _vocabulary() for word in phrase],
    )


def _owner(words: Sequence[str], at: int, nouns: dict[int, str]) -> str:
    """The owner of the attribute at `at`: agent or object."""
    if at >= 3 and words[at - 1] == "is" and words[at - 2] in ("who", "that") and at - 3 in nouns:
        return nouns[at - 3]
    if at >= 1 and words[at - 1] in ("someone", "something"):
        return nouns[at - 1]
    if at + 1 in nouns:
        return nouns[at + 1]
    raise InputError(f"{' '.join(words)!r}: {words[at]!r} stands beside no noun")
